//! Our own failures. How a user's program ended is never one of them.

use std::fmt;

/// `Result` with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong; asking again will not help.
    InvalidRequest,
    /// The provider does not do this, here and now.
    Unsupported,
    /// Every place is taken and the queue is full or its deadline passed.
    Busy,
    /// The request was withdrawn before anything ran.
    Cancelled,
    /// The back-end is not there, or shutting down.
    Unavailable,
    /// Set up wrongly; the operator must mend it.
    Config,
    /// Anything else that is our fault.
    Internal,
}

impl ErrorKind {
    /// The kind as a stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unsupported => "unsupported",
            Self::Busy => "busy",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Config => "config",
            Self::Internal => "internal",
        }
    }
}

/// A failure of ours: what kind, during what, and whether the program may already have started.
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    message: String,
    started: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` during `operation`; the message is a fragment that fits after
    /// "failed to {operation}:".
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self { kind, operation, message: message.into(), started: false, source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says that the program may have started, so that nobody runs it twice unknowingly.
    #[must_use]
    pub fn after_start(mut self) -> Self {
        self.started = true;
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What we were doing.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The message alone, fit for a client: no paths, no internals.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the program may have started.
    pub fn program_may_have_started(&self) -> bool {
        self.started
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        !self.started && matches!(self.kind, ErrorKind::Busy | ErrorKind::Unavailable)
    }

    /// The whole chain on one line, for the log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "failed to {}: {}", self.operation, self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Error")
            .field("kind", &self.kind)
            .field("operation", &self.operation)
            .field("message", &self.message)
            .field("started", &self.started)
            .field("source", &self.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
