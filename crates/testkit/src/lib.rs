//! What the tests of Ampoule share.
#![forbid(unsafe_code)]

mod harness;

pub use harness::{Failure, Outcome, Suite, skip};
