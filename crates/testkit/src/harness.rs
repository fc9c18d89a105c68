//! A test harness for programs whose `main` is theirs: positive controls first, skips counted and
//! printed with their reason, and in CI none that is not listed.
//!
//! A sandbox that never starts passes most tests of containment. So a suite names the controls that
//! must succeed; if one does not, nothing else is run.

use std::{
    fmt, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Why a test failed: anything that can be shown.
#[derive(Debug)]
pub struct Failure(String);

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// How a test ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Passed,
    /// It could not run here, and why.
    Skipped(String),
    /// What is tested does not promise this, and why it does not matter here. Not a gap of the
    /// machine, so CI allows it; it is counted and printed all the same.
    LeftOut(String),
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Passed
    }
}

/// Says that a test cannot run here.
pub fn skip(reason: impl Into<String>) -> Result<Outcome, Failure> {
    Ok(Outcome::Skipped(reason.into()))
}

type Test = Box<dyn FnOnce() -> Result<Outcome, Failure> + Send>;
type Reasons = Arc<Mutex<Vec<(String, String)>>>;

/// The tests of one program.
#[derive(Default)]
pub struct Suite {
    controls: Vec<(String, Test)>,
    trials: Vec<Trial>,
    last: Vec<(String, Test)>,
    skips: Reasons,
    left_out: Reasons,
}

impl fmt::Debug for Suite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Suite({} controls, {} tests)", self.controls.len(), self.trials.len())
    }
}

impl Suite {
    /// An empty suite.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a positive control: without it no other result means anything.
    pub fn control<O: Into<Outcome>>(
        &mut self,
        name: impl Into<String>,
        test: impl FnOnce() -> Result<O, Failure> + Send + 'static,
    ) {
        self.controls.push((name.into(), Box::new(|| test().map(Into::into))));
    }

    /// Adds a test.
    pub fn test<O: Into<Outcome>>(
        &mut self,
        name: impl Into<String>,
        test: impl FnOnce() -> Result<O, Failure> + Send + 'static,
    ) {
        let name = name.into();
        let (skips, left_out) = (Arc::clone(&self.skips), Arc::clone(&self.left_out));
        self.trials.push(Trial::ignorable_test(name.clone(), move || {
            match test().map(Into::into) {
                Ok(Outcome::Passed) => Ok(Completion::Completed),
                Ok(Outcome::Skipped(reason)) => Ok(note(&skips, name, reason)),
                Ok(Outcome::LeftOut(reason)) => Ok(note(&left_out, name, reason)),
                Err(Failure(text)) => Err(Failed::from(text)),
            }
        }));
    }

    /// Adds a test that runs when all others have ended, alone, in the order of addition: what
    /// must hold after the end.
    pub fn last<O: Into<Outcome>>(
        &mut self,
        name: impl Into<String>,
        test: impl FnOnce() -> Result<O, Failure> + Send + 'static,
    ) {
        self.last.push((name.into(), Box::new(|| test().map(Into::into))));
    }

    /// Runs everything and says how it went. `finish` runs last, whatever happened.
    pub fn run(self, finish: impl FnOnce()) -> ExitCode {
        let (passed, unlisted) = self.carry_out(&Arguments::from_args(), finish);
        if !passed || (unlisted && std::env::var_os("CI").is_some()) {
            return ExitCode::FAILURE;
        }
        ExitCode::SUCCESS
    }

