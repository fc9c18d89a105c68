//! The conformance run of a third party's provider; and the same run for one with each fault, which
//! must not pass: a law that nobody can break is no law.

mod broken;
mod provider;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use ampoule_core::Provider;
use ampoule_testkit::{
    Failure, Suite,
    conformance::{self, Report, Subject},
};
use broken::{Broken, Fault};
use provider::{ActLists, Machine, Toy};
use tokio::runtime::{Handle, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

fn main() -> ExitCode {
    let mut suite = Suite::new();
    let toy = Toy::default();
    let machine = Arc::clone(&toy.machine);
    let subject = Subject::new(RUNTIME.handle(), Arc::new(toy))
        .programs(ActLists)
        .oracle(machine)
        .leaves_out(&[]);
    conformance::add(&mut suite, &subject);
    suite.test("without_a_fault_nothing_is_found", without_a_fault_nothing_is_found);
    suite.test("each_fault_is_found_by_its_law", each_fault_is_found_by_its_law);
    suite.test("every_case_can_fail", every_case_can_fail);
    suite.run(|| {})
}

/// The report of each broken provider, made once, all at the same time.
static REPORTS: LazyLock<Vec<(Fault, &'static str, Report)>> = LazyLock::new(|| {
    thread::scope(|scope| {
        let report = |fault| {
            let (broken, machine) = Broken::new(fault);
            scope.spawn(move || report(RUNTIME.handle(), Arc::new(broken), machine))
        };
        let all = Fault::ALL.map(|(fault, law)| (fault, law, report(fault)));
        all.into_iter()
            .map(|(fault, law, report)| (fault, law, report.join().unwrap_or_default()))
            .collect()
    })
});

fn report(runtime: &Handle, provider: Arc<dyn Provider>, machine: Arc<Machine>) -> Report {
    let subject = Subject::new(runtime, provider)
        .programs(ActLists)
        .oracle(machine)
        // Long for a toy, and short for one that hangs.
        .patience(Duration::from_secs(6));
    conformance::report(&subject)
}

/// Under the same patience and at the same time as the others: what they find is the fault.
fn without_a_fault_nothing_is_found() -> Result<(), Failure> {
    let toy = Toy::default();
    let machine = Arc::clone(&toy.machine);
    let report = report(RUNTIME.handle(), Arc::new(toy), machine);
    let nothing = report.broken.is_empty() && report.left_out.is_empty();
    if nothing { Ok(()) } else { Err(format!("{report:?}").into()) }
}

fn each_fault_is_found_by_its_law() -> Result<(), Failure> {
    let mut missed = Vec::new();
    for (fault, law, report) in REPORTS.iter() {
        if !report.broken.keys().any(|case| case.starts_with(&format!("{law}::"))) {
            missed.push(format!("{fault:?} should break `{law}`, and broke {:?}", report.broken));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(missed.join("\n").into()) }
}

fn every_case_can_fail() -> Result<(), Failure> {
    // It looks at the test program itself, which has no fault here.
    const OF_THE_SUITE: &str = "nothing_is_logged::what_is_logged_is_seen";
    let reports = || REPORTS.iter().map(|(_, _, report)| report);
    let failed: BTreeSet<_> = reports().flat_map(|report| report.broken.keys()).collect();
    let never: Vec<_> = reports()
        .flat_map(|report| &report.passed)
        .filter(|case| !failed.contains(case) && *case != OF_THE_SUITE)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .cloned()
        .collect();
    if never.is_empty() { Ok(()) } else { Err(format!("these never fail: {never:#?}").into()) }
}
