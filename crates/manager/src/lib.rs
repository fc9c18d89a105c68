//! The sandbox client layer: one `execute` for every provider.
//!
//! ```text
//! execute -> gate -> admission (a place, or the queue) -> task: take or create -> execute -> destroy
//!               refused      Busy, Unavailable, Cancelled    ^               |-> events to the caller
//!                                                            pool (ready sandboxes)
//! ```
//!
//! The run lives in a task of its own, so that `destroy` happens however the caller behaves: a
//! caller who drops the stream cancels the run, and its place is given back only when the sandbox
//! is gone. How a program ended is in the events; an [`ampoule_core::Error`] means that *we* failed.
#![forbid(unsafe_code)]

mod admission;
mod artifacts;
mod execution;
mod lifecycle;
mod manager;
mod pool;
mod summary;

pub use artifacts::{is_safe_name, shown_name};
pub use execution::{Execution, Panicked};
pub use manager::{Load, Manager, ManagerConfig, new_execution_id};
pub use pool::{KindLoad, PoolConfig, PoolLoad, PoolUse};
pub use summary::summary;
