//! Nests: the places of zygotes, one for each template's warm interpreter and each group of programs
//! that may share one.
//!
//! ```text
//!   empty --first asked for--> starting --ready--> warm --count, age, growth--> warm, and a second
//!     ^                          |  ^               |                           one starting
//!     |                          |  | dies, hangs   |                               | ready
//!     |                          v  |               v                               v
//!     \--unused for long------ barred for a while <-/ (three in a row)           the second takes over
//! ```
//!
//! Whoever asks meanwhile waits for a zygote that is starting, and gets an exec where none can be
//! had: no request fails for a zygote.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::epoll,
    fs::{OFlags, fcntl_setfl},
};

use super::{
    Launcher, SETUP_DEADLINE, SETUP_ERROR_LEN, TICK,
    assembly::proc_pid,
    slot::{Forking, Process, Slot, State},
    watch_descriptor,
    worker::Command,
    zygote::{self, Birth, Phase, Zygote},
};
use crate::{
    error::{Jail, JailError, Step},
    order::{Order, STARTED},
    protocol::{Origin, Report},
    wire,
};

/// It looks at a zygote's size after so many forks.
const SIZE_EVERY: u32 = 64;
/// How much a zygote may have grown since it was ready, in pages.
const MOST_GROWTH: u64 = 4096;
/// How long importing may take, and how long a fork.
const START_DEADLINE: Duration = Duration::from_secs(30);
const FORK_DEADLINE: Duration = Duration::from_secs(2);
/// How long anybody waits for a zygote before an exec has to do; it leaves time for a fork that
/// hangs, within the time for the whole.
const WAIT_DEADLINE: Duration = Duration::from_secs(2);
/// So many orders may be unanswered. The kernel's queue has room for more, and a full one would be
/// found out too late; and no more are lost with a zygote.
const MOST_ORDERS: u32 = 6;
/// So many failures in a row, and none is started for a while, which doubles.
const MOST_FAILURES: u32 = 3;
const BARRED: Duration = Duration::from_secs(10);
const MOST_BARRED: Duration = Duration::from_secs(600);
/// A group that asks for nothing so long loses its zygotes; the first group keeps them.
const UNUSED: Duration = Duration::from_secs(300);
/// So many groups can be warm at once; others get an exec.
const MOST_NESTS: usize = 32;

/// The place of one zygote.
#[derive(Debug)]
pub(super) struct Nest {
    template: usize,
    /// Index among the template's.
    kind: usize,
    group: u32,
    /// The zygote that takes orders, or will.
    current: Option<usize>,
    /// The one that takes over when it is ready.
    next: Option<usize>,
    /// How many have failed in a row.
    failures: u32,
    /// Before this none is started.
    barred: Option<Instant>,
    used: Instant,
}

impl Nest {
    /// What the manager is told: its zygote is ready, or has failed.
    fn report(&self, trouble: Option<String>) -> Report {
        Report::Zygote {
            template: u32::try_from(self.template).unwrap_or(u32::MAX),
            zygote: u32::try_from(self.kind).unwrap_or(u32::MAX),
            group: self.group,
            trouble,
        }
    }
}

/// Every nest and every zygote of the launcher.
#[derive(Debug, Default)]
pub(super) struct Nests {
    /// What every worker is confined by; nothing if there can be no zygotes.
    terms: Vec<u8>,
    nests: Vec<Nest>,
    zygotes: Vec<Option<Zygote>>,
    /// Until then workers may end of whom nobody was told.
    strangers: Option<Instant>,
    /// Whether a slot may wait for a zygote.
    awaited: bool,
}

/// What a nest has for who asks.
enum Offer {
    /// A zygote that takes orders.
    Ready(usize),
    /// One that will.
    Soon,
    /// None.
    Nothing,
}

/// Tokens of zygotes in the event queue: this, the place, and which of the two descriptors.
const TOKEN: u64 = 1 << 40;

impl Nests {
    pub(super) fn new(terms: Vec<u8>) -> Self {
        Self { terms, ..Self::default() }
    }

    fn nest_of(&mut self, zygote: usize) -> Option<&mut Nest> {
        let is_of = |nest: &&mut Nest| nest.current == Some(zygote) || nest.next == Some(zygote);
        self.nests.iter_mut().find(is_of)
    }

    /// The memory of a zygote that its workers share until they write to it, in bytes.
    pub(super) fn anonymous_of(&self, place: usize) -> Option<u64> {
        let zygote = self.zygotes.get(place)?.as_ref()?;
        Some(zygote.anonymous * u64::try_from(rustix::param::page_size()).ok()?)
    }

