//! One slot: the place that a sandbox takes from its first process to the removal of its group.
//!
//! ```text
//!            Prepare              cell ready, exec       listener in
//!   (free) ----------> Building ---------------> Confining -----------> Prepared
//!     |                  ^ |  \--> Connecting ----^  ^  |                 |    |
//!     | stock            | |  \--> Waiting -> Forking-/ |                 |    |
//!     v          Prepare | | (zygote)       \-> exec    |          Release|    | Lease
//!   Building --> Spare --/ | error, Release             v                 |    v
//!                          \-----------------------> Ending <------------+- Leased
//!                         |   ^   worker's end, Kill, deadline              |
//!                         |   +---------------------------------------------+
//!                         | worker and first process reaped
//!                         v
//!                       Ended --Release--> Releasing --group empty--> (free)
//! ```
//!
//! Only [`super::Launcher`] moves a slot, in answer to a command, an end, or the clock.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use ampoule_core::{NetworkPolicy, StopReason};
use rustix::{
    fs::fstatvfs,
    process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

use super::{network::Helper, watch::Watched};
use crate::{
    cgroup::Group,
    protocol::{CellLimits, Counters, Origin, WaitStatus},
};

/// Where a slot is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The first process puts the cell together.
    Building,
    /// A finished cell that nobody has asked for yet.
    Spare,
    /// The network helper is on its way.
    Connecting,
    /// The zygote is still starting.
    Waiting,
    /// The zygote has been asked for a worker.
    Forking,
    /// The worker joins and confines itself.
    Confining,
    /// The interpreter has its descriptors and may run up to its first read.
    Prepared,
    /// The clocks run.
    Leased,
    /// Killed; not everything is reaped yet.
    Ending,
    /// No process is left. The file systems are, for collection.
    Ended,
    /// All but the control group is gone.
    Releasing,
}

/// So long after its lease a run is one of those that end soon.
const PRESSING: Duration = Duration::from_millis(20);

/// Most runs end in less.
const QUICK_END: Duration = Duration::from_millis(4);

/// The clocks of a leased slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    pub(super) cpu: Option<Duration>,
}

/// A process of the cell: alive while its pidfd is here.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pidfd: OwnedFd,
}

impl Process {
    /// Reaps it if it has ended.
    pub(super) fn reap(&self) -> Option<WaitStatus> {
        use std::os::fd::AsFd as _;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => WaitStatus::Exited(code),
                (_, Some(signal)) => WaitStatus::Signaled(signal),
                _ => WaitStatus::Unknown,
            }),
            Ok(None) => None,
            // Nothing to wait for any more: it is gone, and nobody can say how.
            Err(_) => Some(WaitStatus::Unknown),
        }
    }
}

/// What a cell has handed over.
#[derive(Debug)]
pub(super) struct Handles {
    pub(super) workspace: OwnedFd,
    pub(super) tmp: OwnedFd,
    pub(super) snmp: OwnedFd,
    pub(super) snmp6: OwnedFd,
}

/// An order to a zygote that is not answered yet: whatever it forks is ours to reap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forking {
    /// The zygote's place.
    pub(super) zygote: usize,
    pub(super) since: Instant,
}

