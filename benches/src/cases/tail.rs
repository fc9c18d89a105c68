//! The slowest of a hundred, with two paced clients.

use std::thread;

use crate::{bare::Bare, failure::Result, program::PYTHON, report::Findings};

use super::{
    Context,
    paced::{Caller, OURS},
};

const CLIENTS: u32 = 2;
/// Calls of each client between two bare starts.
const CALLS: usize = 25;

pub(super) fn two_clients(context: &Context, findings: &mut Findings) -> Result<()> {
    let service = context.service(&[])?;
    let mut bare = Bare::python(&context.interpreters);
    let mut callers = (0..CLIENTS)
        .map(|index| Caller::numbered(&service, &PYTHON, index))
        .collect::<Result<Vec<_>>>()?;
    let (mut starts, mut ours) = (Vec::new(), Vec::new());
    let rounds = context.share(2, 15);
    for round in 0..=rounds {
        context.rest(1);
        let start = bare.start()?;
        let times = thread::scope(|scope| {
            let one = |caller| scope.spawn(move || calls(context, caller));
            let running: Vec<_> = callers.iter_mut().map(one).collect();
            let all = running.into_iter().map(super::clients::joined);
            all.collect::<Result<Vec<Vec<f64>>>>()
        })?;
        // The first only warms caches.
        if round > 0 {
            starts.push(start);
            ours.extend(times.into_iter().flatten());
        }
    }
    findings.row(bare.name, "ms", starts);
    findings.compared(OURS, "ms", ours, bare.name);
    let tail = findings.summary_of(OURS).map(|summary| summary.p99);
    if let (Some(tail), Some(median)) = (tail, findings.median_of(bare.name)) {
        findings.figure("p99 over median", tail / median);
    }
    for caller in &callers {
        caller.tell(findings);
    }
    service.stop()
}

fn calls(context: &Context, caller: &mut Caller) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        context.rest(1);
        times.push(caller.call()?);
    }
    Ok(times)
}
