//! The messages between manager and launcher.
//!
//! Fixed-size, typed, with indices and no paths: the launcher never parses anything that a caller
//! or a program could have shaped. One message is one datagram of a `SOCK_SEQPACKET` pair;
//! descriptors travel beside it.
//!
//! ```text
//! manager                          launcher
//!   Prepare{ticket, template, …}  ->  builds a cell and a worker in it
//!                                 <-  Prepared{ticket, slot} + 5 descriptors, or Failed{ticket}
//!   Lease{slot, limits}           ->  the clock starts
//!   Kill{slot, why}               ->  (result is in, output limit, caller gone)
//!                                 <-  Ended{slot, wait status, counters}: no process is left
//!                                 <-  File{slot, …} + descriptor, as many as it said
//!   Release{slot}                 ->
//!                                 <-  Released{slot}: nothing is left
//! ```

use std::time::Duration;

use ampoule_core::{NetworkPolicy, StopReason};

/// The length of every message in bytes.
pub(crate) const MESSAGE_LEN: usize = 384;
/// The longest file name that is told.
pub(crate) const NAME_LEN: usize = 255;
/// The longest error text that is told.
const TEXT_LEN: usize = 300;

/// A bounded limit set, in the kernel's units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellLimits {
    /// Memory, swap included, in bytes.
    pub memory: u64,
    /// Bytes of the working directory.
    pub disk: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Thousandths of a CPU.
    pub millicpus: u32,
}

/// Where the interpreter of a sandbox comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An exec of its own.
    Exec,
    /// A fork of a warm one, if that can be had; else an exec.
    Zygote {
        /// Index among the template's.
        zygote: u32,
        /// The manager's number of the group that shares it.
        group: u32,
    },
}

/// What the manager asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Builds a sandbox whose interpreter waits for its one request.
    Prepare {
        /// The manager's name for this request.
        ticket: u32,
        /// Index of the template.
        template: u32,
        /// Where its interpreter comes from.
        origin: Origin,
        /// What the sandbox may use.
        limits: CellLimits,
        /// What it may reach.
        network: NetworkPolicy,
    },
    /// Starts the clocks.
    Lease {
        /// The sandbox.
        slot: u32,
        /// Wall clock.
        wall: Duration,
        /// CPU time, if bounded.
        cpu: Option<Duration>,
    },
    /// Ends a run.
    Kill {
        /// The sandbox.
        slot: u32,
        /// Why.
        reason: StopReason,
    },
    /// Removes a sandbox, whatever its state.
    Release {
        /// The sandbox.
        slot: u32,
    },
}

/// How the first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitStatus {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It was not seen to end.
    Unknown,
}

/// What the kernel counted. `None`: this machine does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Processes killed for the memory limit.
    pub oom_kills: Option<u64>,
    /// Peak memory in bytes.
    pub memory_peak: Option<u64>,
    /// CPU time since the lease, in microseconds.
    pub cpu_us: Option<u64>,
    /// Forks refused for the limit.
    pub forks_refused: Option<u64>,
    /// Most processes and threads at once.
    pub processes_peak: Option<u64>,
    /// Packets without a route.
    pub unroutable: Option<u64>,
    /// Datagrams to the loopback that nobody listened for.
    pub unheard: Option<u64>,
    /// Whether a file system of the sandbox was full at the end.
    pub disk_full: bool,
    /// Of a forked worker: the memory that it began with, in bytes, and that its peak leaves out,
    /// because it is its zygote's until it is written to.
    pub inherited: Option<u64>,
}

/// Why a file was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileNote {
    /// It was not left: its descriptor comes with the message.
    Readable,
    /// A directory.
    Directory,
    /// A symbolic link, a pipe, a socket or a device.
    Special,
    /// It could not be opened.
    Unreadable,
}

/// The meters beside memory's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelMeters {
    /// Processes and threads are limited.
    pub processes: bool,
    /// CPU bandwidth is limited.
    pub cpu: bool,
    /// Memory that is swapped out counts.
    pub swap: bool,
}