/// A slot in use.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// The manager's name for the request that this was built for; none of a spare cell.
    pub(super) ticket: Option<u32>,
    pub(super) template: usize,
    pub(super) origin: Origin,
    /// The order to a zygote that is not answered yet.
    pub(super) forking: Option<Forking>,
    /// What a forked worker has of its zygote's, in bytes.
    pub(super) inherited: Option<u64>,
    /// The listener of a worker that its zygote has not told of yet.
    pub(super) early_listener: Option<OwnedFd>,
    /// Why such a worker failed.
    pub(super) early_failure: Option<String>,
    pub(super) limits: CellLimits,
    pub(super) network: NetworkPolicy,
    /// The way out, while there is one or should be.
    pub(super) helper: Option<Helper>,
    pub(super) cell: Option<Process>,
    /// Its pid in our `/proc`.
    pub(super) pid: Option<u32>,
    pub(super) worker: Option<Process>,
    /// The socket over which the process under construction speaks.
    pub(super) setup: Option<OwnedFd>,
    /// The manager's ends of the pipes, until they are sent.
    pub(super) pipes: Vec<OwnedFd>,
    pub(super) handles: Option<Handles>,
    /// The cell's mount namespace, which no end of a process then has to wait for.
    pub(super) mounts: Option<OwnedFd>,
    /// The janitor has them and has not said that they are closed.
    pub(super) clearing: bool,
    pub(super) group: Option<Group>,
    /// Who counts where no control group does.
    pub(super) watched: Option<Watched>,
    pub(super) lease: Option<Lease>,
    /// Attempts on the network, if they were counted already.
    pub(super) tried: Option<(u64, u64)>,
    pub(super) status: WaitStatus,
    pub(super) stopped: Option<StopReason>,
    pub(super) born: Instant,
    /// When it has taken long enough to end; nothing before it is killed, and after it was hurried.
    pub(super) overdue: Option<Instant>,
    /// When the cell was ready for its worker.
    pub(super) cell_ready: Option<Instant>,
    /// Remove as soon as nothing lives: the manager has already let go, or never knew.
    pub(super) abandoned: bool,
}

impl Slot {
    /// A slot whose first process has just been cloned.
    pub(super) fn new(template: usize, limits: CellLimits, network: NetworkPolicy) -> Self {
        Self {
            state: State::Building,
            ticket: None,
            template,
            origin: Origin::Exec,
            forking: None,
            inherited: None,
            early_listener: None,
            early_failure: None,
            limits,
            network,
            helper: None,
            cell: None,
            pid: None,
            worker: None,
            setup: None,
            pipes: Vec::new(),
            handles: None,
            mounts: None,
            clearing: false,
            group: None,
            watched: None,
            lease: None,
            tried: None,
            status: WaitStatus::Unknown,
            stopped: None,
            born: Instant::now(),
            overdue: None,
            cell_ready: None,
            abandoned: false,
        }
    }

    /// Whether a process of the slot may still run.
    pub(super) fn is_alive(&self) -> bool {
        self.cell.is_some()
            || self.worker.is_some()
            || self.helper.is_some()
            || self.forking.is_some()
    }

    /// Whether it is still being built.
    pub(super) fn is_unfinished(&self) -> bool {
        matches!(
            self.state,
            State::Building
                | State::Connecting
                | State::Waiting
                | State::Forking
                | State::Confining
        )
    }

    /// Whether somebody waits for what comes next.
    pub(super) fn is_pressing(&self, now: Instant) -> bool {
        match self.state {
            State::Leased => self.lease.is_some_and(|lease| now < lease.began + PRESSING),
            State::Ending | State::Ended => true,
            _ => self.is_unfinished(),
        }
    }

    /// Kills everything in the cell: by its control group where the kernel can, which needs nobody
    /// in the cell to come along; and by its first process, whose end is the end of its namespace.
    /// The network helper goes too.
    pub(super) fn kill(&mut self) {
        if let Some(group) = &self.group {
            group.kill();
        }
        self.helper = self.helper.take().and_then(Helper::dismiss);
        // The worker first: it takes the longest, and should not wait for a CPU behind the other.
        for process in [&self.worker, &self.cell].into_iter().flatten() {
            // Gone already is as good.
            let _ = pidfd_send_signal(&process.pidfd, Signal::KILL);
        }
        if !matches!(self.state, State::Ending | State::Ended | State::Releasing) {
            self.state = State::Ending;
            self.overdue = Some(Instant::now() + QUICK_END);
        }
    }

