//! Events folded into one result.

use futures_util::StreamExt;
use serde_json::value::RawValue;

use crate::{Artifact, Error, ErrorKind, Event, EventStream, Finished, Result};

/// Everything that one execution gave.
#[derive(Clone, Debug)]
pub struct ExecutionResult {
    /// What it wrote to stdout, up to the limit.
    pub stdout: String,
    /// What it wrote to stderr, up to the limit.
    pub stderr: String,
    /// What `main` returned, as JSON.
    pub value: Option<Box<RawValue>>,
    /// Files left in `artifacts/`.
    pub artifacts: Vec<Artifact>,
    /// How it ended, and what proves it.
    pub finished: Finished,
}

/// Folds events; holds to the law that a stream ends in exactly one `Finished`.
#[derive(Debug, Default)]
pub struct Collector {
    stdout: String,
    stderr: String,
    value: Option<Box<RawValue>>,
    artifacts: Vec<Artifact>,
    finished: Option<Finished>,
}

impl Collector {
    /// Takes one event.
    pub fn push(&mut self, event: Event) {
        match event {
            Event::Stdout(text) => self.stdout.push_str(&text),
            Event::Stderr(text) => self.stderr.push_str(&text),
            Event::Value(value) => self.value = Some(value),
            Event::Artifact(artifact) => self.artifacts.push(artifact),
            Event::Finished(finished) => self.finished = Some(*finished),
        }
    }

    /// Gives the result, if the end was seen.
    pub fn finish(self) -> Result<ExecutionResult> {
        let finished = self.finished.ok_or_else(|| {
            Error::new(ErrorKind::Internal, "collect the result", "the stream ended without an end")
                .after_start()
        })?;
        Ok(ExecutionResult {
            stdout: self.stdout,
            stderr: self.stderr,
            value: self.value,
            artifacts: self.artifacts,
            finished,
        })
    }

    /// Folds a whole stream.
    pub async fn collect(mut events: EventStream) -> Result<ExecutionResult> {
        let mut collector = Self::default();
        while let Some(event) = events.next().await {
            collector.push(event?);
        }
        collector.finish()
    }
}
