//! What an execution reports while it runs.

use std::pin::Pin;

use futures_util::Stream;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Error, Evidence, Outcome, Usage};

/// A stream of events. It ends in exactly one [`Event::Finished`], last; or in an `Err` when *we*
/// failed.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>;

/// One thing that happened in an execution.
#[derive(Clone, Debug)]
pub enum Event {
    /// Text that the program wrote to stdout.
    Stdout(String),
    /// Text that the program wrote to stderr.
    Stderr(String),
    /// What `main` returned, as JSON text.
    Value(Box<RawValue>),
    /// A file left in `artifacts/`.
    Artifact(Artifact),
    /// The end, always last.
    Finished(Box<Finished>),
}

/// A file that the program left in `artifacts/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The file's name: no separators, no control characters, no leading dot.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// A file in `artifacts/` that was not collected, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedArtifact {
    /// The file's name, with unprintable characters replaced.
    pub name: String,
    /// Why it was left, as a sentence fragment.
    pub reason: String,
}

/// How the execution ended, with what proves it.
#[derive(Clone, Debug, Serialize)]
pub struct Finished {
    /// How the program ended.
    pub outcome: Outcome,
    /// What the verdict rests on.
    pub evidence: Evidence,
    /// What the run used.
    pub usage: Usage,
    /// Files that were not collected.
    pub skipped_artifacts: Vec<SkippedArtifact>,
}
