//! The launcher: builds and ends sandboxes. Synchronous, single-threaded, PID 1 of its own pid
//! namespace in its own user namespace. It never sees code, arguments or output.

mod artifacts;
mod assembly;
mod cell;
mod janitor;
mod lures;
mod nest;
mod network;
mod root;
mod rules;
mod slot;
mod strangers;
mod watch;
mod without;
mod worker;
mod zygote;

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use ampoule_core::{Layer, StopReason};
use rustix::{
    event::{Timespec, epoll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    process::{Signal, set_parent_process_death_signal},
    thread::set_name,
};

use janitor::{Janitor, Word};
use nest::Nests;
use root::Image;
use rules::Rules;
use slot::{Handles, Lease, Process, Slot, State};
use without::Without;

use crate::{
    cgroup::Meters,
    config::Warm,
    error::{Jail, JailError, Step},
    fences,
    handover::{CONFIG_FD, FIRST_GROUP_FD, LINE_FD, SOCKET_FD, Start, read_json, report_failure},
    hurdles::{Machine, recognise},
    protocol::{Command, Conditions, KernelMeters, MESSAGE_LEN, Report},
    seccomp, wire,
};

/// How often the watches look.
const TICK: Duration = Duration::from_millis(20);
/// After a spare cell that could not be built, or did not stay, the next one waits so long.
const RESTOCK_PAUSE: Duration = Duration::from_secs(1);
/// How long building a cell or confining a worker may take.
const SETUP_DEADLINE: Duration = Duration::from_secs(10);
const SETUP_ERROR_LEN: usize = 256;

/// Tokens of the event queue: a slot and what of it, or the socket.
const SOCKET_TOKEN: u64 = u64::MAX;
const LINE_TOKEN: u64 = u64::MAX - 1;
const JANITOR_TOKEN: u64 = u64::MAX - 2;
const CELL: u64 = 0;
const WORKER: u64 = 1;
const SETUP: u64 = 2;

struct Launcher {
    socket: OwnedFd,
    epoll: OwnedFd,
    /// The line to the keeper, who starts network helpers.
    line: OwnedFd,
    pid_namespace: File,
    meters: Meters,
    images: Vec<Image>,
    /// Whether cells may have a `/proc` of their own.
    proc: bool,
    rules: Rules,
    /// The first host id of the slots, two each; `None` with one id for everything.
    first_id: Option<u32>,
    /// Whether each slot has device nodes of its own.
    own_devices: bool,
    slots: Vec<Option<Slot>>,
    /// Messages that the manager's socket had no room for.
    outbox: VecDeque<([u8; MESSAGE_LEN], Vec<OwnedFd>)>,
    /// Whether the event queue tells of room.
    outbox_waits: bool,
    /// Counts runs, so that no two groups share a name.
    runs: u64,
    /// Before this the watch does not look again.
    watch_after: Instant,
    /// What is left out of every cell: nothing, but for a test.
    without: Without,
    /// What is kept ready.
    warm: Warm,
    /// Whether a spare cell is wanted.
    is_low: bool,
    /// Before this none is built: the last one came to nothing.
    restock_after: Instant,
    nests: Nests,
    /// None is left if one could not live.
    janitor: Option<Janitor>,
}

/// Runs as the launcher on the descriptors that the keeper has laid out.
pub(crate) fn run() -> Jail<()> {
    // SAFETY: the keeper lays out exactly these descriptors before its exec, and nobody else in
    // this fresh process owns them.
    let (socket, config, line) = unsafe {
        (
            OwnedFd::from_raw_fd(SOCKET_FD),
            File::from_raw_fd(CONFIG_FD),
            OwnedFd::from_raw_fd(LINE_FD),
        )
    };
    let machine = Machine::look();
    let outcome = Launcher::start(socket, config, line).map_err(|(socket, error)| {
        let error = recognise(&machine, error);
        report_failure(socket.as_fd(), &error);
        error
    });
    outcome?.serve()
}

/// Tells the launcher, from a process under construction, what went wrong.
fn send_error(setup: BorrowedFd<'_>, error: &JailError) {
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(SETUP_ERROR_LEN - 1));
    let _ = wire::send(setup, format!("E{text}").as_bytes(), &[]);
}

