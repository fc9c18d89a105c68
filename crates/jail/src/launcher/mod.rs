//! The launcher: builds and ends sandboxes. Synchronous, single-threaded, PID 1 of its own pid
//! namespace in its own user namespace. It never sees code, arguments or output.

mod artifacts;
mod cell;
mod root;
mod rules;
mod slot;
mod worker;

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use ampoule_core::StopReason;
use rustix::{
    event::{Timespec, epoll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Signal, set_parent_process_death_signal},
    thread::set_name,
};

pub(crate) use root::finish_device_directory;
use root::Image;
use rules::Rules;
use slot::{Handles, Lease, Process, Slot, State};

use crate::{
    cgroup::Meters,
    error::{Jail, JailError, Step},
    keeper::{CONFIG_FD, FIRST_GROUP_FD, SOCKET_FD, Start, read_json},
    protocol::{CellLimits, Command, MESSAGE_LEN, Report},
    seccomp, sys, wire,
};

/// The hidden argument that makes a process a launcher.
pub(crate) const ARGUMENT: &str = "__launcher";
/// The source that every file system of ours is mounted with: neutral inside, and told apart
/// outside.
pub(crate) const MOUNT_SOURCE: &str = "ampoule";
/// How often the watches look.
const TICK: Duration = Duration::from_millis(20);
/// How long building a cell or confining a worker may take.
const SETUP_DEADLINE: Duration = Duration::from_secs(10);
const SETUP_ERROR_LEN: usize = 256;

/// Tokens of the event queue: a slot and what of it, or the socket.
const SOCKET_TOKEN: u64 = u64::MAX;
const CELL: u64 = 0;
const WORKER: u64 = 1;
const SETUP: u64 = 2;

struct Launcher {
    socket: OwnedFd,
    epoll: OwnedFd,
    pid_namespace: File,
    meters: Meters,
    images: Vec<Image>,
    rules: Rules,
    two_ids: bool,
    id_base: u32,
    slots: Vec<Option<Slot>>,
    /// Messages that the manager's socket had no room for.
    outbox: VecDeque<([u8; MESSAGE_LEN], Vec<OwnedFd>)>,
    /// Counts runs, so that no two groups share a name.
    runs: u64,
}

/// Runs as the launcher on the descriptors that the keeper has laid out.
pub(crate) fn run() -> Jail<()> {
    // SAFETY: the keeper lays out exactly these descriptors before its exec, and nobody else in
    // this fresh process owns them.
    let (socket, config) =
        unsafe { (OwnedFd::from_raw_fd(SOCKET_FD), File::from_raw_fd(CONFIG_FD)) };
    let outcome = Launcher::start(socket, config).map_err(|(socket, error)| {
        report_failure(socket.as_fd(), &error);
        error
    });
    outcome?.serve()
}

/// Tells the manager that the launcher itself cannot go on.
pub(crate) fn report_failure(socket: BorrowedFd<'_>, error: &JailError) {
    let report = Report::Failed { ticket: u32::MAX, text: error.to_string() };
    // The manager sees the socket close in any case.
    let _ = wire::send(socket, &report.encode(), &[]);
}

/// Tells the launcher, from a process under construction, what went wrong.
fn send_error(setup: BorrowedFd<'_>, error: &JailError) {
    let mut text = error.to_string();
    text.truncate(SETUP_ERROR_LEN - 1);
    let _ = wire::send(setup, format!("E{text}").as_bytes(), &[]);
}

impl Launcher {
    fn start(socket: OwnedFd, config: File) -> Result<Self, (OwnedFd, JailError)> {
        match Self::build(&socket, config) {
            Ok(build) => Ok(build(socket)),
            Err(error) => Err((socket, error)),
        }
    }

