//! What went wrong in building a sandbox, with the step that it went wrong in.

use std::io;

use crate::sys::Fault;

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct JailError {
    step: String,
    source: io::Error,
}

/// `Result` with the step that failed.
pub(crate) type Jail<T> = Result<T, JailError>;

impl JailError {
    /// An error of a step.
    pub fn new(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { step: step.into(), source: source.into() }
    }
}

/// Names the step of a result.
pub(crate) trait Step<T> {
    /// Turns the error into one of `step`.
    fn step(self, step: &str) -> Jail<T>;
    /// The same, with a step that is put together on failure only.
    fn step_with(self, step: impl FnOnce() -> String) -> Jail<T>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Jail<T> {
        self.map_err(|error| JailError::new(step, error))
    }

    fn step_with(self, step: impl FnOnce() -> String) -> Jail<T> {
        self.map_err(|error| JailError::new(step(), error))
    }
}

impl From<Fault> for JailError {
    fn from(fault: Fault) -> Self {
        Self::new(fault.call, io::Error::from_raw_os_error(fault.errno))
    }
}
