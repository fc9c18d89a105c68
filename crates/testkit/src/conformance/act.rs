//! What the suite lets programs do, and who writes programs that do it.

use std::fmt::Debug;

use ampoule_core::Language;
use serde::{Deserialize, Serialize};

/// One thing that a program does. A program is a list of them, done in order inside `main`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Writes text to stdout, at once.
    Stdout(String),
    /// Writes text to stderr, at once.
    Stderr(String),
    /// Writes these bytes to stdout in one piece.
    Bytes(Vec<u8>),
    /// Does nothing for so many milliseconds.
    Pause(u64),
    /// Does nothing for ever.
    Hang,
    /// Returns this JSON from `main`.
    Return(String),
    /// Returns the arguments from `main`.
    ReturnArguments,
    /// Ends with an uncaught error that has this message.
    Raise(String),
    /// Ends the process with this exit code, without a value.
    Exit(i32),
    /// Sends its own process this signal.
    Kill(i32),
    /// Leaves a file in `artifacts/`: name and text.
    Artifact(String, String),
    /// Takes memory until it is stopped.
    Allocate,
    /// Lets the interpreter write this text to stdout when it ends.
    AtExit(String),
    /// Writes these bytes to every open descriptor from 3 on.
    Descriptors(Vec<u8>),
    /// Starts a process that outlives its parent, ignores TERM and has this word among its arguments.
    Child(String),
    /// Leaves this word wherever it can: files in all scratch space, environment, modules, names of
    /// sockets, a port on the loopback, locks.
    LeaveTraces(String),
    /// Returns the list of places where [`Act::LeaveTraces`] of this word can be noticed.
    ReturnTraces(String),
    /// Lets the platform fail. Only fakes can.
    FailPlatform,
}

impl Act {
    /// Whether any language can do it, so that no program may be missing for it.
    pub fn is_basic(&self) -> bool {
        match self {
            Self::Stdout(_)
            | Self::Stderr(_)
            | Self::Pause(_)
            | Self::Hang
            | Self::Return(_)
            | Self::ReturnArguments
            | Self::Raise(_)
            | Self::Exit(_) => true,
            Self::Bytes(_)
            | Self::Kill(_)
            | Self::Artifact(..)
            | Self::Allocate
            | Self::AtExit(_)
            | Self::Descriptors(_)
            | Self::Child(_)
            | Self::LeaveTraces(_)
            | Self::ReturnTraces(_)
            | Self::FailPlatform => false,
        }
    }

    /// The act's name, without what it acts on.
    pub fn name(&self) -> String {
        let shown = format!("{self:?}");
        shown.split('(').next().unwrap_or_default().to_owned()
    }
}

/// Writes programs in the languages that a provider declares.
pub trait Programs: Debug + Send + Sync + 'static {
    /// Whether it knows this language at all. One that it does not know is left out, and counted.
    fn knows(&self, language: &Language) -> bool;

    /// The source of a program that does one act inside `main`; `None` if the language cannot do it.
    fn statements(&self, language: &Language, act: &Act) -> Option<String>;

    /// The program that is made of such statements.
    fn program(&self, language: &Language, statements: &[String]) -> String;
}
