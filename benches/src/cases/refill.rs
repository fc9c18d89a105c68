//! A pool of 16 that was drained: how long until it is full again, and what that costs who runs
//! meanwhile.
//!
//! Sixteen requests at once take all that was ready. The time is from before they are written until
//! as many are ready as before; a worker counts from when its process is in its cell, which for an
//! interpreter that still has to start is a little early. Every second drain has a paced client beside
//! it, whose runs take from the pool too.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::{
    failure::{Failure, Result},
    pool::{self, Watch},
    program::PYTHON,
    report::Findings,
    service::Service,
};

use super::{
    Context,
    clients::joined,
    paced::{Caller, OURS},
};

const READY: u32 = 16;
const PATIENCE: Duration = Duration::from_secs(20);
/// How often is looked: looking has its cost too.
const LOOK: Duration = Duration::from_millis(2);

pub(super) fn sixteen(context: &Context, findings: &mut Findings) -> Result<()> {
    // A place for each of the sixteen, and for the client beside them.
    let environment = [("AMPOULE_POOL_READY", "16"), ("AMPOULE_QUEUE_PLACES", "17")];
    let service = context.service(&environment)?;
    let full = pool::settle(&service)?;
    if full == 0 {
        findings.note("there are no ready workers, so no pool to drain");
        return service.stop();
    }
    let mut drain = Drain::new(&service, full)?;
    let mut paced = Caller::numbered(&service, &PYTHON, READY)?;
    let (mut before, mut alone, mut beside, mut meanwhile) = (vec![], vec![], vec![], vec![]);
    for _ in 0..context.either(20, 5) {
        pool::settle(&service)?;
        alone.push(drain.until_full(|| {
            thread::sleep(LOOK);
            Ok(())
        })?);
        pool::settle(&service)?;
        for _ in 0..20 {
            context.rest(1);
            before.push(paced.call()?);
        }
        pool::settle(&service)?;
        beside.push(drain.until_full(|| {
            meanwhile.push(paced.call()?);
            context.rest(1);
            Ok(())
        })?);
    }
    findings.row("until full, nobody else", "ms", alone);
    if let Some(summary) = findings.rows.last().map(|row| row.summary) {
        findings.figure("ms until full", summary.median);
    }
    findings.row("until full, one paced client", "ms", beside);
    findings.row(OURS, "ms", before);
    findings.compared("POST /run meanwhile", "ms", meanwhile, OURS);
    if let Some(ratio) = findings.rows.last().and_then(|row| row.ratio_of_medians) {
        findings.figure("median meanwhile over before", ratio);
    }
    findings.note(format!("{full} workers of all kinds are ready when it is full"));
    let (hits, told) = drain.hits();
    if told > 0 {
        findings.note(format!("{hits} of {told} draining answers were hits"));
    }
    service.stop()
}

/// Takes all that is ready, again and again.
struct Drain {
    callers: Vec<Caller>,
    watch: Watch,
    full: usize,
}

impl Drain {
    fn new(service: &Service, full: usize) -> Result<Self> {
        let callers = (0..READY)
            .map(|index| Caller::numbered(service, &PYTHON, index))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { callers, watch: Watch::of(service)?, full })
    }

    /// Drains, then waits in steps; the milliseconds until it was full.
    fn until_full(&mut self, mut step: impl FnMut() -> Result<()>) -> Result<f64> {
        let barrier = Barrier::new(self.callers.len() + 1);
        let began = thread::scope(|scope| {
            let one = |caller: &'_ mut Caller| {
                barrier.wait();
                caller.call()
            };
            let running: Vec<_> =
                self.callers.iter_mut().map(|caller| scope.spawn(move || one(caller))).collect();
            barrier.wait();
            let began = Instant::now();
            running.into_iter().map(joined).collect::<Result<Vec<f64>>>().map(|_| began)
        })?;
        while self.watch.ready()? < self.full {
            if began.elapsed() > PATIENCE {
                return Err(Failure::Broken("the pool did not get full again".to_owned()));
            }
            step()?;
        }
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    }

    fn hits(&self) -> (usize, usize) {
        let told = self.callers.iter().map(Caller::hits);
        told.fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1))
    }
}
