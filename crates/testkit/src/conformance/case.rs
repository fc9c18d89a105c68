//! A case: a name, when it is run, and what is done.

use std::{fmt, pin::Pin, sync::Arc};

use tokio::{runtime::Handle, task::JoinHandle};

use super::bench::{Bench, Checked, Stop};

/// When a case is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum When {
    /// Before all others: if it fails, nothing else means anything.
    First,
    /// In any order, several at once.
    Between,
    /// After all others, alone.
    Last,
}

type Action =
    Arc<dyn Fn(Bench) -> Pin<Box<dyn Future<Output = Checked> + Send>> + Send + Sync + 'static>;

/// One thing that a law demands.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) law: &'static str,
    pub(super) name: &'static str,
    pub(super) when: When,
    /// Whether it is run for each language.
    pub(super) each: bool,
    action: Action,
}

impl fmt::Debug for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Case({}::{})", self.law, self.name)
    }
}

impl Case {
    /// Its name without a language.
    pub(super) fn short(&self) -> String {
        format!("{}::{}", self.law, self.name)
    }
}

/// The cases of one law.
#[derive(Debug)]
pub(super) struct Law {
    name: &'static str,
    pub(super) cases: Vec<Case>,
}

impl Law {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, cases: Vec::new() }
    }

    /// Adds a case for each language.
    pub(super) fn each<Run>(&mut self, name: &'static str, run: fn(Bench) -> Run)
    where
        Run: Future<Output = Checked> + Send + 'static,
    {
        self.add(name, When::Between, true, run);
    }

    /// Adds a case that one language suffices for.
    pub(super) fn once<Run>(&mut self, name: &'static str, run: fn(Bench) -> Run)
    where
        Run: Future<Output = Checked> + Send + 'static,
    {
        self.add(name, When::Between, false, run);
    }

    pub(super) fn add<Run>(
        &mut self,
        name: &'static str,
        when: When,
        each: bool,
        run: fn(Bench) -> Run,
    ) where
        Run: Future<Output = Checked> + Send + 'static,
    {
        let action: Action = Arc::new(move |bench| Box::pin(run(bench)));
        self.cases.push(Case { law: self.name, name, when, each, action });
    }
}

impl Bench {
    /// Begins a case on the subject's runtime.
    pub(super) fn begin(&self, case: &Case) -> Running {
        let runtime = self.subject.runtime.clone();
        Running { task: runtime.spawn((case.action)(self.clone())), runtime }
    }
}

/// A case that is being carried out.
#[derive(Debug)]
pub(super) struct Running {
    task: JoinHandle<Checked>,
    runtime: Handle,
}

impl Running {
    /// Waits for its end. A panic of the provider breaks the law.
    pub(super) fn end(self) -> Checked {
        let ended = self.runtime.block_on(self.task);
        ended.unwrap_or_else(|error| Err(Stop::Broken(format!("it panicked: {error}"))))
    }
}
