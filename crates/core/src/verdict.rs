//! The verdict: one pure function of evidence.
//!
//! Never an exit number, a word on stderr or a printed marker. The order of the rules is the order
//! of certainty: our own failure, our own stop, the kernel's counters, then how the process ended.

use serde::Serialize;

use crate::{Evidence, Exit, FrameEvidence, Meters, ProgramError, StopReason};

/// How the user's program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    /// `main` returned a value.
    Succeeded,
    /// The program ended in another way by its own doing.
    Failed {
        /// The exit code, if it exited.
        exit_code: Option<i32>,
        /// The signal, if one ended it that nobody sent as a limit.
        signal: Option<i32>,
        /// Its uncaught error, by its own account.
        error: Option<ProgramError>,
    },
    /// A limit ended it.
    LimitExceeded {
        /// Which.
        limit: LimitKind,
    },
    /// The sandbox refused an act, and the program failed.
    Denied {
        /// What was refused.
        what: Vec<Denial>,
    },
    /// The caller withdrew.
    Cancelled,
}

/// The limit that ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Wall clock.
    Time,
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes and threads.
    Processes,
    /// Output.
    Output,
    /// Disk.
    Disk,
}

impl LimitKind {
    /// The limit as a stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::Output => "output",
            Self::Disk => "disk",
        }
    }
}

/// One act that the sandbox refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Denial {
    /// A system call that the policy denies.
    Syscall {
        /// Its name.
        name: String,
        /// How often.
        count: u32,
    },
    /// Packets to somewhere that the network policy does not reach.
    Network {
        /// How many found no route, or were name lookups that nobody heard.
        packets: u64,
    },
}

/// Whose doing an end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Culprit {
    /// The program's.
    Program,
    /// A limit's.
    Limit,
    /// The policy's.
    Policy,
    /// The caller's, who withdrew.
    Caller,
    /// Ours.
    Platform,
}

/// What the evidence says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The program ended, and this is how.
    Ended(Outcome),
    /// We failed; there is no honest word about the program.
    PlatformFailed {
        /// Why, as a sentence fragment.
        reason: &'static str,
    },
}

impl Verdict {
    /// Whose doing it was.
    pub fn culprit(&self) -> Culprit {
        match self {
            Self::PlatformFailed { .. } => Culprit::Platform,
            Self::Ended(outcome) => outcome.culprit(),
        }
    }
}

impl Outcome {
    /// Whose doing it was.
    pub fn culprit(&self) -> Culprit {
        match self {
            Self::Succeeded | Self::Failed { .. } => Culprit::Program,
            Self::LimitExceeded { .. } => Culprit::Limit,
            Self::Denied { .. } => Culprit::Policy,
            Self::Cancelled => Culprit::Caller,
        }
    }

    /// Whether `main` returned.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Succeeded)
    }
}

