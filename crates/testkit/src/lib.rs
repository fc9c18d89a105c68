//! What the tests of Ampoule share.
#![forbid(unsafe_code)]

mod harness;
mod oracle;

pub use harness::{Failure, Outcome, Suite, skip};
pub use oracle::{children_of, eventually, is_gone, processes_with, unique_word};
