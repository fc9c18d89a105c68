//! Whether forks of a warm interpreter are as good as starts: tried, where nobody promises it.
//!
//! ```text
//! untried --prove_forks--> two forks and a start run the self-test's probes --alike--> each way to end
//!    |                                    |                                            |          |
//!    |                                    \-- not alike, not forked, twice --\         |        alike
//!    v                                                                       v         v          v
//! programs run in interpreters that were started  <------------------------ refused <--/       trusted
//! ```
//!
//! A self-test is a program as any other, in a sandbox as any other. What it answers is told in
//! `docs/add-a-language.md`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ampoule_core::{
    Arguments, Code, Error, ErrorKind, ExecuteRequest, ExecutionId, ExecutionResult, ForkProof,
    Language, Limits, NetworkPolicy, Outcome, Profile, Result, SandboxSpec, TemplateName,
    TrustGroup,
};
use ampoule_jail::{Conditions, Origin};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{Native, NativeConfig, TemplateInfo};

/// How long one run of the self-test may take.
const WALL: Duration = Duration::from_secs(60);
/// How long the warm interpreter may take until it forks for the first time.
const LATEST_FORK: Duration = Duration::from_secs(10);

/// A template's warm interpreters.
#[derive(Clone, Debug)]
pub(super) struct Zygotes {
    /// Beside the bare one there is one for each of these.
    pub(super) templates: Arc<[TemplateName]>,
    /// The only memory limit that they suit, where their heap is bounded when they start.
    pub(super) memory: Option<u64>,
    /// Whether programs may run in their forks.
    pub(super) trusted: Arc<AtomicBool>,
}

impl Zygotes {
    /// Whether a program that is built so may run in a fork.
    pub(super) fn suit(&self, spec: &SandboxSpec) -> bool {
        self.trusted.load(Ordering::Acquire) && self.would_suit(spec)
    }

    fn would_suit(&self, spec: &SandboxSpec) -> bool {
        spec.profile == Profile::Fast && self.memory.is_none_or(|only| only == spec.limits.memory)
    }

    /// What says that a start that waits to be used has become worse than a fork.
    pub(super) fn outdated(&self, spec: &SandboxSpec) -> Option<Arc<AtomicBool>> {
        let may_be = self.would_suit(spec) && !self.trusted.load(Ordering::Acquire);
        may_be.then(|| Arc::clone(&self.trusted))
    }
}

/// The self-tests of a provider's runtimes, and what came of them.
#[derive(Debug, Default)]
pub(super) struct ForkTests {
    tests: Vec<ForkTest>,
    proved: Mutex<Option<Vec<ForkProof>>>,
}

#[derive(Debug)]
struct ForkTest {
    language: Language,
    template: TemplateInfo,
    zygotes: Zygotes,
    code: String,
    limits: Limits,
}

/// What the self-test's `main({})` answers.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    version: Option<String>,
    passed: Vec<String>,
    wrong: BTreeMap<String, String>,
    fresh: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    ends: Vec<String>,
}

impl ForkTests {
    /// The tests of those runtimes that have one.
    pub(super) fn new(config: &NativeConfig, templates: &BTreeMap<Language, TemplateInfo>) -> Self {
        let limits = Limits {
            wall: WALL,
            memory: config.warm.memory,
            disk: config.warm.disk,
            ..Limits::default()
        };
        let test = |runtime: &super::NativeRuntime| {
            let language = runtime.folder.language().clone();
            let template = templates.get(&language)?.clone();
            let zygotes = template.zygotes.clone()?;
            let code = runtime.folder.selftest.as_ref()?.to_string();
            Some(ForkTest { language, template, zygotes, code, limits })
        };
        Self { tests: config.runtimes.iter().filter_map(test).collect(), proved: Mutex::default() }
    }
}

impl Native {
    /// Runs each self-test, unless that is done already.
    pub(super) async fn try_forks(&self) -> Vec<ForkProof> {
        // Whoever else asks meanwhile gets the same proofs.
        let mut proved = self.fork_tests.proved.lock().await;
        if let Some(proofs) = &*proved {
            return proofs.clone();
        }
        let mut proofs = Vec::new();
        for test in &self.fork_tests.tests {
            let mut proof = self.try_test(test).await;
            if proof.problem.is_some() {
                // A probe has its time, and a machine may have been busy.
                proof = self.try_test(test).await;
            }
            let ForkProof { language, version, passed, problem } = &proof;
            let version = version.as_deref().unwrap_or("unknown");
            match problem {
                None => {
                    test.zygotes.trusted.store(true, Ordering::Release);
                    tracing::info!(%language, version, passed, "programs run in forks of a warm interpreter");
                }
                Some(problem) => {
                    tracing::warn!(%language, version, problem, "no program runs in a fork of a warm interpreter: each has one of its own");
                }
            }
            proofs.push(proof);
        }
        *proved = Some(proofs.clone());
        proofs
    }

    async fn try_test(&self, test: &ForkTest) -> ForkProof {
        let mut proof =
            ForkProof { language: test.language.clone(), version: None, passed: 0, problem: None };
        proof.problem =
            self.find_problem(test, &mut proof).await.unwrap_or_else(|error| Some(error.chain()));
        proof
    }

