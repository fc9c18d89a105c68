//! What went wrong in building a sandbox, with the step that it went wrong in.

use std::io;

use rustix::io::Errno;

use crate::sys::Fault;

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct JailError {
    step: String,
    text: String,
    cause: io::Error,
}

/// `Result` with the step that failed.
pub(crate) type Jail<T> = Result<T, JailError>;

impl JailError {
    /// An error of a step.
    pub fn new(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let (step, cause) = (step.into(), source.into());
        let text = format!("{step}: {cause}");
        Self { step, text, cause }
    }

    /// The same error, with what stood in the way in front and the fix behind.
    pub(crate) fn because(mut self, what: impl std::fmt::Display, fix: &str) -> Self {
        self.text = format!("{what} ({}: {}); hint: {fix}", self.step, self.cause);
        self
    }

    /// The same error, of a larger step.
    pub(crate) fn in_step(self, step: &str) -> Self {
        Self::new(step, self.cause)
    }

    /// What was done.
    pub(crate) fn step(&self) -> &str {
        &self.step
    }

    /// The kernel's error, if it was one.
    pub(crate) fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.cause)
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
