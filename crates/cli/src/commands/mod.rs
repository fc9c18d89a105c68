//! The commands.

pub(crate) mod add_runtime;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod run;
pub(crate) mod runtimes;
pub(crate) mod serve;