const SIGTRAP: i32 = 5;
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// Says how a run ended, from evidence alone.
///
/// 1. We could not go on, never saw the end, or the machine gave less than the limits promise:
///    platform.
/// 2. We stopped it: for time, cpu, output, by a watch for memory or processes, or because the
///    caller withdrew.
/// 3. A watch saw more processes than the limit: processes. Else one value frame: success, whatever
///    happened beside it. (Where the kernel killed the first process for memory before the frame
///    was complete, there is no frame.)
/// 4. It failed, and the kernel says why: memory, refused forks, a full disk, a denied call, a
///    packet without a route.
/// 5. Otherwise it failed by its own doing.
pub fn verdict(evidence: &Evidence) -> Verdict {
    let limit = |limit| Verdict::Ended(Outcome::LimitExceeded { limit });
    match evidence.stopped {
        Some(StopReason::Platform) => {
            return Verdict::PlatformFailed { reason: "the platform stopped the run" };
        }
        Some(StopReason::NetworkHelper) => {
            return Verdict::PlatformFailed {
                reason: "the network helper ended during the run, and the run was stopped",
            };
        }
        Some(StopReason::Wall) => return limit(LimitKind::Time),
        Some(StopReason::Cpu) => return limit(LimitKind::Cpu),
        Some(StopReason::Output) => return limit(LimitKind::Output),
        Some(StopReason::Memory) => return limit(LimitKind::Memory),
        Some(StopReason::Processes) => return limit(LimitKind::Processes),
        Some(StopReason::Cancelled) => return Verdict::Ended(Outcome::Cancelled),
        Some(StopReason::Result) | None => {}
    }
    let Some(exit) = evidence.exit else {
        return Verdict::PlatformFailed { reason: "the end of the program was not seen" };
    };
    // Nobody counts what the kernel refuses a watched run; that more than the limit were seen is a
    // fact, also where a value came before the watch could act.
    let watched = evidence.meters == Meters::Watch;
    if watched
        && evidence.processes.peak.is_some_and(|peak| peak > u64::from(evidence.processes.limit))
    {
        return limit(LimitKind::Processes);
    }
    if evidence.frame == FrameEvidence::Value {
        return Verdict::Ended(Outcome::Succeeded);
    }
    match out_of_memory(evidence, exit) {
        Some(true) => return limit(LimitKind::Memory),
        Some(false) => {
            return Verdict::PlatformFailed {
                reason: "the machine ran out of memory, below the run's own limit",
            };
        }
        None => {}
    }
    let processes = &evidence.processes;
    if processes.refused > 0 {
        if processes.peak.is_some_and(|peak| peak < u64::from(processes.limit)) {
            return Verdict::PlatformFailed {
                reason: "the machine refused processes, below the run's own limit",
            };
        }
        return limit(LimitKind::Processes);
    }
    if evidence.disk.full {
        return limit(LimitKind::Disk);
    }
    let what = denials(evidence);
    if !what.is_empty() {
        return Verdict::Ended(Outcome::Denied { what });
    }
    Verdict::Ended(failure(evidence, exit))
}

/// Whether the run's own limit ended it for memory (`Some(true)`), or somebody else's: the kernel
/// counts a kill in the victim's group even if the whole machine, or a group above, was full.
fn out_of_memory(evidence: &Evidence, exit: Exit) -> Option<bool> {
    let memory = &evidence.memory;
    let near_limit = memory.peak.map(|peak| peak >= memory.limit / 5 * 4);
    // Heaps are bounded by three quarters of the limit or more (`{heap_mb}`), with all that is in
    // them, inherited or not: an abort below is none for the heap's sake.
    let heap = memory.peak.map(|peak| peak.saturating_add(memory.inherited.unwrap_or(0)));
    let heap_aborted = memory.heap_aborts
        && matches!(exit, Exit::Signal(SIGABRT | SIGTRAP))
        && heap.is_some_and(|heap| heap >= memory.limit / 10 * 7);
    if heap_aborted {
        return Some(true);
    }
    (memory.oom_kills > 0).then(|| near_limit.unwrap_or(true))
}

fn denials(evidence: &Evidence) -> Vec<Denial> {
    let mut what: Vec<Denial> = evidence
        .denied
        .iter()
        .filter(|call| !call.probe)
        .map(|call| Denial::Syscall { name: call.name.clone(), count: call.count })
        .collect();
    let packets = evidence.network.unroutable + evidence.network.unheard;
    if packets > 0 {
        what.push(Denial::Network { packets });
    }
    what
}

fn failure(evidence: &Evidence, exit: Exit) -> Outcome {
    let error = match &evidence.frame {
        FrameEvidence::Error(error) => Some(error.clone()),
        FrameEvidence::Malformed(what) => Some(ProgramError {
            kind: "ResultChannelError".to_owned(),
            message: format!("the program wrote to the result channel: {what}"),
            line: None,
        }),
        FrameEvidence::Absent | FrameEvidence::Value => None,
    };
    // After a complete frame the rest of the run is ended by us, if it does not end by itself before:
    // that kill is not the program's end, and an uncaught error counts as exit code 1, as every
    // interpreter has it. So does a value that its runner took for one, and that is none.
    let ended_by_us = evidence.stopped == Some(StopReason::Result) && exit == Exit::Signal(SIGKILL);
    let ended_well = matches!(evidence.frame, FrameEvidence::Error(_)) && exit == Exit::Code(0);
    match exit {
        _ if ended_by_us || ended_well => {
            Outcome::Failed { exit_code: Some(1), signal: None, error }
        }
        Exit::Code(code) => Outcome::Failed { exit_code: Some(code), signal: None, error },
        Exit::Signal(signal) => Outcome::Failed { exit_code: None, signal: Some(signal), error },
    }
}