    /// Has what was killed end faster, if it takes long.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.overdue.take_if(|overdue| *overdue <= now).is_some()
            && let Some(group) = &self.group
        {
            group.hurry();
        }
    }

    /// Starts the clocks.
    pub(super) fn lease(&mut self, lease: Lease) {
        self.lease = Some(lease);
        if self.state == State::Prepared {
            self.state = State::Leased;
        }
        if let Some(group) = &mut self.group {
            group.lease();
        }
        if let Some(watched) = &mut self.watched {
            watched.lease();
        }
    }

    /// CPU time since the lease, in microseconds.
    fn cpu_us(&self) -> Option<u64> {
        match &self.watched {
            Some(watched) => Some(watched.cpu_us()),
            None => self.group.as_ref()?.cpu_us(),
        }
    }

    /// The clock that has run out for a leased run, if any.
    pub(super) fn exceeded(&self, now: Instant) -> Option<StopReason> {
        let Lease { deadline, cpu, .. } = self.lease.filter(|_| self.state == State::Leased)?;
        if deadline <= now {
            return Some(StopReason::Wall);
        }
        let (most, used) = (cpu?, self.cpu_us()?);
        (Duration::from_micros(used) >= most).then_some(StopReason::Cpu)
    }

    /// When a leased run has to be looked at next.
    pub(super) fn next_look(&self, now: Instant) -> Option<Duration> {
        let Lease { deadline, cpu, .. } = self.lease.filter(|_| self.state == State::Leased)?;
        let wall = deadline.saturating_duration_since(now);
        Some(if cpu.is_some() { wall.min(super::TICK) } else { wall })
    }

    /// Counts what has been tried on the network until the result was in, while the worker ends:
    /// whatever comes after its result is no reason for it.
    pub(super) fn count_network(&mut self) {
        if let (Some(handles), None) = (&self.handles, self.tried) {
            self.tried = unroutable(handles, self.network);
        }
    }

    /// What the kernel counted for this run.
    pub(super) fn count(&self) -> Counters {
        let mut counters = Counters { inherited: self.inherited, ..Counters::default() };
        if let Some(group) = &self.group {
            group.count(&mut counters);
        }
        if let Some(watched) = &self.watched {
            watched.count(&mut counters);
            // What each process has is looked at, whoever has it too.
            counters.inherited = self.inherited.and(Some(0));
        }
        if let Some(handles) = &self.handles {
            counters.disk_full = is_full(&handles.workspace) || is_full(&handles.tmp);
            let tried = self.tried.or_else(|| unroutable(handles, self.network));
            if let Some((unroutable, unheard)) = tried {
                counters.unroutable = Some(unroutable);
                counters.unheard = Some(unheard);
            }
        }
        counters
    }
}

/// Whether no block or no inode is left.
fn is_full(directory: &OwnedFd) -> bool {
    fstatvfs(directory).is_ok_and(|stat| stat.f_bavail == 0 || stat.f_ffree == 0)
}

/// Packets of the cell's network namespace that found no route; and datagrams to its loopback that
/// nobody listens for, which is where a name lookup goes. With a way out, which is IPv4's, a packet
/// of IPv6 is no attempt at what is closed: programs try both families.
fn unroutable(handles: &Handles, network: NetworkPolicy) -> Option<(u64, u64)> {
    let mut buffer = [0; 8192];
    let mut read = |fd: &OwnedFd| -> Option<String> {
        let length = rustix::io::pread(fd, &mut buffer, 0).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let (v4, v6) = (read(&handles.snmp)?, read(&handles.snmp6)?);
    let mut routeless = column(&v4, "Ip:", "OutNoRoutes")?;
    if network == NetworkPolicy::None {
        routeless += row(&v6, "Ip6OutNoRoutes")?;
    }
    let unheard = column(&v4, "Udp:", "NoPorts")? + row(&v6, "Udp6NoPorts")?;
    Some((routeless, unheard))
}

/// A value of `/proc/net/snmp`: a line of names, then a line of numbers, both under one heading.
fn column(text: &str, heading: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(heading));
    let at = lines.next()?.split_whitespace().position(|have| have == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// A value of `/proc/net/snmp6`: a name and a number in each line.
fn row(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_both_layouts() {
        let v4 = "Ip: Forwarding OutNoRoutes X\nIp: 2 7 1\nIcmp: OutNoRoutes\nIcmp: 5\n";
        assert_eq!(column(v4, "Ip:", "OutNoRoutes"), Some(7));
        assert_eq!(
            row("Ip6InReceives   \t3\nIp6OutNoRoutes                  \t4\n", "Ip6OutNoRoutes"),
            Some(4)
        );
        assert_eq!(column("", "Ip:", "OutNoRoutes"), None);
    }
}