/// What a launcher has found and put up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// The version of Landlock in force, or 0.
    pub landlock_abi: u32,
    /// The cgroup version in force, or 0.
    pub cgroup_version: u32,
    /// Whether processes, CPU bandwidth and swapped memory are limited as well.
    pub meters: KernelMeters,
    /// Whether two ids are mapped per sandbox.
    pub two_ids: bool,
    /// Whether each sandbox has device nodes of its own.
    pub own_devices: bool,
    /// Whether cells have a `/proc` of their own.
    pub proc: bool,
    /// Why no sandbox can have a way out, if none can.
    pub network_hurdle: Option<String>,
}

/// What the launcher tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The launcher is ready for commands, and this is what it has.
    Ready(Conditions),
    /// A sandbox waits for its request. Descriptors: request (write); stdout, stderr and result
    /// (read); seccomp notifications.
    Prepared {
        /// Of the command.
        ticket: u32,
        /// The sandbox.
        slot: u32,
        /// How long the cell took.
        cell: Duration,
        /// How long the worker took to join it and confine itself.
        worker: Duration,
    },
    /// A command could not be carried out. `ticket` is `u32::MAX` if the launcher itself failed.
    Failed {
        /// Of the command.
        ticket: u32,
        /// Whether every slot is in use, so that the same may succeed later.
        full: bool,
        /// The step and the kernel's error, for the log.
        text: String,
    },
    /// No process of the run exists any more.
    Ended {
        /// The sandbox.
        slot: u32,
        /// How the first process ended.
        status: WaitStatus,
        /// Why we ended it, if we did.
        stopped: Option<StopReason>,
        /// What the kernel counted.
        counters: Counters,
        /// Entries of `artifacts/` that are told next.
        files: u32,
        /// Entries beyond those.
        more: u32,
    },
    /// One entry of `artifacts/`.
    File {
        /// The sandbox.
        slot: u32,
        /// Whether its descriptor comes along.
        note: FileNote,
        /// Its size in bytes.
        size: u64,
        /// Its name as the file system has it.
        name: Vec<u8>,
    },
    /// Nothing of the sandbox is left.
    Released {
        /// The sandbox.
        slot: u32,
    },
    /// A zygote is ready; or it could not be had, or was lost, and why.
    Zygote {
        /// Index of the template.
        template: u32,
        /// Index among the template's.
        zygote: u32,
        /// The manager's number of the group that shares it.
        group: u32,
        /// What is wrong.
        trouble: Option<String>,
    },
}

/// A datagram that is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message of kind {0}")]
pub struct Malformed(u8);

struct Writer {
    bytes: [u8; MESSAGE_LEN],
    at: usize,
}

impl Writer {
    fn new(kind: u8) -> Self {
        let mut bytes = [0; MESSAGE_LEN];
        bytes[0] = kind;
        Self { bytes, at: 1 }
    }

    fn put(mut self, data: &[u8]) -> Self {
        self.bytes[self.at..self.at + data.len()].copy_from_slice(data);
        self.at += data.len();
        self
    }

    fn u8(self, value: u8) -> Self {
        self.put(&[value])
    }

    fn u32(self, value: u32) -> Self {
        self.put(&value.to_le_bytes())
    }

