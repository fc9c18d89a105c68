//! What the tests of Ampoule share, and the [`conformance`] suite that every provider runs.
#![forbid(unsafe_code)]

pub mod conformance;
mod harness;
mod oracle;

pub use harness::{Failure, Outcome, Suite, skip};
pub use oracle::{children_of, eventually, is_gone, processes_with, unique_word};
