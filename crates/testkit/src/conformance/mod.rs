//! The laws of the contract, as cases that every provider runs.
//!
//! A provider passes if it **does what it declares and refuses the rest**. Each law is a file under
//! `laws/`; each case says which grade of [`Capabilities`] it needs. What a provider does not
//! declare is either tried and must be refused (languages, limits, network policies, a second
//! program), or cannot be tried (cancelling, where the grade is `none`) and is left out: counted,
//! and printed with the reason. So that nobody passes by declaring little, each isolation level has
//! a floor of grades.
//!
//! | law | in short |
//! | --- | --- |
//! | `one_finished_last` | a stream ends in exactly one `Finished`, last, or in `Err`; how a program ended is an outcome |
//! | `output_before_a_stop_is_kept` | whoever stopped it, and also if it failed |
//! | `text_is_utf8` | split characters survive, other bytes become U+FFFD |
//! | `output_beyond_the_limit` | discarded and counted, or the run is stopped; the program decides neither |
//! | `cancel` | gone before `Finished(Cancelled)`; early, twice, late, by dropping |
//! | `verdict_from_evidence` | `core::verdict` of the evidence is the outcome; exit codes, words and marks move nothing |
//! | `value_channel` | no print, descriptor, handler or artifact makes a value |
//! | `undeclared_is_refused` | with kind and field; nothing is clamped; the isolation is as declared |
//! | `nothing_is_left` | no process of a run after its answer |
//! | `no_execution_sees_another` | files, environment, processes, sockets, locks; at once and one after another |
//! | `one_program_per_sandbox` | a second is refused |
//! | `nothing_is_logged` | code, arguments, output, values |
//! | `create_and_destroy` | unused, dropped, running, unread, many at once; nothing after the shutdown |
//!
//! # Testing your own provider
//!
//! A test target with `harness = false`, and this as its `main`. Without a filter on its command
//! line it takes the provider through every case and shuts it down.
//!
//! ```
//! use std::{process::ExitCode, sync::Arc};
//! use ampoule_core::Provider;
//! use ampoule_testkit::conformance::{self, Subject};
//!
//! fn conformance_of(provider: Arc<dyn Provider>) -> ExitCode {
//!     let runtime = tokio::runtime::Runtime::new().expect("a runtime");
//!     conformance::run(Subject::new(runtime.handle(), provider))
//! }
//! ```
//!
//! For languages other than Python and JavaScript implement [`Programs`]; if programs do not run as
//! processes of this host, or sandboxes leave more than processes, implement [`Oracle`]. Name what
//! your provider leaves out with [`Subject::leaves_out`], so that nothing more is lost unseen.
//! `tests/toy/` of this crate is a whole provider with its own language, oracle and run, to copy.
//!
//! Programs of the suite are well-meaning, but they take memory until they are stopped and leave
//! processes behind: run it where the provider's walls, or nothing of value, are around them.
//!
//! [`Capabilities`]: ampoule_core::Capabilities

mod act;
mod bench;
mod case;
mod floor;
mod laws;
mod logs;
mod programs;
mod subject;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use ampoule_core::Language;
use bench::{Bench, Stop};
use case::{Case, When};

pub use act::{Act, Programs};
pub use programs::BuiltIn;
pub use subject::{HostProcesses, Oracle, Subject};

use crate::{Failure, Outcome, Suite};

/// Runs every case against a subject as the whole of a test program.
pub fn run(subject: Subject) -> ExitCode {
    let mut suite = Suite::new();
    add(&mut suite, &subject);
    suite.run(|| {})
}

/// Adds every case to a suite that has tests of its own. They must not need the provider after the
/// other tests: the last cases shut it down.
pub fn add(suite: &mut Suite, subject: &Subject) {
    logs::listen();
    let left_out = Arc::new(Mutex::new(Vec::new()));
    for Bound { name, short, bench, case } in bound(subject) {
        let left_out = Arc::clone(&left_out);
        let when = case.when;
        let test = move || match bench.begin(&case).end() {
            Ok(()) => Ok(Outcome::Passed),
            Err(Stop::Broken(text)) => Err(Failure::from(text)),
            Err(Stop::LeftOut(reason)) => {
                left_out.lock().unwrap_or_else(PoisonError::into_inner).push(short);
                Ok(Outcome::LeftOut(reason))
            }
        };
        match when {
            When::First => suite.control(name, test),
            When::Between => suite.test(name, test),
            When::Last => suite.last(name, test),
        }
    }
    if let Some(known) = subject.leaves_out.clone() {
        let mut cases: Vec<_> = laws::all().iter().map(Case::short).collect();
        cases.push(laws::without_programs().short());
        suite.last("nothing_else_is_left_out", move || {
            if let Some(unknown) = known.iter().find(|name| !cases.contains(name)) {
                return Err(Failure::from(format!("there is no case `{unknown}` to leave out")));
            }
            let mut lost = left_out.lock().unwrap_or_else(PoisonError::into_inner).clone();
            lost.retain(|case| !known.contains(case));
            match lost.as_slice() {
                [] => Ok(()),
                lost => Err(Failure::from(format!("unexpectedly left out: {}", lost.join(", ")))),
            }
        });
    }
}

/// How every case went, by its name.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases that hold.
    pub passed: Vec<String>,
    /// Cases that do not, and why.
    pub broken: BTreeMap<String, String>,
    /// Cases that were left out, and why.
    pub left_out: BTreeMap<String, String>,
}

/// Carries out every case, also after one that fails, and all at once that may be. For programs
/// that want to know, rather than for a test.
pub fn report(subject: &Subject) -> Report {
    logs::listen();
    let mut report = Report::default();
    let bound = bound(subject);
    let between = |bound: &Bound| bound.case.when == When::Between;
    for step in bound.chunk_by(|one, next| between(one) && between(next)) {
        let running: Vec<_> = step.iter().map(|bound| bound.bench.begin(&bound.case)).collect();
        for (bound, running) in step.iter().zip(running) {
            let name = bound.name.clone();
            match running.end() {
                Ok(()) => report.passed.push(name),
                Err(Stop::Broken(text)) => drop(report.broken.insert(name, text)),
                Err(Stop::LeftOut(reason)) => drop(report.left_out.insert(name, reason)),
            }
        }
    }
    report
}

/// A case with the language that it is for.
struct Bound {
    name: String,
    /// The name without the language.
    short: String,
    bench: Bench,
    case: Case,
}

/// Every case of every language, in the order in which they are to be run.
fn bound(subject: &Subject) -> Vec<Bound> {
    let languages = subject.provider.capabilities().languages.clone();
    let (known, unknown): (Vec<_>, Vec<_>) =
        languages.into_iter().partition(|language| subject.programs.knows(language));
    // Without any language there is nothing to test, and the controls fail.
    let first = known.first().cloned().unwrap_or_else(|| Language::new("none"));
    let bind = |case: &Case, language: &Language| {
        let short = case.short();
        let name = if case.each { format!("{short}::{language}") } else { short.clone() };
        let bench = Bench { subject: subject.clone(), language: language.clone() };
        Bound { name, short, bench, case: case.clone() }
    };
    let mut bound = Vec::new();
    for case in laws::all() {
        let languages = if case.each { known.as_slice() } else { std::slice::from_ref(&first) };
        bound.extend(languages.iter().map(|language| bind(&case, language)));
    }
    bound.extend(unknown.iter().map(|language| bind(&laws::without_programs(), language)));
    bound.sort_by_key(|bound| bound.case.when);
    bound
}
