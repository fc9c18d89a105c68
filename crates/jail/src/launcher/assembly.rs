//! Building a sandbox: from a free slot to an interpreter that is about to start.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::Instant,
};

use ampoule_core::{Layer, NetworkPolicy};
use rustix::{
    event::epoll,
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

use super::{
    CELL, Launcher, RESTOCK_PAUSE, SETUP, SETUP_ERROR_LEN, WORKER, cell,
    network::Helper,
    slot::{Handles, Process, Slot, State},
    token,
    watch::Watched,
    watch_descriptor, worker,
};
use crate::{
    confine::CONFINED,
    error::{Jail, JailError, Step},
    order::{FAILED, FORKED, UNFORKED},
    protocol::{CellLimits, Origin, Report},
    sys, wire,
};

/// The flag of `setns` for a pid namespace.
const CLONE_NEWPID: i32 = 0x2000_0000;

/// The program's four channels: its ends, and the manager's.
pub(super) struct Ends {
    pub(super) theirs: [OwnedFd; 4],
    pub(super) ours: Vec<OwnedFd>,
}

impl Launcher {
    /// Begins a sandbox: in a spare cell that fits, or in a new one.
    pub(super) fn prepare(
        &mut self,
        ticket: u32,
        template: u32,
        origin: Origin,
        limits: CellLimits,
        network: NetworkPolicy,
    ) -> Jail<()> {
        let template = template as usize;
        let unknown = || JailError::new("find the template", io::ErrorKind::NotFound);
        let image = self.images.get(template).ok_or_else(unknown)?;
        if let Some(why) = &image.unusable {
            return Err(JailError::new("use a template", io::Error::other(why.as_str())));
        }
        let fits = |slot: &Slot| {
            slot.state == State::Spare
                && (slot.template, slot.network) == (template, network)
                && slot.limits.disk == limits.disk
        };
        let spare = self.slots.iter().position(|slot| slot.as_ref().is_some_and(fits));
        let index = match spare {
            Some(index) => index,
            None => self.build_cell(template, limits, network)?,
        };
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        slot.ticket = Some(ticket);
        slot.limits = limits;
        slot.origin = origin;
        let now = Instant::now();
        if spare.is_some() {
            slot.born = now;
            slot.cell_ready = Some(now);
        }
        let limited = slot.group.as_ref().map_or(Ok(()), |group| self.meters.limit(group, &limits));
        let begun = limited.and_then(|()| match spare {
            Some(index) => self.man(index),
            None => self.open_gate(index),
        });
        if let Err(error) = &begun {
            self.fail(index, &error.to_string());
        }
        Ok(())
    }

    /// Keeps spare cells: one at a time, and behind whatever somebody waits for, a sandbox or the
    /// end of a run; but for a run that goes on for long nobody waits.
    pub(super) fn restock(&mut self) {
        let now = Instant::now();
        let wanted = self.warm.cells as usize;
        let lacks = |template: &usize| {
            let is_spare = |slot: &&Slot| slot.template == *template && slot.state == State::Spare;
            self.images[*template].spares
                && self.slots.iter().flatten().filter(is_spare).count() < wanted
        };
        let low = (0..self.images.len()).find(lacks).filter(|_| wanted > 0);
        self.is_low = low.is_some();
        let Some(template) = low.filter(|_| self.restock_after <= now) else { return };
        if self.slots.iter().all(Option::is_some)
            || self.slots.iter().flatten().any(|slot| slot.is_pressing(now))
        {
            return;
        }
        let limits = CellLimits { disk: self.warm.disk, ..CellLimits::default() };
        match self.build_cell(template, limits, NetworkPolicy::None) {
            Ok(index) => {
                if let Err(error) = self.open_gate(index) {
                    self.fail(index, &error.to_string());
                }
            }
            Err(_) => self.restock_after = now + RESTOCK_PAUSE,
        }
    }

    /// Clones the first process of a new cell.
    fn build_cell(
        &mut self,
        template: usize,
        limits: CellLimits,
        network: NetworkPolicy,
    ) -> Jail<usize> {
        let index = self
            .slots
            .iter()
            .position(Option::is_none)
            .ok_or_else(|| JailError::new("find a free slot", io::ErrorKind::WouldBlock))?;
        self.runs += 1;
        let (ours, theirs) = wire::pair().step("make a setup socket")?;
        let group = self.meters.create(format!("{index}-{}", self.runs))?;
        let mut slot = Slot::new(template, limits, network);
        let recipe = cell::Recipe {
            image: &self.images[template],
            devices: if self.own_devices && !self.without.has(Layer::OwnDevices) {
                format!("/d/{index}")
            } else {
                "/d/shared".to_owned()
            },
            network,
            disk: limits.disk,
            ids: self.without.ids(self.slot_ids(index)),
            proc: self.proc,
            watched: self.meters.version() == 0,
            joins: group.joins().collect(),
            without: &self.without,
        };
        let namespaces = self.without.namespaces(cell::NAMESPACES);
        // SAFETY: the launcher never starts a thread.
        let cloned = unsafe { sys::clone3(namespaces, group.clone_into()) };
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
        if self.proc {
            // Our `/proc` is of our own pid namespace, which the kernel has just named it in.
            slot.pid = Some(child.pid.cast_unsigned());
        }
        slot.cell = Some(Process { pidfd });
        slot.group = Some(group);
        slot.setup = Some(ours);
        self.slots[index] = Some(slot);
        Ok(index)
    }

    /// The host ids of a slot: its first process's, and its program's.
    pub(super) fn slot_ids(&self, index: usize) -> Option<(u32, u32)> {
        let first = self.first_id? + 2 * u32::try_from(index).ok()?;
        Some((first, first + 1))
    }

    /// Maps the ids of a new cell and lets it go on.
    fn open_gate(&mut self, index: usize) -> Jail<()> {
        let Some(slot) = &mut self.slots[index] else { return Ok(()) };
        let Some(cell) = &slot.cell else { return Ok(()) };
        let pid = slot.pid.map_or_else(|| proc_pid(&cell.pidfd), Ok)?;
        slot.pid = Some(pid);
        if self.meters.version() == 0 {
            slot.watched = Some(Watched::new(pid).step("watch a cell")?);
        }
        let write = |file: &str, text: &str| {
            std::fs::write(format!("/proc/{pid}/{file}"), text)
                .step_with(|| format!("write {file} of a cell"))
        };
        if let Some(map) = self.without.ids(self.slot_ids(index)).map {
            if self.first_id.is_none() {
                write("setgroups", "deny")?;
            }
            write("uid_map", &map)?;
            write("gid_map", &map)?;
        }
        let runs = self.runs;
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        if slot.network == NetworkPolicy::Open {
            slot.helper = Some(Helper::of_cell(runs, pid)?);
        }
        let Slot { cell: Some(cell), setup: Some(setup), .. } = slot else { return Ok(()) };
        watch_descriptor(
            &self.epoll,
            cell.pidfd.as_fd(),
            token(index, CELL),
            epoll::EventFlags::IN,
        )?;
        watch_descriptor(&self.epoll, setup.as_fd(), token(index, SETUP), epoll::EventFlags::IN)?;
        wire::send(setup.as_fd(), b"m", &[]).step("start a cell")
    }

    /// A process under construction has spoken, or a zygote about it.
    pub(super) fn hear_setup(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return };
        let Some(setup) = &slot.setup else { return };
        let mut buffer = [0; SETUP_ERROR_LEN];
        let heard = wire::receive_now(setup, &mut buffer);
        if heard.as_ref().is_err_and(|error| *error == Errno::AGAIN) {
            // The word was another slot's that had this number a moment ago.
            return;
        }
        let (word, text, mut descriptors) = match heard {
            Ok(Some((length, descriptors))) => (Some(buffer[0]), &buffer[1..length], descriptors),
            Ok(None) | Err(_) => (None, &[][..], Vec::new()),
        };
        if slot.forking.is_some() {
            return match word {
                Some(FORKED) => self.adopt(index, descriptors.pop()),
                // It may be ahead of its zygote's word.
                Some(CONFINED) => slot.early_listener = descriptors.pop(),
                // The worker says why it failed; its zygote still has to tell of it.
                Some(FAILED) => slot.early_failure = Some(String::from_utf8_lossy(text).into()),
                Some(UNFORKED) => self.miss(index),
                // Everybody is gone: the zygote's end is told by its pidfd, and only then is it known
                // what it has forked.
                Some(_) | None => drop(epoll::delete(&self.epoll, setup)),
            };
        }
        // Copies of this socket live on in children until they close them, so say it expressly.
        let _ = epoll::delete(&self.epoll, setup);
        slot.setup = None;
        let outcome = match (slot.state, word) {
            (State::Building, Some(cell::READY)) => {
                match <[OwnedFd; cell::HANDED]>::try_from(descriptors) {
                    Ok([workspace, tmp, snmp, snmp6]) => {
                        slot.handles = Some(Handles { workspace, tmp, snmp, snmp6 });
                        slot.mounts = slot.pid.and_then(mounts_of);
                        slot.cell_ready = Some(Instant::now());
                        if slot.ticket.is_some() {
                            self.connect(index).map_err(|error| error.to_string())
                        } else {
                            slot.state = State::Spare;
                            Ok(())
                        }
                    }
                    Err(_) => {
                        Err("build a sandbox: the cell handed over something else".to_owned())
                    }
                }
            }
            (State::Confining, Some(CONFINED)) => {
                slot.pipes.extend(descriptors);
                self.hand_over(index);
                Ok(())
            }
            (State::Building | State::Confining, Some(_)) => {
                Err(String::from_utf8_lossy(text).into_owned())
            }
            (State::Building, None) => {
                Err("build a sandbox: its first process ended early".to_owned())
            }
            (State::Confining, None) => Err("confine a worker: it ended early".to_owned()),
            _ => Ok(()),
        };
        if let Err(text) = outcome {
            self.fail(index, &text);
        }
    }

    /// A zygote has forked no worker for a slot.
    fn miss(&mut self, index: usize) {
        let Some(slot) = self.slots[index].as_mut() else { return };
        let Some(forking) = slot.forking.take() else { return };
        // Into a cell that was given up meanwhile nobody can fork.
        if slot.state == State::Forking {
            self.discard(forking.zygote);
        }
        self.after_lost_order(index);
        self.note_answer(forking.zygote, false);
    }

    /// A zygote has forked a worker for a slot.
    fn adopt(&mut self, index: usize, pidfd: Option<OwnedFd>) {
        let Some(slot) = self.slots[index].as_mut() else { return };
        if let Some(forking) = slot.forking.take() {
            slot.inherited = self.nests.anonymous_of(forking.zygote);
            self.note_answer(forking.zygote, true);
        }
        let Some(slot) = self.slots[index].as_mut() else { return };
        let Some(pidfd) = pidfd else {
            return self.fail(index, "fork a worker: its zygote handed over something else");
        };
        let worker = slot.worker.insert(Process { pidfd });
        let watched = watch_descriptor(
            &self.epoll,
            worker.pidfd.as_fd(),
            token(index, WORKER),
            epoll::EventFlags::IN,
        );
        if slot.state != State::Forking {
            // The sandbox was given up meanwhile.
            slot.kill();
            return self.hear_end(index);
        }
        slot.state = State::Confining;
        if let Err(error) = watched {
            return self.fail(index, &error.to_string());
        }
        if let Some(text) = slot.early_failure.take() {
            return self.fail(index, &text);
        }
        if let Some(listener) = slot.early_listener.take() {
            slot.pipes.push(listener);
            if let Some(setup) = slot.setup.take() {
                let _ = epoll::delete(&self.epoll, &setup);
            }
            self.hand_over(index);
        }
    }

    /// The worker is confined: the manager gets its channels.
    fn hand_over(&mut self, index: usize) {
        let Some(slot) = self.slots[index].as_mut() else { return };
        slot.state = State::Prepared;
        if let Some(group) = &mut slot.group {
            group.settle();
        }
        let pipes = std::mem::take(&mut slot.pipes);
        let cell_ready = slot.cell_ready.unwrap_or(slot.born);
        let report = Report::Prepared {
            ticket: slot.ticket.unwrap_or(u32::MAX),
            slot: u32::try_from(index).unwrap_or(u32::MAX),
            cell: cell_ready - slot.born,
            worker: cell_ready.elapsed(),
        };
        self.tell(&report, pipes);
    }

    /// Makes the pipes of a program.
    pub(super) fn open_channels(&self, index: usize) -> Jail<Ends> {
        let new_pipe = || pipe_with(PipeFlags::CLOEXEC).step("make a pipe");
        let (request_out, request_in) = new_pipe()?;
        let (stdout_out, stdout_in) = new_pipe()?;
        let (stderr_out, stderr_in) = new_pipe()?;
        let (result_out, result_in) = new_pipe()?;
        if let Some((_, program)) = self.slot_ids(index) {
            // So that `/dev/stdout` and `/dev/stderr` can be opened by their names.
            for pipe in [&stdout_in, &stderr_in] {
                std::os::unix::fs::fchown(pipe, Some(program), None).step("give a pipe away")?;
            }
        }
        Ok(Ends {
            theirs: [request_out, stdout_in, stderr_in, result_in],
            ours: vec![request_in, stdout_out, stderr_out, result_out],
        })
    }

    /// Clones the worker into a finished cell.
    pub(super) fn start_worker(&mut self, index: usize) -> Jail<()> {
        let hosts = self.slot_ids(index);
        let channels = self.open_channels(index)?;
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        let (Some(cell), Some(group)) = (&slot.cell, &slot.group) else { return Ok(()) };
        let image = &self.images[slot.template];
        let (ours, theirs) = wire::pair().step("make a setup socket")?;
        let recipe = worker::Recipe {
            cell: cell.pidfd.as_fd(),
            descriptors: channels.theirs.each_ref().map(AsFd::as_fd),
            setup: &theirs,
            joins: group.joins().collect(),
            command: worker::Command::new(&image.command, &image.environment, slot.limits.memory)?,
            rules: &self.rules,
            processes: slot.limits.processes,
            disk: slot.limits.disk,
            two_ids: self.first_id.is_some(),
            program: self.without.ids(hosts).program,
            without: &self.without,
        };
        // Children are born in the cell's pid namespace while this holds.
        sys::setns(cell.pidfd.as_raw_fd(), CLONE_NEWPID)?;
        // SAFETY: the launcher never starts a thread.
        let cloned = unsafe { sys::clone3(0, group.clone_into()) };
        if matches!(cloned, Ok(None)) {
            worker::run(&recipe);
        }
        let back = sys::setns(self.pid_namespace.as_raw_fd(), CLONE_NEWPID);
        if back.is_err() {
            // Every later process would be born in a dying cell. The keeper starts another of us.
            sys::exit(1);
        }
        let Some(child) = cloned? else { return Ok(()) };
        drop(recipe);
        // SAFETY: clone3 has just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
        // Its owner first: from here on whoever ends the slot reaps it.
        let worker = slot.worker.insert(Process { pidfd });
        watch_descriptor(
            &self.epoll,
            worker.pidfd.as_fd(),
            token(index, WORKER),
            epoll::EventFlags::IN,
        )?;
        watch_descriptor(&self.epoll, ours.as_fd(), token(index, SETUP), epoll::EventFlags::IN)?;
        slot.setup = Some(ours);
        slot.pipes = channels.ours;
        slot.state = State::Confining;
        Ok(())
    }
}

/// The mount namespace of a process, held open.
fn mounts_of(pid: u32) -> Option<OwnedFd> {
    std::fs::File::open(format!("/proc/{pid}/ns/mnt")).ok().map(OwnedFd::from)
}

/// The number under which our `/proc` shows a process: it may be of a pid namespace further out.
pub(super) fn proc_pid(pidfd: &OwnedFd) -> Jail<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))
        .step("find a process in /proc")?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| JailError::new("find a process in /proc", io::ErrorKind::NotFound))
}
