//! What many runs leave behind.
//!
//! After 200 runs and after 20,000: the median of paced calls, then 5 s of quiet, then a look at
//! everything that could have grown. The medians are held against bare starts of the same rounds, so
//! that a machine that has become busier meanwhile is not taken for a service that has become slower.

use std::{thread, time::Duration};

use crate::{
    bare::Bare,
    failure::{Failure, Result},
    pool, processes,
    program::{NODE, PYTHON},
    report::Findings,
    service::Service,
    statistics::median,
};

use super::{Context, clients::load, paced::Caller};

const QUIET: Duration = Duration::from_secs(5);
/// Of eight clients one runs Node.js.
const PYTHONS: u32 = 7;

pub(super) fn soak(context: &Context, findings: &mut Findings) -> Result<()> {
    let service = context.service(&[])?;
    let mut runs = Runs::new(&service)?;
    let (few, many) = (200, context.either(20_000, 3_000));
    runs.until(few)?;
    let before = State::measure(context, &service, findings, "before")?;
    runs.until(many)?;
    let after = State::measure(context, &service, findings, "after")?;
    let grown = |of: fn(&Counts) -> usize| {
        let (after, before) = (of(&after.counts), of(&before.counts));
        f64::from(u32::try_from(after).unwrap_or(u32::MAX))
            - f64::from(u32::try_from(before).unwrap_or(u32::MAX))
    };
    findings.figure("descriptors, more", grown(|counts| counts.descriptors));
    findings.figure("mounts, more", grown(|counts| counts.mounts));
    findings.figure("control groups, more", grown(|counts| counts.groups));
    findings.figure("processes, more", grown(|counts| counts.processes));
    findings.figure("resident memory, ours", after.resident_ours / before.resident_ours);
    findings.figure("resident memory, all", after.resident_all / before.resident_all);
    findings.figure("median, python", after.python / before.python);
    findings.figure("median, node", after.node / before.node);
    findings.note(format!("before, after {few} runs: {}", before.line()));
    findings.note(format!("after, after {} runs: {}", runs.done, after.line()));
    findings.note("runs of the paced calls, 260 each time, are not counted".to_owned());
    service.stop()
}

/// Runs without pause.
struct Runs {
    callers: Vec<Caller>,
    done: usize,
}

impl Runs {
    fn new(service: &Service) -> Result<Self> {
        let mut callers = (0..PYTHONS)
            .map(|index| Caller::numbered(service, &PYTHON, index))
            .collect::<Result<Vec<_>>>()?;
        callers.push(Caller::numbered(service, &NODE, PYTHONS)?);
        Ok(Self { callers, done: 0 })
    }

    fn until(&mut self, many: usize) -> Result<()> {
        while self.done < many {
            let window = if many - self.done > 1000 { 1000 } else { 100 };
            self.done += load(&mut self.callers, Duration::from_millis(window))?.1.len();
        }
        Ok(())
    }
}

/// Everything that could grow.
#[derive(Debug)]
struct Counts {
    descriptors: usize,
    mounts: usize,
    groups: usize,
    processes: usize,
}

#[derive(Debug)]
struct State {
    counts: Counts,
    /// Of manager, keeper and launcher, in MB.
    resident_ours: f64,
    /// Of these, of zygotes and of all that is ready.
    resident_all: f64,
    /// Medians of paced calls over those of bare starts.
    python: f64,
    node: f64,
}

impl State {
    fn measure(
        context: &Context,
        service: &Service,
        findings: &mut Findings,
        when: &str,
    ) -> Result<Self> {
        pool::settle(service)?;
        let python = Bare::python(&context.interpreters);
        let python = medians(context, &mut Caller::new(service, &PYTHON)?, python, 200, 1)?;
        let node = Bare::node(&context.interpreters);
        let node = medians(context, &mut Caller::new(service, &NODE)?, node, 60, 6)?;
        thread::sleep(QUIET);
        pool::settle(service)?;
        let tree = service.tree()?;
        let ours = tree.ours();
        let sum = |of: fn(u32) -> Option<usize>| -> Result<usize> {
            let each = ours.iter().map(|(name, pid)| {
                of(*pid).ok_or_else(|| Failure::Broken(format!("failed to look into the {name}")))
            });
            each.sum()
        };
        let counts = Counts {
            descriptors: sum(processes::descriptors)?,
            mounts: sum(processes::mounts)?,
            groups: processes::groups(tree.keeper),
            processes: tree.all.len(),
        };
        let is_ours = |pid: u32| ours.iter().any(|(_, each)| *each == pid);
        let resident = |process: &processes::Process| {
            f64::from(u32::try_from(process.resident_kb).unwrap_or(u32::MAX)) / 1024.0
        };
        let all = tree.all.values();
        let state = Self {
            counts,
            resident_ours: all.clone().filter(|one| is_ours(one.pid)).map(resident).sum(),
            resident_all: all.map(resident).sum(),
            python: median(&python.0) / median(&python.1),
            node: median(&node.0) / median(&node.1),
        };
        for (language, (calls, starts)) in [("python", python), ("node", node)] {
            let bare = format!("{language}, bare, {when}");
            findings.row(bare.as_str(), "ms", starts);
            findings.compared(format!("{language}, {when}"), "ms", calls, &bare);
        }
        Ok(state)
    }

    fn line(&self) -> String {
        let Counts { descriptors, mounts, groups, processes } = self.counts;
        format!(
            "{descriptors} descriptors, {mounts} mounts, {groups} control groups, {processes} \
             processes, {:.2} MB resident of manager, keeper and launcher, {:.2} MB of all",
            self.resident_ours, self.resident_all
        )
    }
}

/// Paced calls, and a bare start for every fourth.
fn medians(
    context: &Context,
    caller: &mut Caller,
    mut bare: Bare,
    calls: usize,
    rests: u32,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut times, mut starts) = (Vec::new(), Vec::new());
    for call in 0..calls {
        if call % 4 == 0 {
            context.rest(1);
            starts.push(bare.start()?);
        }
        context.rest(rests);
        times.push(caller.call()?);
    }
    Ok((times, starts))
}