    /// Whether all passed, and whether one was skipped that is not listed.
    fn carry_out(self, arguments: &Arguments, finish: impl FnOnce()) -> (bool, bool) {
        let mut controlled = true;
        if !arguments.list {
            for (name, test) in self.controls {
                if let Err(text) = alone(test) {
                    let rest = "nothing else was run";
                    say(&format!("positive control `{name}` failed: {text}\n{rest}"));
                    controlled = false;
                    break;
                }
            }
        }
        let mut failed = !controlled || {
            let conclusion = libtest_mimic::run(arguments, self.trials);
            conclusion.has_failed()
        };
        if controlled && !arguments.list {
            for (name, test) in self.last {
                let end = alone(test);
                failed |= end.is_err();
                match end {
                    Ok(()) => say(&format!("last {name} ... ok")),
                    Err(text) => say(&format!("last {name} ... FAILED\n{text}")),
                }
            }
        }
        finish();
        let left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if !left_out.is_empty() {
            say(&format!("{} left out, because nobody promises it here:", left_out.len()));
        }
        for (name, reason) in left_out.iter() {
            say(&format!("  {name}: {reason}"));
        }
        let skips = self.skips.lock().unwrap_or_else(PoisonError::into_inner);
        (!failed, report(&skips))
    }
}

/// Runs a test that must pass, by itself.
fn alone(test: Test) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(test)) {
        Ok(Ok(Outcome::Passed)) => Ok(()),
        Ok(Ok(Outcome::Skipped(reason) | Outcome::LeftOut(reason))) => {
            Err(format!("skipped: {reason}"))
        }
        Ok(Err(Failure(text))) => Err(text),
        Err(_) => Err("panicked".to_owned()),
    }
}

/// Keeps the reason why a test did not run, for the end.
fn note(reasons: &Reasons, name: String, reason: String) -> Completion {
    let shown = Completion::ignored_with(&reason);
    reasons.lock().unwrap_or_else(PoisonError::into_inner).push((name, reason));
    shown
}

/// Prints the skips; whether one is not on the list.
fn report(skips: &[(String, String)]) -> bool {
    let listed = listed_skips();
    let mut unlisted = false;
    if !skips.is_empty() {
        say(&format!("{} skipped:", skips.len()));
    }
    for (name, reason) in skips {
        let known = listed.iter().any(|entry| entry == name);
        unlisted |= !known;
        let mark = if known { "" } else { " (not listed in tests/allowed-skips.txt)" };
        say(&format!("  {name}: {reason}{mark}"));
    }
    unlisted
}

/// The names in the one file of skips that CI allows: a name a line, a reason after `#`.
fn listed_skips() -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/allowed-skips.txt");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split('#').next().map(str::trim))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[expect(clippy::print_stdout, reason = "a test harness speaks to who runs it")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carry_out(suite: Suite) -> (bool, bool) {
        // What these suites print would be counted as tests of ours.
        let logfile = Some("/dev/null".to_owned());
        suite.carry_out(&Arguments { logfile, ..Arguments::default() }, || {})
    }

    fn with(add: impl FnOnce(&mut Suite)) -> (bool, bool) {
        let mut suite = Suite::new();
        suite.control("control", || Ok(()));
        suite.test("test", || Ok(()));
        add(&mut suite);
        carry_out(suite)
    }

    #[test]
    fn every_kind_of_test_can_fail_the_suite() {
        let fail = || Err::<(), _>(Failure::from("no"));
        assert_eq!(with(|_| {}), (true, false));
        assert_eq!(with(|suite| suite.control("c", fail)), (false, false));
        assert_eq!(with(|suite| suite.test("t", fail)), (false, false));
        assert_eq!(with(|suite| suite.last("l", fail)), (false, false));
        assert_eq!(with(|suite| suite.last("l", || skip("not here"))), (false, false));
    }

    #[test]
    fn a_skip_is_a_gap_and_what_nobody_promises_is_none() {
        assert_eq!(with(|suite| suite.test("t", || skip("not here"))), (true, true));
        let left_out = || Ok(Outcome::LeftOut("not promised".to_owned()));
        assert_eq!(with(|suite| suite.test("t", left_out)), (true, false));
    }

    #[test]
    fn without_its_control_nothing_is_run() {
        let ran = Arc::new(Mutex::new(false));
        let seen = Arc::clone(&ran);
        let mut suite = Suite::new();
        suite.control("control", || Err::<(), _>(Failure::from("no")));
        suite.test("test", move || {
            *seen.lock()? = true;
            Ok(())
        });
        assert_eq!(carry_out(suite), (false, false));
        assert!(!*ran.lock().unwrap());
    }
}