    fn i32(self, value: i32) -> Self {
        self.put(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.put(&value.to_le_bytes())
    }

    fn optional(self, value: Option<u64>) -> Self {
        self.u8(u8::from(value.is_some())).u64(value.unwrap_or(0))
    }

    fn origin(self, origin: Origin) -> Self {
        match origin {
            Origin::Exec => self.u8(0).u32(0).u32(0),
            Origin::Zygote { zygote, group } => self.u8(1).u32(zygote).u32(group),
        }
    }

    fn blob(self, data: &[u8], most: usize) -> Self {
        let data = &data[..data.len().min(most)];
        self.u32(u32::try_from(data.len()).unwrap_or(0)).put(data)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    kind: u8,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.bytes.split_at_checked(length).ok_or(Malformed(self.kind))?;
        self.bytes = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let kind = self.kind;
        self.take(N)?.try_into().map_err(|_| Malformed(kind))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn optional(&mut self) -> Result<Option<u64>, Malformed> {
        let present = self.u8()? != 0;
        let value = self.u64()?;
        Ok(present.then_some(value))
    }

    fn blob(&mut self) -> Result<Vec<u8>, Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed(self.kind))?;
        Ok(self.take(length)?.to_vec())
    }

    fn origin(&mut self) -> Result<Origin, Malformed> {
        let (kind, zygote, group) = (self.u8()?, self.u32()?, self.u32()?);
        match kind {
            0 => Ok(Origin::Exec),
            1 => Ok(Origin::Zygote { zygote, group }),
            _ => Err(Malformed(self.kind)),
        }
    }

    fn reason(&mut self) -> Result<Option<StopReason>, Malformed> {
        Ok(match self.u8()? {
            0 => None,
            1 => Some(StopReason::Result),
            2 => Some(StopReason::Wall),
            3 => Some(StopReason::Cpu),
            4 => Some(StopReason::Output),
            5 => Some(StopReason::Cancelled),
            6 => Some(StopReason::Platform),
            7 => Some(StopReason::Memory),
            8 => Some(StopReason::Processes),
            9 => Some(StopReason::NetworkHelper),
            _ => return Err(Malformed(self.kind)),
        })
    }
}

