//! Where one run's time goes, stage by stage, for who asks with `AMPOULE_LOG=debug`.

use std::time::{Duration, Instant};

/// The stages of one sandbox, in order.
#[derive(Debug)]
pub(super) struct Stages {
    passed: Vec<(&'static str, Duration)>,
    since: Instant,
}

impl Default for Stages {
    fn default() -> Self {
        Self { passed: Vec::new(), since: Instant::now() }
    }
}

impl Stages {
    /// Begins with what the launcher has measured.
    pub(super) fn new(cell: Duration, worker: Duration) -> Self {
        Self { passed: vec![("cell", cell), ("worker", worker)], ..Self::default() }
    }

    /// Ends the stage that began where the last one ended.
    pub(super) fn mark(&mut self, stage: &'static str) {
        let now = Instant::now();
        self.passed.push((stage, now - self.since));
        self.since = now;
    }

    /// Begins the next stage now: what lies between is nobody's.
    pub(super) fn resume(&mut self) {
        self.since = Instant::now();
    }

    /// Tells all of them, in microseconds.
    pub(super) fn log(&self) {
        if tracing::enabled!(tracing::Level::DEBUG) {
            let told: Vec<String> = self
                .passed
                .iter()
                .map(|(stage, took)| format!("{stage}={}", took.as_micros()))
                .collect();
            tracing::debug!(stages_us = told.join(" "), "sandbox stages");
        }
    }
}