    /// Compares forks with starts; an error is a problem too.
    async fn find_problem(&self, test: &ForkTest, proof: &mut ForkProof) -> Result<Option<String>> {
        let started = self.ask(test, Origin::Exec).await?;
        proof.version.clone_from(&started.version);
        for zygote in (0..).take(1 + test.zygotes.templates.len()) {
            let fork = Origin::Zygote { zygote, group: 0 };
            let forked = [self.ask(test, fork).await?, self.ask(test, fork).await?];
            if let Some(problem) = difference(&started, &forked) {
                return Ok(Some(problem));
            }
            proof.passed = forked[0].passed.len();
        }
        let fork = Origin::Zygote { zygote: 0, group: 0 };
        for end in &started.ends {
            let arguments = serde_json::json!({ "end": end }).to_string();
            let start = end_of(&self.test_run(test, Origin::Exec, &arguments).await?);
            let fork = end_of(&self.test_run(test, fork, &arguments).await?);
            if start != fork {
                let problem = format!("the end `{end}` is {fork} in a fork and {start} else");
                return Ok(Some(problem));
            }
        }
        Ok(None)
    }

    /// Has the probes run.
    async fn ask(&self, test: &ForkTest, origin: Origin) -> Result<Answer> {
        let result = self.test_run(test, origin, "{}").await?;
        let answer = result.value.as_deref().map(|value| serde_json::from_str(value.get()));
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(failed(&format!("it answers something else: {error}"))),
            None => {
                let said = result.stderr.trim();
                Err(failed(&format!("it does not answer: {} {said}", end_of(&result))))
            }
        }
    }

    async fn test_run(
        &self,
        test: &ForkTest,
        origin: Origin,
        arguments: &str,
    ) -> Result<ExecutionResult> {
        let request = ExecuteRequest {
            id: ExecutionId::new("selftest"),
            language: test.language.clone(),
            code: Code::new(&test.code).map_err(|error| failed(&error.to_string()))?,
            arguments: Arguments::parse(arguments).map_err(|error| failed(&error.to_string()))?,
            limits: test.limits,
            network: NetworkPolicy::None,
            profile: Profile::Fast,
            trust_group: TrustGroup::default(),
        };
        let latest = Instant::now() + LATEST_FORK;
        loop {
            let result = self.run_as(test.template.clone(), origin, request.clone()).await?;
            let was_forked = result.finished.evidence.memory.inherited.is_some();
            if was_forked != matches!(origin, Origin::Exec) {
                return Ok(result);
            }
            let Conditions { landlock_abi, proc, .. } = *self.link().await?.conditions();
            // Where there are no zygotes nothing is waited for.
            if latest < Instant::now() || landlock_abi == 0 || !proc {
                return Err(failed("no warm interpreter could be forked"));
            }
            // On a busy machine the interpreter may be starting for longer than a run waits for it.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn failed(message: &str) -> Error {
    Error::new(ErrorKind::Internal, "run a self-test", message)
}

/// What forks do otherwise than a start, if anything.
fn difference(started: &Answer, forked: &[Answer; 2]) -> Option<String> {
    if started.passed.is_empty() {
        return Some("the self-test has no probe that passes".to_owned());
    }
    for probe in &started.passed {
        if let Some(fork) = forked.iter().find(|fork| !fork.passed.contains(probe)) {
            let why = fork.wrong.get(probe).map_or("it was not tried", String::as_str);
            return Some(format!("the probe `{probe}` fails in a fork: {why}"));
        }
    }
    let [first, second] = forked;
    let repeats = |(name, value): &(&String, &serde_json::Value)| {
        second.fresh.get(*name) == Some(value) || started.fresh.get(*name) == Some(value)
    };
    let (name, _) = first.fresh.iter().find(repeats)?;
    Some(format!("`{name}` is the same in two forks"))
}

/// How a run ended, for comparison and for people.
fn end_of(result: &ExecutionResult) -> String {
    match &result.finished.outcome {
        Outcome::Failed { exit_code, signal, error } => {
            let error = error.as_ref().map_or("no error", |error| error.kind.as_str());
            match (exit_code, signal) {
                (_, Some(signal)) => format!("signal {signal} with {error}"),
                (Some(code), None) => format!("exit code {code} with {error}"),
                (None, None) => format!("a failure with {error}"),
            }
        }
        Outcome::LimitExceeded { limit } => format!("the limit of {}", limit.as_str()),
        Outcome::Succeeded => "success".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(passed: &[&str], fresh: &str) -> Answer {
        Answer {
            passed: passed.iter().map(|&name| name.to_owned()).collect(),
            fresh: BTreeMap::from([("random".to_owned(), fresh.into())]),
            ..Answer::default()
        }
    }

    #[test]
    fn forks_must_pass_what_a_start_passes_and_repeat_nothing() {
        let started = answer(&["a", "b"], "0");
        let told = |first, second| difference(&started, &[first, second]).unwrap_or_default();
        assert_eq!(told(answer(&["a", "b"], "1"), answer(&["b", "a", "c"], "2")), "");
        let same = "`random` is the same in two forks";
        assert_eq!(told(answer(&["a", "b"], "1"), answer(&["a", "b"], "1")), same);
        assert_eq!(told(answer(&["a", "b"], "0"), answer(&["a", "b"], "1")), same);
        let lost = "the probe `b` fails in a fork: it was not tried";
        assert_eq!(told(answer(&["a", "b"], "1"), answer(&["a"], "2")), lost);
        let nothing = difference(&answer(&[], "0"), &[answer(&[], "1"), answer(&[], "2")]);
        assert!(nothing.is_some());
    }

    #[test]
    fn a_probe_that_fails_in_a_start_too_is_not_the_forks_fault() {
        let mut fork = answer(&["a"], "1");
        fork.wrong.insert("b".to_owned(), "no".to_owned());
        assert_eq!(difference(&answer(&["a"], "0"), &[fork, answer(&["a"], "2")]), None);
    }
}