    /// The zygotes' processes.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.zygotes.iter().flatten().map(|zygote| &zygote.process)
    }

    fn zygote(&mut self, place: usize) -> Option<&mut Zygote> {
        self.zygotes.get_mut(place)?.as_mut()
    }
}

impl Launcher {
    /// Starts the first group's zygotes.
    pub(super) fn hatch(&mut self) {
        for template in 0..self.images.len() {
            for kind in 0..self.images[template].zygotes.len() {
                let _ = self.ask(template, kind, 0);
            }
        }
    }

    /// Gives a finished cell its worker: forked if it was asked for and can be had.
    pub(super) fn man(&mut self, index: usize) -> Jail<()> {
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        let Origin::Zygote { zygote, group } = slot.origin else {
            return self.start_worker(index);
        };
        let template = slot.template;
        match self.ask(template, zygote as usize, group) {
            Offer::Ready(zygote) => self.order_worker(index, zygote),
            Offer::Soon => {
                self.wait(index);
                Ok(())
            }
            Offer::Nothing => self.start_worker(index),
        }
    }

    fn wait(&mut self, index: usize) {
        if let Some(slot) = self.slots[index].as_mut() {
            slot.state = State::Waiting;
            self.nests.awaited = true;
        }
    }

    /// Looks for a zygote, and starts one if there is none.
    fn ask(&mut self, template: usize, kind: usize, group: u32) -> Offer {
        let known = self.images.get(template).is_some_and(|image| kind < image.zygotes.len());
        if !known || self.nests.terms.is_empty() {
            return Offer::Nothing;
        }
        let now = Instant::now();
        let is_it = |nest: &Nest| (nest.template, nest.kind, nest.group) == (template, kind, group);
        let place = match self.nests.nests.iter().position(is_it) {
            Some(place) => place,
            None if self.nests.nests.len() >= MOST_NESTS => return Offer::Nothing,
            None => {
                self.nests.nests.push(Nest {
                    template,
                    kind,
                    group,
                    current: None,
                    next: None,
                    failures: 0,
                    barred: None,
                    used: now,
                });
                self.nests.nests.len() - 1
            }
        };
        let nest = &mut self.nests.nests[place];
        nest.used = now;
        if nest.current.is_none() && nest.barred.is_none_or(|until| until <= now) {
            let started = self.start_zygote(template, kind);
            let nest = &mut self.nests.nests[place];
            match started {
                Ok(zygote) => nest.current = Some(zygote),
                Err(error) => self.note_failure(place, &error.to_string()),
            }
        }
        let nest = &self.nests.nests[place];
        let (current, has_failed) = (nest.current, nest.failures > 0);
        let Some(current) = current else { return Offer::Nothing };
        match self.nests.zygote(current) {
            Some(Zygote { phase: Phase::Ready, orders, .. }) if *orders >= MOST_ORDERS => {
                Offer::Soon
            }
            Some(Zygote { phase: Phase::Ready, .. }) => Offer::Ready(current),
            // Nobody waits for one that is slow, or that follows one that has failed.
            Some(zygote) if !has_failed && now < zygote.born + WAIT_DEADLINE => Offer::Soon,
            _ => Offer::Nothing,
        }
    }

