//! As many runs as go through: clients without pause, and bare starts in windows between.

use std::{
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use crate::{
    bare::Bare,
    failure::{Failure, Result},
    processes::kind,
    program::{NODE, PYTHON, Program, STRICT},
    report::Findings,
    service::Interpreters,
    statistics::median,
    targets::PER_SECOND,
};

use super::{Context, paced::Caller};

const CLIENTS: u32 = 8;

pub(super) fn python(context: &Context, findings: &mut Findings) -> Result<()> {
    let measured = measure(context, findings, &PYTHON, Bare::python)?;
    findings.figure(PER_SECOND, measured.runs);
    findings.figure("rate over bare starts", measured.runs / measured.starts);
    Ok(())
}

pub(super) fn strict(context: &Context, findings: &mut Findings) -> Result<()> {
    let measured = measure(context, findings, &STRICT, Bare::python)?;
    findings.figure(PER_SECOND, measured.runs);
    findings.figure("rate over bare starts", measured.runs / measured.starts);
    Ok(())
}

pub(super) fn node(context: &Context, findings: &mut Findings) -> Result<()> {
    let measured = measure(context, findings, &NODE, Bare::node)?;
    let figure = if measured.is_forked { "runs a second, forked" } else { "runs a second, exec'd" };
    findings.figure(figure, measured.runs);
    findings.figure("rate over bare starts", measured.runs / measured.starts);
    Ok(())
}

struct Measured {
    /// A second.
    runs: f64,
    /// A second.
    starts: f64,
    /// Whether warm interpreters of this language fork.
    is_forked: bool,
}

fn measure(
    context: &Context,
    findings: &mut Findings,
    program: &Program,
    bare: fn(&Interpreters) -> Bare,
) -> Result<Measured> {
    let service = context.service(&[])?;
    let mut callers = (0..CLIENTS)
        .map(|index| Caller::numbered(&service, program, index))
        .collect::<Result<Vec<_>>>()?;
    let spawners = thread::available_parallelism().map_or(1, usize::from);
    let make = || bare(&context.interpreters);
    let window = Duration::from_secs(context.either(4, 2));
    let (mut runs, mut starts, mut times) = (Vec::new(), Vec::new(), Vec::new());
    // Warm caches, and the pool's own stock is gone.
    load(&mut callers, Duration::from_millis(500))?;
    callers.iter_mut().for_each(Caller::forget);
    for _ in 0..context.either(6, 3) {
        starts.push(start_for(spawners, make, window / 2)?);
        let (rate, took) = load(&mut callers, window)?;
        runs.push(rate);
        times.extend(took);
    }
    let tree = service.tree()?;
    let language = if program.language == "nodejs" { "node" } else { program.language };
    let is_forked = tree.zygotes().any(|zygote| kind(zygote.pid).starts_with(language));
    let measured = Measured { runs: median(&runs), starts: median(&starts), is_forked };
    findings.row(format!("{} starts, {spawners} at once", make().name), "1/s", starts);
    findings.row("POST /run, 8 clients", "1/s", runs);
    findings.row("an answer takes", "ms", times);
    let told: Vec<(usize, usize)> = callers.iter().map(Caller::hits).collect();
    let (hits, of): (usize, usize) =
        told.iter().fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
    if of > 0 {
        findings.note(format!("{hits} of {of} answers were hits"));
    }
    service.stop()?;
    Ok(measured)
}

/// All callers without pause for a while: right answers a second, and what each took.
pub(crate) fn load(callers: &mut [Caller], window: Duration) -> Result<(f64, Vec<f64>)> {
    let began = Instant::now();
    let times = thread::scope(|scope| {
        let one = |caller: &'_ mut Caller| {
            let mut times = Vec::new();
            while began.elapsed() < window {
                times.push(caller.call()?);
            }
            Ok(times)
        };
        let running: Vec<_> =
            callers.iter_mut().map(|caller| scope.spawn(move || one(caller))).collect();
        running.into_iter().map(joined).collect::<Result<Vec<Vec<f64>>>>()
    })?;
    let times: Vec<f64> = times.into_iter().flatten().collect();
    Ok((rate(times.len(), began.elapsed()), times))
}

/// Bare starts a second, with so many threads that each start one after the other.
fn start_for(spawners: usize, make: impl Fn() -> Bare + Sync, window: Duration) -> Result<f64> {
    let began = Instant::now();
    let counts = thread::scope(|scope| {
        let one = || {
            let mut bare = make();
            let mut count = 0;
            while began.elapsed() < window {
                bare.start()?;
                count += 1;
            }
            Ok(count)
        };
        let running: Vec<_> = (0..spawners).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(joined).collect::<Result<Vec<usize>>>()
    })?;
    Ok(rate(counts.iter().sum(), began.elapsed()))
}

#[expect(clippy::cast_precision_loss, reason = "no benchmark counts to 2^53")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// What a thread gave; a panic is a failure.
pub(crate) fn joined<T>(running: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    running.join().unwrap_or_else(|_| Err(Failure::Broken("a client panicked".to_owned())))
}