impl Launcher {
    fn start(socket: OwnedFd, config: File, line: OwnedFd) -> Result<Self, (OwnedFd, JailError)> {
        match Self::build(&socket, config, line) {
            Ok(build) => Ok(build(socket)),
            Err(error) => Err((socket, error)),
        }
    }

    /// Does everything that may fail, and gives what makes a launcher of the socket.
    fn build(
        socket: &OwnedFd,
        config: File,
        line: OwnedFd,
    ) -> Jail<impl FnOnce(OwnedFd) -> Self + use<>> {
        set_parent_process_death_signal(Some(Signal::KILL)).step("follow the keeper")?;
        let _ = set_name(c"ampoule-launcher");
        let start: Start = read_json(config)?;
        // SAFETY: the keeper has put the groups of this layout from this descriptor on.
        let meters = unsafe { Meters::inherit(start.layout, FIRST_GROUP_FD) };
        let policy = seccomp::Policy::parse(&start.config.policy)
            .map_err(io::Error::other)
            .step("read the system call policy")?;
        let policy = match meters.version() {
            0 => policy.watched(),
            _ => policy,
        };
        let filter = policy
            .compile(seccomp::Arch::NATIVE)
            .map_err(io::Error::other)
            .step("compile the policy")?;
        let may_miss = |layer| start.config.allow_missing.contains(&layer);
        let landlock_abi = match fences::landlock_abi() {
            Err(_) if may_miss(Layer::Landlock) => 0,
            abi => abi.map_err(JailError::from).map_err(|error| error.in_step("find Landlock"))?,
        };
        let pid_namespace = File::open("/proc/self/ns/pid").step("open our pid namespace")?;
        let circumstances = root::Circumstances {
            ids: start.first_id.is_some(),
            own_devices: start.own_devices,
            shared_devices: start.config.without.contains(&Layer::OwnDevices),
            way_out: start.network_hurdle.is_none(),
            may_miss_proc: may_miss(Layer::Proc),
        };
        let root = root::build(&start.config.templates, circumstances)?;
        let janitor = Janitor::start()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).step("make an event queue")?;
        watch_descriptor(&epoll, janitor.as_fd(), JANITOR_TOKEN, epoll::EventFlags::IN)?;
        for (socket, token) in [(socket, SOCKET_TOKEN), (&line, LINE_TOKEN)] {
            fcntl_setfl(socket, fcntl_getfl(socket).step("read flags")? | OFlags::NONBLOCK)
                .step("make the socket non-blocking")?;
            watch_descriptor(&epoll, socket.as_fd(), token, epoll::EventFlags::IN)?;
        }
        let mut slots = Vec::new();
        slots.resize_with(usize::try_from(start.config.slots).unwrap_or(0), || None);
        let ready = Report::Ready(Conditions {
            landlock_abi,
            cgroup_version: meters.version(),
            meters: KernelMeters {
                processes: meters.has("pids"),
                cpu: meters.has("cpu"),
                swap: meters.counts_swap(),
            },
            two_ids: start.first_id.is_some(),
            own_devices: start.own_devices,
            proc: root.proc,
            network_hurdle: start.network_hurdle,
        });
        let without = Without::new(start.config.without);
        let mut rules = Rules {
            landlock_abi,
            hard_limits: rules::hard_limits(),
            filter: filter.instructions().to_vec(),
        };
        without.loosen(&mut rules);
        let mut warm = start.config.warm;
        // Of a warm interpreter's own files a worker keeps what Landlock alone denies it; a zygote
        // looks at itself in `/proc`; and what a test leaves out, only an exec leaves out.
        warm.zygotes &= landlock_abi > 0 && root.proc && without.is_empty();
        let terms = match warm.zygotes {
            // The watch would count it as the program's.
            true => zygote::terms(&rules, start.first_id.is_none(), meters.version() > 0)?,
            false => Vec::new(),
        };
        Ok(move |socket| {
            let mut launcher = Self {
                socket,
                epoll,
                line,
                pid_namespace,
                meters,
                images: root.images,
                proc: root.proc,
                rules,
                first_id: start.first_id,
                own_devices: start.own_devices,
                slots,
                outbox: VecDeque::new(),
                outbox_waits: false,
                runs: 0,
                watch_after: Instant::now(),
                without,
                warm,
                is_low: false,
                restock_after: Instant::now(),
                nests: Nests::new(terms),
                janitor: Some(janitor),
            };
            launcher.tell(&ready, Vec::new());
            launcher.hatch();
            launcher
        })
    }

    /// Serves until the manager is gone. Returning ends the process, and with it every other one.
    fn serve(mut self) -> Jail<()> {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            let timeout = self.next_wake().map(|wait| Timespec {
                tv_sec: wait.as_secs().cast_signed(),
                tv_nsec: wait.subsec_nanos().into(),
            });
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).step("wait for events"),
            }
            // Commands first: a lease was sent before the program could run, so it is here before
            // the program's end is looked at.
            self.flush();
            if !self.take_commands()? {
                return Ok(());
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                if token == SOCKET_TOKEN {
                    continue;
                }
                if token == LINE_TOKEN {
                    self.hear_keeper();
                    continue;
                }
                if token == JANITOR_TOKEN {
                    self.hear_janitor();
                    continue;
                }
                if self.hear_zygote(token) {
                    continue;
                }
                let index = usize::try_from(token >> 2).unwrap_or(usize::MAX);
                match token & 3 {
                    SETUP => self.hear_setup(index),
                    _ => self.hear_end(index),
                }
            }
            self.look_at_clocks();
            self.restock();
        }
    }

    /// When the clocks have to be looked at next.
    fn next_wake(&self) -> Option<Duration> {
        let now = Instant::now();
        self.slots
            .iter()
            .flatten()
            .filter_map(|slot| match slot.state {
                _ if slot.is_unfinished() => {
                    Some((slot.born + SETUP_DEADLINE).saturating_duration_since(now))
                }
                State::Releasing => Some(TICK),
                State::Ending => Some(slot.overdue?.saturating_duration_since(now)),
                _ => slot.next_look(now),
            })
            .chain(self.next_watch(now))
            .chain(self.next_look_at_zygotes(now))
            .chain(self.is_low.then(|| self.restock_after.saturating_duration_since(now).max(TICK)))
            .min()
    }

    fn look_at_clocks(&mut self) {
        self.watch_runs();
        let now = Instant::now();
        self.look_at_zygotes(now);
        for index in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[index] else { continue };
            match slot.state {
                _ if slot.is_unfinished() && slot.born + SETUP_DEADLINE <= now => {
                    self.fail(index, "build a sandbox: it took too long");
                }
                State::Leased => {
                    if let Some(reason) = slot.exceeded(now) {
                        self.stop(index, reason);
                    }
                }
                State::Releasing => self.release(index),
                State::Ending => slot.hurry(now),
                _ => {}
            }
        }
    }

    /// Sends a report, or keeps it until the socket has room.
    fn tell(&mut self, report: &Report, descriptors: Vec<OwnedFd>) {
        self.outbox.push_back((report.encode(), descriptors));
        self.flush();
    }

    fn flush(&mut self) {
        while let Some((message, descriptors)) = self.outbox.front() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match wire::send(self.socket.as_fd(), message, &borrowed) {
                // No room, or the kernel is short of memory: later.
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS) => break,
                // Sent; or the manager is gone, which the next receive finds out.
                _ => {
                    self.outbox.pop_front();
                }
            }
        }
        let waits = !self.outbox.is_empty();
        if waits == self.outbox_waits {
            return;
        }
        self.outbox_waits = waits;
        let mut wanted = epoll::EventFlags::IN;
        if waits {
            wanted |= epoll::EventFlags::OUT;
        }
        let data = epoll::EventData::new_u64(SOCKET_TOKEN);
        let _ = epoll::modify(&self.epoll, &self.socket, data, wanted);
    }

    /// Carries out what the manager asks; `false` when it is gone.
    fn take_commands(&mut self) -> Jail<bool> {
        let mut buffer = [0; MESSAGE_LEN];
        loop {
            let length = match wire::receive_now(&self.socket, &mut buffer) {
                Ok(Some((length, _))) => length,
                Ok(None) => return Ok(false),
                Err(Errno::AGAIN) => return Ok(true),
                Err(error) => return Err(error).step("receive a command"),
            };
            let command = Command::decode(&buffer[..length])
                .map_err(io::Error::other)
                .step("read a command")?;
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Prepare { ticket, template, origin, limits, network } => {
                if let Err(error) = self.prepare(ticket, template, origin, limits, network) {
                    let full = self.slots.iter().all(Option::is_some);
                    let text = error.to_string();
                    self.tell(&Report::Failed { ticket, full, text }, Vec::new());
                }
            }
            Command::Lease { slot, wall, cpu } => {
                let Some(slot) = self.slot_mut(slot) else { return };
                // A duration beyond the clock's end is as good as a century.
                let century = Duration::from_secs(3_155_760_000);
                let began = Instant::now();
                slot.lease(Lease { began, deadline: began + wall.min(century), cpu });
            }
            Command::Kill { slot, reason } => self.stop(slot as usize, reason),
            Command::Release { slot: number } => {
                let index = number as usize;
                let Some(slot) = self.slot_mut(number) else {
                    self.tell(&Report::Released { slot: number }, Vec::new());
                    return;
                };
                slot.abandoned = true;
                if slot.is_alive() {
                    slot.kill();
                } else {
                    self.release(index);
                }
            }
        }
    }

    fn slot_mut(&mut self, number: u32) -> Option<&mut Slot> {
        self.slots.get_mut(number as usize).and_then(Option::as_mut)
    }

    /// A sandbox could not be built: tells the manager and takes everything back.
    fn fail(&mut self, index: usize, text: &str) {
        let Some(slot) = self.slots[index].as_mut() else { return };
        let told_before = matches!(slot.state, State::Prepared | State::Leased) || slot.abandoned;
        let ticket = slot.ticket.filter(|_| !told_before);
        slot.abandoned = true;
        slot.kill();
        let alive = slot.is_alive();
        if slot.ticket.is_none() {
            self.restock_after = Instant::now() + RESTOCK_PAUSE;
        }
        if let Some(ticket) = ticket {
            self.tell(&Report::Failed { ticket, full: false, text: text.to_owned() }, Vec::new());
        }
        if !alive {
            self.release(index);
        }
    }

    /// Ends a run for a reason of ours, unless it has ended by itself.
    fn stop(&mut self, index: usize, reason: StopReason) {
        self.hear_end(index);
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if slot.worker.is_some() && slot.stopped.is_none() {
            slot.stopped = Some(reason);
        }
        if slot.is_alive() {
            slot.kill();
            if reason == StopReason::Result {
                slot.count_network();
            }
        }
    }

    /// Reaps what has ended of a slot.
    fn hear_end(&mut self, index: usize) {
        // What it said before it ended tells more than that it ended.
        self.hear_setup(index);
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if let Some(watched) = slot.watched.as_mut().filter(|_| slot.worker.is_some()) {
            // What has ended is counted until it is reaped.
            watched.look();
        }
        if let Some(status) = slot.worker.as_ref().and_then(Process::reap) {
            slot.status = status;
            if slot.lease.is_none() && slot.stopped.is_none() {
                // No program has been near it.
                slot.stopped = Some(StopReason::Platform);
            }
            forget(&self.epoll, &mut slot.worker);
            let unfinished = slot.state == State::Confining;
            slot.kill();
            if unfinished {
                self.fail(index, "confine a worker: it ended early");
                return;
            }
        }
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if slot.cell.as_ref().and_then(Process::reap).is_some() {
            forget(&self.epoll, &mut slot.cell);
            let unfinished = slot.is_unfinished() || slot.state == State::Spare;
            slot.kill();
            if unfinished {
                self.fail(index, "build a sandbox: its first process ended early");
                return;
            }
        }
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if slot.state != State::Ending || slot.is_alive() {
            return;
        }
        slot.state = State::Ended;
        if slot.abandoned {
            self.release(index);
            return;
        }
        let (entries, more) = match &slot.handles {
            Some(handles) => artifacts::collect(&handles.workspace),
            None => (Vec::new(), 0),
        };
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let report = Report::Ended {
            slot: number,
            status: slot.status,
            stopped: slot.stopped,
            counters: slot.count(),
            files: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            more,
        };
        self.tell(&report, Vec::new());
        for entry in entries {
            let report =
                Report::File { slot: number, note: entry.note, size: entry.size, name: entry.name };
            self.tell(&report, entry.file.into_iter().collect());
        }
    }

    /// Frees everything of a slot in which nothing lives.
    fn release(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if slot.is_alive() || slot.clearing {
            return;
        }
        if slot.state != State::Releasing {
            slot.state = State::Releasing;
            slot.pipes.clear();
            slot.setup = None;
            let mut mounts: Vec<OwnedFd> = slot.mounts.take().into_iter().collect();
            let mut network = Vec::new();
            if let Some(Handles { workspace, tmp, snmp, snmp6 }) = slot.handles.take() {
                mounts.extend([workspace, tmp]);
                network.extend([snmp, snmp6]);
            }
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            // The group meanwhile; and the rest when the janitor is done.
            let janitor = self.janitor.as_ref();
            slot.clearing = janitor.is_some_and(|janitor| janitor.take(number, mounts, network));
        }
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        let emptied = slot.group.as_ref().is_none_or(|group| self.meters.remove(group));
        if emptied {
            slot.group = None;
        }
        // The kernel may still count a process out; the clock brings us back.
        if !emptied || slot.clearing {
            return;
        }
        self.slots[index] = None;
        let slot = u32::try_from(index).unwrap_or(u32::MAX);
        self.tell(&Report::Released { slot }, Vec::new());
    }

    /// The janitor has closed what was kept for slots; or it is gone, and the kernel has.
    fn hear_janitor(&mut self) {
        loop {
            match self.janitor.as_ref().map_or(Word::Silence, Janitor::hear) {
                Word::Closed(slot) => self.cleared(slot as usize),
                Word::Silence => return,
                Word::Gone => break,
            }
        }
        if let Some(janitor) = self.janitor.take() {
            let _ = epoll::delete(&self.epoll, &janitor);
            self.janitor = janitor.replace();
        }
        if let Some(janitor) = &self.janitor {
            let token = epoll::EventData::new_u64(JANITOR_TOKEN);
            let _ = epoll::add(&self.epoll, janitor, token, epoll::EventFlags::IN);
        }
        for index in 0..self.slots.len() {
            self.cleared(index);
        }
    }

    /// Nothing of a slot is open any more.
    fn cleared(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if std::mem::take(&mut slot.clearing) {
            self.release(index);
        }
    }
}

/// Stops watching a process and lets go of it.
fn forget(epoll: &OwnedFd, process: &mut Option<Process>) {
    if let Some(process) = process.take() {
        let _ = epoll::delete(epoll, &process.pidfd);
    }
}

/// The token of one descriptor of a slot.
fn token(index: usize, what: u64) -> u64 {
    (index as u64) << 2 | what
}

fn watch_descriptor(
    epoll: &OwnedFd,
    fd: BorrowedFd<'_>,
    token: u64,
    events: epoll::EventFlags,
) -> Jail<()> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(token), events).step("watch a descriptor")
}