    fn start_zygote(&mut self, template: usize, kind: usize) -> Jail<usize> {
        let image = &self.images[template];
        let recipe = &image.zygotes[kind];
        let devices = match self.own_devices {
            true => format!("/d/{}", self.slots.len()),
            false => "/d/shared".to_owned(),
        };
        let (ours, theirs) =
            wire::pair().map_err(|error| JailError::new("make a zygote's socket", error))?;
        // One that has stopped must not stop the launcher.
        fcntl_setfl(&ours, OFlags::NONBLOCK).step("make a zygote's socket non-blocking")?;
        let birth = Birth {
            cell: zygote::root_of(image, devices, self.meters.version() == 0, &self.without),
            command: Command::new(&recipe.command, &image.environment, self.warm.memory)?,
            control: &theirs,
            makes_rings: recipe.makes_rings,
        };
        let zygote = zygote::start(&birth, ours, &self.nests.terms)?;
        let free = self.nests.zygotes.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.nests.zygotes.push(None);
            self.nests.zygotes.len() - 1
        });
        // Its owner first: from here on it is reaped whatever fails.
        let zygote = self.nests.zygotes[place].insert(zygote);
        let token = TOKEN | (place as u64) << 1;
        watch_descriptor(&self.epoll, zygote.process.pidfd.as_fd(), token, epoll::EventFlags::IN)?;
        if let Some(control) = &zygote.control {
            watch_descriptor(&self.epoll, control.as_fd(), token | 1, epoll::EventFlags::IN)?;
        }
        Ok(place)
    }

    /// Orders a worker for a finished cell.
    fn order_worker(&mut self, index: usize, place: usize) -> Jail<()> {
        let hosts = self.slot_ids(index);
        let program = self.without.ids(hosts).program;
        let channels = self.open_channels(index)?;
        let (ours, theirs) =
            wire::pair().map_err(|error| JailError::new("make a setup socket", error))?;
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        let (Some(cell), Some(group)) = (&slot.cell, &slot.group) else { return Ok(()) };
        let mut given: Vec<BorrowedFd<'_>> = vec![theirs.as_fd()];
        given.extend(channels.theirs.iter().map(AsFd::as_fd));
        given.push(cell.pidfd.as_fd());
        let into_group = group.directory_to_be_born_in();
        given.extend(group.joins());
        given.extend(into_group);
        let order = Order {
            disk: slot.limits.disk,
            program,
            processes: slot.limits.processes,
            into_group: u32::from(into_group.is_some()),
            padding: 0,
        };
        let Some(zygote) = self.nests.zygote(place) else { return self.start_worker(index) };
        if zygote.order(&order, &given).is_err() {
            // It ends, or does not listen: its place knows soon.
            zygote.dismiss(true);
            return self.start_worker(index);
        }
        zygote.forks += 1;
        zygote.orders += 1;
        slot.pipes = channels.ours;
        slot.forking = Some(Forking { zygote: place, since: Instant::now() });
        slot.state = State::Forking;
        watch_descriptor(
            &self.epoll,
            ours.as_fd(),
            super::token(index, super::SETUP),
            epoll::EventFlags::IN,
        )?;
        slot.setup = Some(ours);
        self.consider_a_successor(place);
        Ok(())
    }

    /// Starts another zygote beside one that is old, has forked much, or has grown.
    fn consider_a_successor(&mut self, place: usize) {
        let Some(zygote) = self.nests.zygote(place) else { return };
        let (forks, age) = (zygote.forks, zygote.born.elapsed());
        let looks = forks.is_multiple_of(SIZE_EVERY);
        let grown = looks && pages(&zygote.process.pidfd).resident > zygote.pages + MOST_GROWTH;
        if forks < self.warm.most_forks && age < self.warm.most_age && !grown {
            return;
        }
        let Some(nest) = self.nests.nest_of(place) else { return };
        let barred = nest.barred.is_some_and(|until| until > Instant::now());
        if nest.next.is_some() || barred {
            return;
        }
        let (template, kind) = (nest.template, nest.kind);
        let started = self.start_zygote(template, kind);
        let Some(at) = self.nests.nests.iter().position(|nest| nest.current == Some(place)) else {
            return;
        };
        match started {
            Ok(next) => self.nests.nests[at].next = Some(next),
            Err(error) => self.note_failure(at, &error.to_string()),
        }
    }

    /// Something of a zygote's is to be heard, if the token is one of theirs.
    pub(super) fn hear_zygote(&mut self, token: u64) -> bool {
        if token & TOKEN == 0 || token >= TOKEN << 1 {
            return false;
        }
        let place = usize::try_from((token & (TOKEN - 1)) >> 1).unwrap_or(usize::MAX);
        if token & 1 == 1 {
            self.hear_words(place);
        } else if self.nests.zygote(place).is_some_and(|zygote| zygote.process.reap().is_some()) {
            self.hear_words(place);
            self.bury(place);
        }
        true
    }

    fn hear_words(&mut self, place: usize) {
        let Some(zygote) = self.nests.zygote(place) else { return };
        let Some(control) = &zygote.control else { return };
        let mut buffer = [0; SETUP_ERROR_LEN];
        match wire::receive_now(control, &mut buffer) {
            Ok(Some((5, _))) if buffer[0] == STARTED => {
                zygote.phase = Phase::Ready;
                let Pages { resident, anonymous } = pages(&zygote.process.pidfd);
                let code = u32::from_ne_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]);
                zygote.pages = resident;
                zygote.anonymous = anonymous.saturating_sub(code.into());
                self.welcome(place);
            }
            Ok(Some((length, _))) => {
                let text = String::from_utf8_lossy(buffer[..length].get(1..).unwrap_or_default());
                zygote.last_words = Some(text.into_owned());
                let _ = epoll::delete(&self.epoll, control);
                zygote.dismiss(true);
            }
            Err(rustix::io::Errno::AGAIN) => {}
            // Its end is told by its pidfd.
            Ok(None) | Err(_) => {
                let _ = epoll::delete(&self.epoll, control);
                zygote.dismiss(true);
            }
        }
    }

    /// A zygote is ready: it takes over, and serves who has waited.
    fn welcome(&mut self, place: usize) {
        let Some(nest) = self.nests.nest_of(place) else {
            // Nobody wants it any more.
            if let Some(zygote) = self.nests.zygote(place) {
                zygote.dismiss(false);
            }
            return;
        };
        let mut old = None;
        if nest.next == Some(place) {
            old = nest.current.replace(place);
            nest.next = None;
        }
        let report = nest.report(None);
        if let Some(old) = old.and_then(|old| self.nests.zygote(old)) {
            old.dismiss(false);
        }
        self.tell(&report, Vec::new());
        self.serve_waiting();
    }

    /// A zygote has answered an order: it forked, or there was nothing to fork into. Only the first
    /// fork shows that it is of use.
    pub(super) fn note_answer(&mut self, place: usize, has_forked: bool) {
        let Some(zygote) = self.nests.zygote(place) else { return };
        zygote.orders = zygote.orders.saturating_sub(1);
        if has_forked
            && !std::mem::replace(&mut zygote.proven, true)
            && let Some(nest) = self.nests.nest_of(place)
        {
            (nest.failures, nest.barred) = (0, None);
        }
        self.serve_waiting();
    }

    /// A zygote could not fork into a cell that is alive.
    pub(super) fn discard(&mut self, place: usize) {
        if let Some(zygote) = self.nests.zygote(place) {
            zygote.last_words.get_or_insert_with(|| "it could not fork".to_owned());
            zygote.dismiss(true);
        }
    }

    /// Looks again for who has waited for a zygote.
    fn serve_waiting(&mut self) {
        if !std::mem::take(&mut self.nests.awaited) {
            return;
        }
        for index in 0..self.slots.len() {
            if matches!(&self.slots[index], Some(slot) if slot.state == State::Waiting)
                && let Err(error) = self.man(index)
            {
                self.fail(index, &error.to_string());
            }
        }
    }

    /// A zygote has been reaped: what it was asked for is done otherwise.
    fn bury(&mut self, place: usize) {
        let Some(zygote) = self.nests.zygotes.get_mut(place).and_then(Option::take) else { return };
        let _ = epoll::delete(&self.epoll, &zygote.process.pidfd);
        let mut unasked = false;
        let mut again = None;
        if let Some(at) = self
            .nests
            .nests
            .iter()
            .position(|nest| nest.current == Some(place) || nest.next == Some(place))
        {
            unasked = true;
            let nest = &mut self.nests.nests[at];
            if nest.next == Some(place) {
                nest.next = None;
            } else {
                nest.current = nest.next.take();
            }
            let text = zygote.last_words.unwrap_or_else(|| "it ended".to_owned());
            again = Some((nest.template, nest.kind)).filter(|_| nest.group == 0);
            self.note_failure(at, &text);
        }
        let mut lost = Vec::new();
        for index in 0..self.slots.len() {
            // What it has forked it may have told of just before, and the worker before it.
            for _ in 0..4 {
                let is_its = |slot: &Slot| slot.forking.is_some_and(|it| it.zygote == place);
                if !self.slots[index].as_ref().is_some_and(is_its) {
                    break;
                }
                self.hear_setup(index);
            }
            let Some(slot) = self.slots[index].as_mut() else { continue };
            if slot.forking.is_some_and(|forking| forking.zygote == place) {
                slot.forking = None;
                lost.push(index);
            }
        }
        if !lost.is_empty() {
            // It may have forked once more, and told nobody.
            self.end_strangers();
            self.nests.strangers = Some(Instant::now() + SETUP_DEADLINE);
        }
        for index in lost {
            self.after_lost_order(index);
        }
        if let Some((template, kind)) = again {
            // The first group's are there before they are asked for.
            let _ = self.ask(template, kind, 0);
        }
        if unasked {
            self.serve_waiting();
        }
    }

    /// An order came to nothing: an exec in its place, in a cell that nobody has been in; or the rest
    /// of the slot's end.
    pub(super) fn after_lost_order(&mut self, index: usize) {
        let Some(slot) = self.slots[index].as_mut() else { return };
        if let Some(setup) = slot.setup.take() {
            let _ = epoll::delete(&self.epoll, &setup);
        }
        (slot.early_listener, slot.early_failure) = (None, None);
        if slot.state != State::Forking {
            self.hear_end(index);
        } else if let Err(error) = self.start_worker(index) {
            self.fail(index, &error.to_string());
        }
    }

    fn note_failure(&mut self, at: usize, text: &str) {
        let nest = &mut self.nests.nests[at];
        nest.failures += 1;
        if let Some(pause) = pause_after(nest.failures) {
            nest.barred = Some(Instant::now() + pause);
        }
        let report = nest.report(Some(text.to_owned()));
        self.tell(&report, Vec::new());
    }

    /// When zygotes have to be looked at next.
    pub(super) fn next_look_at_zygotes(&self, now: Instant) -> Option<Duration> {
        let forks = self
            .slots
            .iter()
            .flatten()
            .filter_map(|slot| Some(slot.forking?.since + FORK_DEADLINE));
        let waits = self.slots.iter().flatten().filter_map(|slot| {
            (slot.state == State::Waiting).then_some(slot.cell_ready? + WAIT_DEADLINE)
        });
        let zygotes = self.nests.zygotes.iter().flatten().filter_map(due);
        let unused = self.nests.nests.iter().filter(|nest| nest.group != 0);
        forks
            .chain(waits)
            .chain(zygotes)
            .chain(unused.map(|nest| nest.used + UNUSED))
            .map(|at| at.saturating_duration_since(now))
            .chain(self.nests.strangers.map(|_| TICK))
            .min()
    }

    /// Ends zygotes that hang, and those that nobody uses.
    pub(super) fn look_at_zygotes(&mut self, now: Instant) {
        if let Some(until) = self.nests.strangers {
            self.end_strangers();
            self.nests.strangers = Some(until).filter(|until| *until > now);
        }
        for slot in self.slots.iter().flatten() {
            let Some(forking) = slot.forking.filter(|forking| forking.since + FORK_DEADLINE <= now)
            else {
                continue;
            };
            if let Some(zygote) =
                self.nests.zygotes.get_mut(forking.zygote).and_then(Option::as_mut)
            {
                zygote.last_words.get_or_insert_with(|| "it did not fork in time".to_owned());
                zygote.dismiss(true);
            }
        }
        for zygote in self.nests.zygotes.iter_mut().flatten() {
            if due(zygote).is_some_and(|until| until <= now) {
                zygote.last_words.get_or_insert_with(|| "it was not ready in time".to_owned());
                zygote.dismiss(true);
            }
        }
        for index in 0..self.slots.len() {
            let has_waited = |slot: &Slot| {
                slot.state == State::Waiting
                    && slot.cell_ready.is_none_or(|since| since + WAIT_DEADLINE <= now)
            };
            if self.slots[index].as_ref().is_some_and(has_waited)
                && let Err(error) = self.start_worker(index)
            {
                self.fail(index, &error.to_string());
            }
        }
        let Nests { nests, zygotes, .. } = &mut self.nests;
        nests.retain(|nest| {
            let keep = nest.group == 0 || nest.used + UNUSED > now;
            for place in [nest.current, nest.next].into_iter().flatten().filter(|_| !keep) {
                if let Some(zygote) = zygotes.get_mut(place).and_then(Option::as_mut) {
                    zygote.dismiss(false);
                }
            }
            keep
        });
    }
}

