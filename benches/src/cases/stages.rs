//! Where one run's time goes: the service tells its stages at `AMPOULE_LOG=debug`.

use std::{thread, time::Duration};

use crate::{
    failure::Result,
    program::{NODE, PYTHON, Program},
    report::Findings,
    stages,
};

use super::{
    Context,
    paced::{Caller, OURS},
};

pub(super) fn python(context: &Context, findings: &mut Findings) -> Result<()> {
    measure(context, findings, &PYTHON, 1)
}

pub(super) fn node(context: &Context, findings: &mut Findings) -> Result<()> {
    measure(context, findings, &NODE, 6)
}

fn measure(
    context: &Context,
    findings: &mut Findings,
    program: &Program,
    rests: u32,
) -> Result<()> {
    let service = context.service(&[("AMPOULE_LOG", "debug")])?;
    let mut caller = Caller::new(&service, program)?;
    for _ in 0..5 {
        context.rest(rests);
        caller.call()?;
    }
    // What follows an answer is logged after it.
    let after = Duration::from_millis(100);
    thread::sleep(after);
    let began = service.log_end();
    let mut times = Vec::new();
    for _ in 0..context.rounds {
        context.rest(rests);
        times.push(caller.call()? * 1000.0);
    }
    thread::sleep(after);
    let log = service.log_between(began, service.log_end())?;
    findings.row(OURS, "us", times);
    for group in stages::read(&log) {
        findings.note(format!("{} lines: {}", group.lines, group.name));
        for (stage, values) in &group.stages {
            findings.row(format!("{}: {stage}", message(&group.name)), "us", values.clone());
        }
        let sum: f64 = group.summaries().map(|(_, summary)| summary.median).sum();
        findings.note(format!("{}: the medians' sum is {sum:.0} us", message(&group.name)));
    }
    caller.tell(findings);
    service.stop()
}

/// Without the target.
fn message(name: &str) -> &str {
    name.split_once(": ").map_or(name, |(_, message)| message)
}