    /// Does everything that may fail, and gives what makes a launcher of the socket.
    fn build(socket: &OwnedFd, config: File) -> Jail<impl FnOnce(OwnedFd) -> Self + use<>> {
        set_parent_process_death_signal(Some(Signal::KILL)).step("follow the keeper")?;
        let _ = set_name(c"ampoule-launcher");
        let start: Start = read_json(config)?;
        // SAFETY: the keeper has put the groups of this layout from this descriptor on.
        let meters = unsafe { Meters::inherit(start.layout, FIRST_GROUP_FD) };
        let policy = seccomp::Policy::parse(&start.config.policy)
            .map_err(io::Error::other)
            .step("read the system call policy")?;
        let filter = policy.compile(seccomp::Arch::NATIVE).map_err(io::Error::other).step("compile the policy")?;
        let landlock_abi = sys::landlock_abi().map_err(|_| {
            JailError::new(
                "find Landlock; hint: boot with `lsm=landlock,…` (kernel 5.13 or newer)",
                io::ErrorKind::Unsupported,
            )
        })?;
        let pid_namespace = File::open("/proc/self/ns/pid").step("open our pid namespace")?;
        let images = root::build(&start.config.templates, start.two_ids)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).step("make an event queue")?;
        fcntl_setfl(socket, fcntl_getfl(socket).step("read flags")? | OFlags::NONBLOCK)
            .step("make the socket non-blocking")?;
        watch(&epoll, socket.as_fd(), SOCKET_TOKEN, epoll::EventFlags::IN)?;
        let mut slots = Vec::new();
        slots.resize_with(usize::try_from(start.config.slots).unwrap_or(0), || None);
        let ready = Report::Ready {
            landlock_abi,
            cgroup_version: meters.version(),
            two_ids: start.two_ids,
        };
        Ok(move |socket| {
            let mut launcher = Self {
                socket,
                epoll,
                pid_namespace,
                meters,
                images,
                rules: Rules { landlock_abi, filter: filter.instructions().to_vec() },
                two_ids: start.two_ids,
                id_base: start.config.id_base,
                slots,
                outbox: VecDeque::new(),
                runs: 0,
            };
            launcher.tell(&ready, Vec::new());
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
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).step("wait for events"),
            }
            for event in events.drain(..) {
                let token = event.data.u64();
                if token == SOCKET_TOKEN {
                    self.flush();
                    if !self.take_commands()? {
                        return Ok(());
                    }
                    continue;
                }
                let index = usize::try_from(token >> 2).unwrap_or(usize::MAX);
                match token & 3 {
                    SETUP => self.hear_setup(index),
                    _ => self.hear_end(index),
                }
            }
            self.look_at_clocks();
        }
    }

    /// When the clocks have to be looked at next.
    fn next_wake(&self) -> Option<Duration> {
        let now = Instant::now();
        self.slots
            .iter()
            .flatten()
            .filter_map(|slot| match (slot.state, slot.lease) {
                (State::Building | State::Confining, _) => {
                    Some((slot.born + SETUP_DEADLINE).saturating_duration_since(now))
                }
                (State::Releasing, _) => Some(TICK),
                (State::Leased, Some(lease)) => {
                    let wall = lease.deadline.saturating_duration_since(now);
                    Some(if lease.cpu.is_some() { wall.min(TICK) } else { wall })
                }
                _ => None,
            })
            .min()
    }

    fn look_at_clocks(&mut self) {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            let Some(slot) = &self.slots[index] else { continue };
            match (slot.state, slot.lease) {
                (State::Building | State::Confining, _) if slot.born + SETUP_DEADLINE <= now => {
                    self.fail(index, "build a sandbox: it took too long");
                }
                (State::Leased, Some(lease)) if lease.deadline <= now => {
                    self.stop(index, StopReason::Wall);
                }
                (State::Leased, Some(Lease { cpu: Some(most), .. })) => {
                    let used = slot.group.as_ref().and_then(crate::cgroup::Group::cpu_us);
                    if used.is_some_and(|used| Duration::from_micros(used) >= most) {
                        self.stop(index, StopReason::Cpu);
                    }
                }
                (State::Releasing, _) => self.release(index),
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
            if wire::send(self.socket.as_fd(), message, &borrowed) == Err(Errno::AGAIN) {
                break;
            }
            // Sent; or the manager is gone, which the next receive finds out.
            self.outbox.pop_front();
        }
        let mut wanted = epoll::EventFlags::IN;
        if !self.outbox.is_empty() {
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
            let command = Command::decode(&buffer[..length]).map_err(io::Error::other).step("read a command")?;
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Prepare { ticket, template, limits } => {
                if let Err(error) = self.prepare(ticket, template, limits) {
                    self.tell(&Report::Failed { ticket, text: error.to_string() }, Vec::new());
                }
            }
            Command::Lease { slot, wall, cpu } => {
                let Some(slot) = self.slot_mut(slot) else { return };
                let started = Instant::now();
                // A duration beyond the clock's end is as good as a century.
                let century = Duration::from_secs(3_155_760_000);
                let deadline = started + wall.min(century);
                slot.lease = Some(Lease { started, deadline, cpu });
                if slot.state == State::Prepared {
                    slot.state = State::Leased;
                }
                if let Some(group) = &mut slot.group {
                    group.lease();
                }
            }
            Command::Kill { slot, reason } => self.stop(slot as usize, reason),
            Command::Collect { slot } => self.collect(slot),
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

    /// Clones the first process of a new cell.
    fn prepare(&mut self, ticket: u32, template: u32, limits: CellLimits) -> Jail<()> {
        let template = template as usize;
        let unknown = || JailError::new("find the template", io::ErrorKind::NotFound);
        let image = self.images.get(template).ok_or_else(unknown)?;
        let index = self
            .slots
            .iter()
            .position(Option::is_none)
            .ok_or_else(|| JailError::new("find a free slot", io::ErrorKind::WouldBlock))?;
        self.runs += 1;
        let group = self.meters.create(format!("{index}-{}", self.runs), &limits)?;
        let mut slot = Slot::new(ticket, template, limits);
        let (ours, theirs) = wire::pair().step("make a setup socket")?;
        let recipe = cell::Recipe {
            image,
            devices: if self.two_ids { format!("/d/{index}") } else { "/d/shared".to_owned() },
            disk: limits.disk,
            two_ids: self.two_ids,
            joins: group.joins().collect(),
        };
        // SAFETY: the launcher never starts a thread.
        let cloned = unsafe { sys::clone3(cell::NAMESPACES, group.clone_into()) };
        let child = match cloned {
            Ok(Some(child)) => child,
            Ok(None) => cell::run(&recipe, &theirs),
            Err(fault) => {
                self.meters.remove(&group);
                return Err(fault.into());
            }
        };
        drop(recipe);
        // SAFETY: clone3 has just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
        slot.cell = Some(Process { pidfd });
        slot.group = Some(group);
        slot.setup = Some(ours);
        self.slots[index] = Some(slot);
        let opened = self.open_gate(index, child.pid);
        if let Err(error) = &opened {
            self.fail(index, &error.to_string());
        }
        Ok(())
    }

    /// Maps the ids of a new cell and lets it go on.
    fn open_gate(&self, index: usize, pid: i32) -> Jail<()> {
        let write = |file: &str, text: &str| {
            std::fs::write(format!("/proc/{pid}/{file}"), text).step_with(|| format!("write {file} of a cell"))
        };
        let program = cell::PROGRAM_ID;
        let map = if self.two_ids {
            let first = self.id_base + 1 + 2 * u32::try_from(index).unwrap_or(u32::MAX);
            format!("0 {first} 1\n{program} {} 1", first + 1)
        } else {
            write("setgroups", "deny")?;
            format!("{program} 0 1")
        };
        write("uid_map", &map)?;
        write("gid_map", &map)?;
        let Some(Slot { cell: Some(cell), setup: Some(setup), .. }) = &self.slots[index] else { return Ok(()) };
        self.watch_slot(index, CELL, cell.pidfd.as_fd())?;
        self.watch_slot(index, SETUP, setup.as_fd())?;
        wire::send(setup.as_fd(), b"m", &[]).step("start a cell")
    }

    fn watch_slot(&self, index: usize, what: u64, fd: BorrowedFd<'_>) -> Jail<()> {
        watch(&self.epoll, fd, (index as u64) << 2 | what, epoll::EventFlags::IN)
    }

    /// A process under construction has spoken.
    fn hear_setup(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        let Some(setup) = &slot.setup else { return };
        let mut buffer = [0; SETUP_ERROR_LEN];
        let heard = wire::receive_now(setup, &mut buffer);
        if heard.as_ref().is_err_and(|error| *error == Errno::AGAIN) {
            // The word was another slot's that had this number a moment ago.
            return;
        }
        // Copies of this socket live on in children until they close them, so say it expressly.
        let _ = epoll::delete(&self.epoll, setup);
        slot.setup = None;
        let outcome = match (slot.state, heard) {
            (State::Building, Ok(Some((1, descriptors)))) if buffer[0] == cell::READY => {
                match <[OwnedFd; cell::HANDED]>::try_from(descriptors) {
                    Ok([workspace, tmp, snmp, snmp6]) => {
                        slot.handles = Some(Handles { workspace, tmp, snmp, snmp6 });
                        self.start_worker(index).map_err(|error| error.to_string())
                    }
                    Err(_) => Err("build a sandbox: the cell handed over something else".to_owned()),
                }
            }
            (State::Confining, Ok(Some((1, descriptors)))) if buffer[0] == crate::confine::CONFINED => {
                slot.state = State::Prepared;
                slot.pipes.extend(descriptors);
                let pipes = std::mem::take(&mut slot.pipes);
                let slot_number = u32::try_from(index).unwrap_or(u32::MAX);
                let report = Report::Prepared { ticket: slot.ticket, slot: slot_number };
                self.tell(&report, pipes);
                Ok(())
            }
            (State::Building | State::Confining, Ok(Some((length, _)))) => {
                Err(String::from_utf8_lossy(buffer[..length].get(1..).unwrap_or_default()).into_owned())
            }
            (State::Building | State::Confining, _) => {
                Err("build a sandbox: its first process ended early".to_owned())
            }
            _ => Ok(()),
        };
        if let Err(text) = outcome {
            self.fail(index, &text);
        }
    }

    /// Clones the worker into a finished cell.
    fn start_worker(&mut self, index: usize) -> Jail<()> {
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        let (Some(cell), Some(group)) = (&slot.cell, &slot.group) else { return Ok(()) };
        let image = &self.images[slot.template];
        let new_pipe = || pipe_with(PipeFlags::CLOEXEC).step("make a pipe");
        let (request_out, request_in) = new_pipe()?;
        let (stdout_out, stdout_in) = new_pipe()?;
        let (stderr_out, stderr_in) = new_pipe()?;
        let (result_out, result_in) = new_pipe()?;
        let (ours, theirs) = wire::pair().step("make a setup socket")?;
        let recipe = worker::Recipe {
            cell: cell.pidfd.as_fd(),
            descriptors: [request_out.as_fd(), stdout_in.as_fd(), stderr_in.as_fd(), result_in.as_fd()],
            setup: &theirs,
            joins: group.joins().collect(),
            command: worker::Command::new(&image.command, &image.environment, slot.limits.memory)?,
            rules: &self.rules,
            processes: slot.limits.processes,
            disk: slot.limits.disk,
            two_ids: self.two_ids,
        };
        // Children are born in the cell's pid namespace while this holds.
        sys::setns(cell.pidfd.as_raw_fd(), 0x2000_0000)?;
        // SAFETY: the launcher never starts a thread.
        let cloned = unsafe { sys::clone3(0, group.clone_into()) };
        if matches!(cloned, Ok(None)) {
            worker::run(&recipe);
        }
        let back = sys::setns(self.pid_namespace.as_raw_fd(), 0x2000_0000);
        if back.is_err() {
            // Every later process would be born in a dying cell. The keeper starts another of us.
            sys::exit(1);
        }
        let Some(child) = cloned? else { return Ok(()) };
        drop(recipe);
        // SAFETY: clone3 has just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
        watch(&self.epoll, pidfd.as_fd(), (index as u64) << 2 | WORKER, epoll::EventFlags::IN)?;
        watch(&self.epoll, ours.as_fd(), (index as u64) << 2 | SETUP, epoll::EventFlags::IN)?;
        slot.worker = Some(Process { pidfd });
        slot.setup = Some(ours);
        slot.pipes = vec![request_in, stdout_out, stderr_out, result_out];
        slot.state = State::Confining;
        Ok(())
    }

    /// A sandbox could not be built: tells the manager and takes everything back.
    fn fail(&mut self, index: usize, text: &str) {
        let Some(slot) = self.slots[index].as_mut() else { return };
        let told_before = matches!(slot.state, State::Prepared | State::Leased) || slot.abandoned;
        let ticket = slot.ticket;
        slot.abandoned = true;
        slot.kill();
        let alive = slot.is_alive();
        if !told_before {
            self.tell(&Report::Failed { ticket, text: text.to_owned() }, Vec::new());
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
        }
    }

    /// Reaps what has ended of a slot.
    fn hear_end(&mut self, index: usize) {
        // What it said before it ended tells more than that it ended.
        self.hear_setup(index);
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if let Some(status) = slot.worker.as_ref().and_then(Process::reap) {
            slot.status = status;
            slot.ended = Some(Instant::now());
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
            let unfinished = matches!(slot.state, State::Building | State::Confining);
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
        let report = Report::Ended {
            slot: u32::try_from(index).unwrap_or(u32::MAX),
            status: slot.status,
            stopped: slot.stopped,
            counters: slot.count(),
        };
        self.tell(&report, Vec::new());
    }

    /// Tells the manager of every file in `artifacts/` of an ended run.
    fn collect(&mut self, number: u32) {
        let (entries, more) = match self.slot_mut(number) {
            Some(Slot { state: State::Ended, handles: Some(handles), .. }) => {
                artifacts::collect(&handles.workspace)
            }
            _ => (Vec::new(), 0),
        };
        for entry in entries {
            let report = Report::File { slot: number, note: entry.note, size: entry.size, name: entry.name };
            self.tell(&report, entry.file.into_iter().collect());
        }
        self.tell(&Report::Collected { slot: number, more }, Vec::new());
    }

    /// Frees everything of a slot in which nothing lives.
    fn release(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        if slot.is_alive() {
            return;
        }
        slot.state = State::Releasing;
        slot.handles = None;
        slot.pipes.clear();
        slot.setup = None;
        if slot.group.as_ref().is_some_and(|group| !self.meters.remove(group)) {
            // The kernel still counts a process out; the clock brings us back.
            return;
        }
        self.slots[index] = None;
        let slot = u32::try_from(index).unwrap_or(u32::MAX);
        self.tell(&Report::Released { slot }, Vec::new());
    }
}

/// Stops watching a process and lets go of it.
fn forget(epoll: &OwnedFd, process: &mut Option<Process>) {
    if let Some(process) = process.take() {
        let _ = epoll::delete(epoll, &process.pidfd);
    }
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: u64, events: epoll::EventFlags) -> Jail<()> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(token), events).step("watch a descriptor")
}