/// How long no zygote is started after so many failures in a row.
fn pause_after(failures: u32) -> Option<Duration> {
    let doubled = failures.checked_sub(MOST_FAILURES)?;
    Some(BARRED.saturating_mul(1 << doubled.min(6)).min(MOST_BARRED))
}

/// When a zygote must have done what it is about to do: start, or end.
fn due(zygote: &Zygote) -> Option<Instant> {
    match zygote.phase {
        Phase::Starting => Some(zygote.born + START_DEADLINE),
        Phase::Ready => None,
        Phase::Dismissed { since } => Some(since + FORK_DEADLINE),
    }
}

/// The resident pages of a process, and those of them that are of no file.
#[derive(Clone, Copy, Debug, Default)]
struct Pages {
    resident: u64,
    anonymous: u64,
}

fn pages(pidfd: &OwnedFd) -> Pages {
    let read = || {
        let statm = fs::read_to_string(format!("/proc/{}/statm", proc_pid(pidfd).ok()?)).ok()?;
        let mut numbers = statm.split(' ').skip(1).map_while(|number| number.parse::<u64>().ok());
        let (resident, of_files) = (numbers.next()?, numbers.next()?);
        Some(Pages { resident, anonymous: resident.saturating_sub(of_files) })
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_followed_by_pauses_that_double() {
        let pauses = [1, 2, 3, 4, 5, 8, 9, 100, u32::MAX].map(pause_after);
        let seconds = pauses.map(|pause| pause.map(|pause| pause.as_secs()));
        let expected =
            [None, None, Some(10), Some(20), Some(40), Some(320), Some(600), Some(600), Some(600)];
        assert_eq!(seconds, expected);
    }
}
