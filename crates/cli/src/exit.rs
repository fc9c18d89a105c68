//! The exit codes.

use std::fmt::Write;

use ampoule_core::{Error, ErrorKind, Outcome};

/// What the exit code of `ampoule` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// `main` returned, or the command did what it was told.
    Success,
    /// The program failed by its own doing.
    ProgramFailed,
    /// The command line, its input or the configuration is wrong.
    Usage,
    /// A limit ended the program.
    LimitExceeded,
    /// The sandbox refused an act, and the program failed.
    Denied,
    /// The platform failed; nothing is said about the program.
    PlatformFailed,
    /// The run was cancelled.
    Cancelled,
}

impl ExitCode {
    /// Every code there is.
    pub const ALL: [Self; 7] = [
        Self::Success,
        Self::ProgramFailed,
        Self::Usage,
        Self::LimitExceeded,
        Self::Denied,
        Self::PlatformFailed,
        Self::Cancelled,
    ];

    /// The number.
    pub fn number(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::ProgramFailed => 1,
            Self::Usage => 2,
            Self::LimitExceeded => 3,
            Self::Denied => 4,
            Self::PlatformFailed => 5,
            Self::Cancelled => 130,
        }
    }

    /// What it says, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Success => "main returned",
            Self::ProgramFailed => "the program failed",
            Self::Usage => "bad usage, input or configuration",
            Self::LimitExceeded => "a limit ended the program",
            Self::Denied => "the sandbox refused an act",
            Self::PlatformFailed => "the platform failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The table of codes for `--help`.
    pub(crate) fn help() -> String {
        let mut text = "Exit codes:\n".to_owned();
        for code in Self::ALL {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {:>3}  {}", code.number(), code.meaning());
        }
        text
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

impl From<&Outcome> for ExitCode {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded => Self::Success,
            Outcome::Failed { .. } => Self::ProgramFailed,
            Outcome::LimitExceeded { .. } => Self::LimitExceeded,
            Outcome::Denied { .. } => Self::Denied,
            Outcome::Cancelled => Self::Cancelled,
        }
    }
}

impl From<&Error> for ExitCode {
    fn from(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidRequest | ErrorKind::Unsupported | ErrorKind::Config => Self::Usage,
            ErrorKind::Cancelled => Self::Cancelled,
            _ => Self::PlatformFailed,
        }
    }
}

/// Why a command did not do what it was told.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: ExitCode,
    pub(crate) message: String,
}

impl Failure {
    /// The user's to mend.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: ExitCode::Usage, message: message.into() }
    }

    /// Ours, or the machine's.
    pub(crate) fn platform(message: impl Into<String>) -> Self {
        Self { code: ExitCode::PlatformFailed, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { code: ExitCode::from(&error), message: error.chain() }
    }
}
