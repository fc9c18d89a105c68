//! The back-ends of Ampoule behind one contract.
#![forbid(unsafe_code)]

pub mod gate;
pub mod memory;
pub mod native;
pub mod runtimes;
