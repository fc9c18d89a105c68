//! The facts that a verdict rests on.

use std::time::Duration;

use serde::Serialize;

use crate::{Meters, ProgramError};

/// How the program's first process ended, by its wait status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Why *we* stopped a run. Kills by the kernel or by the program itself are never one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The result frame was complete; what was left of the run was ended.
    Result,
    /// The wall clock ran out.
    Wall,
    /// The CPU time ran out, by the cgroup's counter.
    Cpu,
    /// Output passed its limit and the policy says stop.
    Output,
    /// A watch saw more memory in use than the limit; only where no control group counts it.
    Memory,
    /// A watch saw more processes than the limit; only where no control group counts them.
    Processes,
    /// The network helper ended before the run did.
    NetworkHelper,
    /// The caller withdrew.
    Cancelled,
    /// The platform could not go on.
    Platform,
}

/// What came on the channel of the value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameEvidence {
    /// Nothing.
    #[default]
    Absent,
    /// Exactly one frame with a value.
    Value,
    /// Exactly one frame with the program's error.
    Error(ProgramError),
    /// Something else than one well-formed frame.
    Malformed(String),
}

/// Memory, by the kernel's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryEvidence {
    /// Processes that the kernel killed for this run's memory limit.
    pub oom_kills: u64,
    /// The highest use, in bytes, where it is known.
    pub peak: Option<u64>,
    /// Of an interpreter that was forked: the memory that it began with, in bytes, and that `peak`
    /// leaves out, because it is charged to the one that it was forked from until it is written to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inherited: Option<u64>,
    /// The limit, in bytes.
    pub limit: u64,
    /// Whether this interpreter aborts by itself (SIGABRT, SIGTRAP) when its heap meets the limit.
    pub heap_aborts: bool,
}

/// CPU time, by the kernel's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuEvidence {
    /// CPU time used by the whole tree, in microseconds, where it is known.
    pub used_us: Option<u64>,
    /// The limit, in microseconds, if there is one.
    pub limit_us: Option<u64>,
}

/// Processes, by the kernel's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessEvidence {
    /// Forks that the kernel refused for the limit.
    pub refused: u64,
    /// The most alive at once, where it is known.
    pub peak: Option<u64>,
    /// The limit.
    pub limit: u32,
}

/// Output, by our own count of bytes read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutputEvidence {
    /// Bytes of stdout kept.
    pub stdout: u64,
    /// Bytes of stderr kept.
    pub stderr: u64,
    /// Bytes of both discarded beyond the limit.
    pub discarded: u64,
}

/// Disk, by `statfs` of the sandbox's file systems after the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiskEvidence {
    /// No block or no inode was left in `/workspace` or `/tmp`.
    pub full: bool,
}

/// Network, by the counters of the sandbox's own network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetworkEvidence {
    /// Packets that found no route out.
    pub unroutable: u64,
    /// Datagrams to the sandbox's own loopback that nobody listened for: where a name lookup goes.
    pub unheard: u64,
}

/// A system call that the policy denied, recorded by the kernel's notification.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct DeniedCall {
    /// The system call's name.
    pub name: String,
    /// How often.
    pub count: u32,
    /// Whether the interpreter tries this call by itself and copes without it, so that it says
    /// nothing about the program.
    pub probe: bool,
}

/// Everything that [`crate::verdict`] may look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// How the first process ended; `None` if it was never seen to end.
    pub exit: Option<Exit>,
    /// Why we stopped the run, if we did.
    pub stopped: Option<StopReason>,
    /// Who counted memory, processes and CPU time.
    pub meters: Meters,
    /// What came on the channel of the value.
    pub frame: FrameEvidence,
    /// Memory.
    pub memory: MemoryEvidence,
    /// CPU time.
    pub cpu: CpuEvidence,
    /// Processes.
    pub processes: ProcessEvidence,
    /// Output.
    pub output: OutputEvidence,
    /// Disk.
    pub disk: DiskEvidence,
    /// Network.
    pub network: NetworkEvidence,
    /// Denied system calls, in order of first appearance.
    pub denied: Vec<DeniedCall>,
}

/// What a run used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Wall clock from the lease to the end, in microseconds.
    pub wall_us: u64,
    /// CPU time of the whole tree, in microseconds.
    pub cpu_us: Option<u64>,
    /// Peak memory, in bytes.
    pub memory_peak: Option<u64>,
    /// Most processes and threads alive at once.
    pub processes_peak: Option<u64>,
}

impl Usage {
    /// The wall clock as a duration.
    pub fn wall(&self) -> Duration {
        Duration::from_micros(self.wall_us)
    }
}