fn reason_code(reason: Option<StopReason>) -> u8 {
    match reason {
        None => 0,
        Some(StopReason::Result) => 1,
        Some(StopReason::Wall) => 2,
        Some(StopReason::Cpu) => 3,
        Some(StopReason::Output) => 4,
        Some(StopReason::Cancelled) => 5,
        Some(StopReason::Platform) => 6,
        Some(StopReason::Memory) => 7,
        Some(StopReason::Processes) => 8,
        Some(StopReason::NetworkHelper) => 9,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Command {
    /// The message as a datagram.
    pub fn encode(&self) -> [u8; MESSAGE_LEN] {
        match *self {
            Self::Prepare { ticket, template, origin, limits, network } => Writer::new(1)
                .u32(ticket)
                .u32(template)
                .origin(origin)
                .u64(limits.memory)
                .u64(limits.disk)
                .u32(limits.processes)
                .u32(limits.millicpus)
                .u8(u8::from(network == NetworkPolicy::Open)),
            Self::Lease { slot, wall, cpu } => {
                Writer::new(2).u32(slot).u64(micros(wall)).optional(cpu.map(micros))
            }
            Self::Kill { slot, reason } => Writer::new(3).u32(slot).u8(reason_code(Some(reason))),
            Self::Release { slot } => Writer::new(4).u32(slot),
        }
        .bytes
    }

    /// Reads a datagram.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, kind: 0 };
        reader.kind = reader.u8()?;
        Ok(match reader.kind {
            1 => Self::Prepare {
                ticket: reader.u32()?,
                template: reader.u32()?,
                origin: reader.origin()?,
                limits: CellLimits {
                    memory: reader.u64()?,
                    disk: reader.u64()?,
                    processes: reader.u32()?,
                    millicpus: reader.u32()?,
                },
                network: match reader.u8()? {
                    0 => NetworkPolicy::None,
                    1 => NetworkPolicy::Open,
                    _ => return Err(Malformed(1)),
                },
            },
            2 => Self::Lease {
                slot: reader.u32()?,
                wall: Duration::from_micros(reader.u64()?),
                cpu: reader.optional()?.map(Duration::from_micros),
            },
            3 => Self::Kill { slot: reader.u32()?, reason: reader.reason()?.ok_or(Malformed(3))? },
            4 => Self::Release { slot: reader.u32()? },
            kind => return Err(Malformed(kind)),
        })
    }
}

impl Report {
    /// The message as a datagram.
    pub fn encode(&self) -> [u8; MESSAGE_LEN] {
        match self {
            Self::Ready(conditions) => {
                let writer = Writer::new(1)
                    .u32(conditions.landlock_abi)
                    .u32(conditions.cgroup_version)
                    .u8(u8::from(conditions.meters.processes))
                    .u8(u8::from(conditions.meters.cpu))
                    .u8(u8::from(conditions.meters.swap))
                    .u8(u8::from(conditions.two_ids))
                    .u8(u8::from(conditions.own_devices))
                    .u8(u8::from(conditions.proc));
                match &conditions.network_hurdle {
                    None => writer.u8(0),
                    Some(text) => writer.u8(1).blob(text.as_bytes(), TEXT_LEN),
                }
            }
            Self::Prepared { ticket, slot, cell, worker } => {
                Writer::new(2).u32(*ticket).u32(*slot).u64(micros(*cell)).u64(micros(*worker))
            }
            Self::Failed { ticket, full, text } => {
                Writer::new(3).u32(*ticket).u8(u8::from(*full)).blob(text.as_bytes(), TEXT_LEN)
            }
            Self::Ended { slot, status, stopped, counters, files, more } => {
                let (kind, number) = match *status {
                    WaitStatus::Exited(code) => (0, code),
                    WaitStatus::Signaled(signal) => (1, signal),
                    WaitStatus::Unknown => (2, 0),
                };
                Writer::new(4)
                    .u32(*slot)
                    .u8(kind)
                    .i32(number)
                    .u8(reason_code(*stopped))
                    .optional(counters.oom_kills)
                    .optional(counters.memory_peak)
                    .optional(counters.cpu_us)
                    .optional(counters.forks_refused)
                    .optional(counters.processes_peak)
                    .optional(counters.unroutable)
                    .optional(counters.unheard)
                    .u8(u8::from(counters.disk_full))
                    .optional(counters.inherited)
                    .u32(*files)
                    .u32(*more)
            }
            Self::File { slot, note, size, name } => Writer::new(5)
                .u32(*slot)
                .u8(match note {
                    FileNote::Readable => 0,
                    FileNote::Directory => 1,
                    FileNote::Special => 2,
                    FileNote::Unreadable => 3,
                })
                .u64(*size)
                .blob(name, NAME_LEN),
            Self::Released { slot } => Writer::new(6).u32(*slot),
            Self::Zygote { template, zygote, group, trouble } => {
                let text = trouble.as_deref().unwrap_or_default();
                Writer::new(7)
                    .u32(*template)
                    .u32(*zygote)
                    .u32(*group)
                    .u8(u8::from(trouble.is_some()))
                    .blob(text.as_bytes(), TEXT_LEN)
            }
        }
        .bytes
    }

    /// Reads a datagram.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader { bytes, kind: 0 };
        reader.kind = reader.u8()?;
        Ok(match reader.kind {
            1 => Self::Ready(Conditions {
                landlock_abi: reader.u32()?,
                cgroup_version: reader.u32()?,
                meters: KernelMeters {
                    processes: reader.u8()? != 0,
                    cpu: reader.u8()? != 0,
                    swap: reader.u8()? != 0,
                },
                two_ids: reader.u8()? != 0,
                own_devices: reader.u8()? != 0,
                proc: reader.u8()? != 0,
                network_hurdle: match reader.u8()? {
                    0 => None,
                    _ => Some(String::from_utf8_lossy(&reader.blob()?).into_owned()),
                },
            }),
            2 => Self::Prepared {
                ticket: reader.u32()?,
                slot: reader.u32()?,
                cell: Duration::from_micros(reader.u64()?),
                worker: Duration::from_micros(reader.u64()?),
            },
            3 => Self::Failed {
                ticket: reader.u32()?,
                full: reader.u8()? != 0,
                text: String::from_utf8_lossy(&reader.blob()?).into_owned(),
            },
            4 => {
                let slot = reader.u32()?;
                let status = match (reader.u8()?, reader.i32()?) {
                    (0, code) => WaitStatus::Exited(code),
                    (1, signal) => WaitStatus::Signaled(signal),
                    _ => WaitStatus::Unknown,
                };
                let stopped = reader.reason()?;
                let counters = Counters {
                    oom_kills: reader.optional()?,
                    memory_peak: reader.optional()?,
                    cpu_us: reader.optional()?,
                    forks_refused: reader.optional()?,
                    processes_peak: reader.optional()?,
                    unroutable: reader.optional()?,
                    unheard: reader.optional()?,
                    disk_full: reader.u8()? != 0,
                    inherited: reader.optional()?,
                };
                let (files, more) = (reader.u32()?, reader.u32()?);
                Self::Ended { slot, status, stopped, counters, files, more }
            }
            5 => Self::File {
                slot: reader.u32()?,
                note: match reader.u8()? {
                    0 => FileNote::Readable,
                    1 => FileNote::Directory,
                    2 => FileNote::Special,
                    _ => FileNote::Unreadable,
                },
                size: reader.u64()?,
                name: reader.blob()?,
            },
            6 => Self::Released { slot: reader.u32()? },
            7 => Self::Zygote {
                template: reader.u32()?,
                zygote: reader.u32()?,
                group: reader.u32()?,
                trouble: match (reader.u8()?, reader.blob()?) {
                    (0, _) => None,
                    (_, text) => Some(String::from_utf8_lossy(&text).into_owned()),
                },
            },
            kind => return Err(Malformed(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..MESSAGE_LEN + 8)) {
            let _ = Command::decode(&bytes);
            let _ = Report::decode(&bytes);
        }

        #[test]
        fn commands_survive_the_wire(ticket: u32, template: u32, memory: u64, disk: u64, processes: u32, millicpus: u32, cpu in proptest::option::of(any::<u64>())) {
            let limits = CellLimits { memory, disk, processes, millicpus };
            for command in [
                Command::Prepare { ticket, template, origin: Origin::Exec, limits, network: NetworkPolicy::None },
                Command::Prepare { ticket, template, origin: Origin::Zygote { zygote: processes, group: millicpus }, limits, network: NetworkPolicy::Open },
                Command::Lease { slot: ticket, wall: Duration::from_micros(memory), cpu: cpu.map(Duration::from_micros) },
                Command::Kill { slot: ticket, reason: StopReason::Output },
                Command::Release { slot: ticket },
            ] {
                prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
            }
        }

        #[test]
        fn reports_survive_the_wire(slot: u32, size: u64, name in proptest::collection::vec(any::<u8>(), 0..NAME_LEN), text in "[a-z ]{0,90}") {
            let counters = Counters { oom_kills: Some(size), disk_full: true, inherited: Some(size), ..Counters::default() };
            for report in [
                Report::Ready(Conditions { landlock_abi: 7, cgroup_version: 1, meters: KernelMeters { processes: true, ..KernelMeters::default() }, two_ids: true, own_devices: false, proc: true, network_hurdle: (slot % 2 == 0).then(|| text.clone()) }),
                Report::Prepared { ticket: slot, slot, cell: Duration::from_micros(7), worker: Duration::from_micros(size) },
                Report::Failed { ticket: slot, full: true, text: text.clone() },
                Report::Ended { slot, status: WaitStatus::Signaled(9), stopped: Some(StopReason::Wall), counters, files: slot, more: 3 },
                Report::File { slot, note: FileNote::Special, size, name: name.clone() },
                Report::Zygote { template: slot, zygote: 1, group: 2, trouble: (slot % 2 == 0).then(|| text.clone()) },
                Report::Released { slot },
            ] {
                prop_assert_eq!(Report::decode(&report.encode()), Ok(report));
            }
        }
    }
}
