//! A zygote: a warm interpreter that forks, as the launcher sees it, and its process up to the exec.
//!
//! ```text
//!   Starting --STARTED--> Ready --recycled, unused, hangs--> Dismissed --reaped--> (gone)
//!      \--a text, its end, too slow---------^
//! ```

use std::{
    fs, io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
    time::Instant,
};

use ampoule_core::NetworkPolicy;
use rustix::{
    process::{Signal, chdir, pidfd_send_signal},
    thread::set_name,
};

use super::{cell, rules::Rules, slot::Process, worker};
use crate::{
    INSIDE,
    error::{Jail, JailError, Step},
    fences,
    order::{CONTROL_FD, FAILED, MOST_INSTRUCTIONS, Order, Terms},
    sys, wire,
};

/// Where the code that is loaded into an interpreter is, in a zygote's own root.
pub(crate) const LIBRARY: &str = "/tmp/ampoule_inside.so";
/// What is left of a zygote's rights: looking at a cell's first process, joining its namespaces, and
/// giving rights away. SETGID, SETUID, SETPCAP, SYS_PTRACE, SYS_ADMIN.
const KEPT: [usize; 5] = [6, 7, 8, 19, 21];

/// Where a zygote is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It imports.
    Starting,
    /// It takes orders.
    Ready,
    /// It takes none any more and ends.
    Dismissed {
        /// Since then; one that does not is ended by force.
        since: Instant,
    },
}

/// A zygote, alive until its process is reaped.
#[derive(Debug)]
pub(super) struct Zygote {
    pub(super) process: Process,
    /// Orders go here; closed when it is dismissed.
    pub(super) control: Option<OwnedFd>,
    pub(super) phase: Phase,
    pub(super) born: Instant,
    /// Workers that it was asked for.
    pub(super) forks: u32,
    /// Of these, so many that it has not answered yet.
    pub(super) orders: u32,
    /// Whether it has ever forked one.
    pub(super) proven: bool,
    /// Resident pages when it was ready.
    pub(super) pages: u64,
    /// Those of them that are of no file and no code, when it was ready.
    pub(super) anonymous: u64,
    /// What it said before it ended.
    pub(super) last_words: Option<String>,
}

impl Zygote {
    /// Has it end: by itself if it waits for orders, and by force if it hangs.
    pub(super) fn dismiss(&mut self, force: bool) {
        // By force it ends whatever it does, and once more after a while does no harm.
        self.phase = Phase::Dismissed { since: Instant::now() };
        self.control = None;
        if force {
            let _ = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
        }
    }

    /// Gives it an order; it answers over the first of the descriptors.
    pub(super) fn order(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Jail<()> {
        let control = self.control.as_ref();
        let control =
            control.ok_or_else(|| JailError::new("ask a zygote", io::ErrorKind::BrokenPipe))?;
        wire::send(control.as_fd(), &bytes_of(order), descriptors).step("ask a zygote")
    }
}

/// An order as it lies in memory.
fn bytes_of(order: &Order) -> [u8; size_of::<Order>()] {
    let mut bytes = [0; size_of::<Order>()];
    bytes[..8].copy_from_slice(&order.disk.to_ne_bytes());
    for (place, number) in
        bytes[8..].chunks_exact_mut(4).zip([order.program, order.processes, order.into_group])
    {
        place.copy_from_slice(&number.to_ne_bytes());
    }
    bytes
}

/// Everything that a zygote is started from.
pub(super) struct Birth<'a> {
    pub(super) cell: cell::Recipe<'a>,
    pub(super) command: worker::Command,
    pub(super) control: &'a OwnedFd,
    pub(super) makes_rings: bool,
}

/// Clones a zygote's process. Its root is a cell's, with the rights of the launcher's root.
pub(super) fn start(birth: &Birth<'_>, control: OwnedFd, terms: &[u8]) -> Jail<Zygote> {
    const NEW_MOUNTS: u64 = 0x0002_0000;
    // SAFETY: the launcher never starts a thread.
    let child = unsafe { sys::clone3(NEW_MOUNTS, None) }?;
    let Some(child) = child else { run(birth) };
    // SAFETY: clone3 has just made this descriptor for us alone.
    let process = Process { pidfd: unsafe { OwnedFd::from_raw_fd(child.pidfd) } };
    let mut zygote = Zygote {
        process,
        control: None,
        phase: Phase::Starting,
        born: Instant::now(),
        forks: 0,
        orders: 0,
        proven: false,
        pages: 0,
        anonymous: 0,
        last_words: None,
    };
    match wire::send(control.as_fd(), terms, &[]) {
        Ok(()) => zygote.control = Some(control),
        // It ends without its terms, and is reaped as any other.
        Err(_) => zygote.dismiss(true),
    }
    Ok(zygote)
}

fn run(birth: &Birth<'_>) -> ! {
    let fault = prepare(birth).map(|()| worker::exec(&birth.command));
    let text = match fault {
        Ok(fault) => JailError::from(fault).to_string(),
        Err(error) => error.to_string(),
    };
    let message = [&[FAILED], text.as_bytes()].concat();
    let _ = sys::write(CONTROL_FD, &message);
    let _ = wire::send(birth.control.as_fd(), &message, &[]);
    sys::exit(127)
}

fn prepare(birth: &Birth<'_>) -> Jail<()> {
    let _ = set_name(c"ampoule-zygote");
    sys::reset_signals()?;
    // Workers inherit it: when the machine runs out of memory, programs go first.
    fs::write("/proc/self/oom_score_adj", worker::OOM_SCORE).step("set the oom score")?;
    cell::mount_root(&birth.cell)?;
    fs::write(format!("/n{LIBRARY}"), INSIDE).step("write the library for interpreters")?;
    super::root::enter(Path::new("/n"), None)?;
    chdir("/workspace").step("enter /workspace")?;
    for capability in (0..64).filter(|capability| !KEPT.contains(capability)) {
        const PR_CAPBSET_DROP: i32 = 24;
        if sys::prctl(PR_CAPBSET_DROP, capability, 0).is_err() {
            break;
        }
    }
    let control =
        rustix::io::fcntl_dupfd_cloexec(birth.control, 2 * CONTROL_FD).step("copy a descriptor")?;
    let null = fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.step("open /dev/null")?;
    let null = rustix::io::fcntl_dupfd_cloexec(&null, 2 * CONTROL_FD).step("copy a descriptor")?;
    for target in 0..CONTROL_FD {
        sys::dup_to(null.as_raw_fd(), target)?;
    }
    sys::dup_to(control.as_raw_fd(), CONTROL_FD)?;
    // Nothing of the interpreter's own is where a worker has its setup socket.
    sys::dup_to(null.as_raw_fd(), worker::SETUP_FD)?;
    sys::close_on_exec_from(worker::SETUP_FD.cast_unsigned() + 1)?;
    if birth.makes_rings {
        fences::seccomp_alone(&NO_RINGS)?;
    }
    Ok(())
}

/// `io_uring_setup` is unknown: a ring is memory that a fork shares. It is not there for programs
/// either, who are told `EPERM` where nobody has to be kept from it before.
const NO_RINGS: [fences::Instruction; 4] = {
    const IO_URING_SETUP: u32 = 425;
    const ENOSYS: u32 = 38;
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ERRNO: u32 = 0x0005_0000;
    const ALLOW: u32 = 0x7fff_0000;
    [
        fences::Instruction { code: LOAD, jt: 0, jf: 0, k: 0 },
        fences::Instruction { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: IO_URING_SETUP },
        fences::Instruction { code: RETURN, jt: 0, jf: 0, k: ERRNO | ENOSYS },
        fences::Instruction { code: RETURN, jt: 0, jf: 0, k: ALLOW },
    ]
};

/// What a zygote's root is made of: that of a cell, for root and without a way out.
pub(super) fn root_of<'a>(
    image: &'a super::root::Image,
    devices: String,
    watched: bool,
    without: &'a super::without::Without,
) -> cell::Recipe<'a> {
    const DISK: u64 = 16 << 20;
    cell::Recipe {
        image,
        devices,
        network: NetworkPolicy::None,
        disk: DISK,
        ids: super::without::Ids { first: None, program: 0, map: None },
        proc: true,
        watched,
        joins: Vec::new(),
        without,
    }
}

/// The terms that every worker is confined by, as a datagram.
pub(super) fn terms(rules: &Rules, single_id: bool, large_code: bool) -> Jail<Vec<u8>> {
    let instructions = u32::try_from(rules.filter.len().min(MOST_INSTRUCTIONS)).unwrap_or(0);
    if rules.filter.len() > MOST_INSTRUCTIONS {
        return Err(JailError::new("lay out the filter", io::ErrorKind::InvalidInput));
    }
    let terms = Terms {
        landlock_handled: rules.landlock_handled(),
        landlock_scoped: rules.landlock_scoped(),
        hard_limits: rules.hard_limits,
        landlock_abi: rules.landlock_abi,
        single_id: u32::from(single_id),
        joined: u32::try_from(worker::JOINED).unwrap_or(0),
        instructions,
        large_code: u32::from(large_code),
        padding: 0,
    };
    let mut bytes = Vec::with_capacity(size_of::<Terms>() + rules.filter.len() * 8);
    for number in [terms.landlock_handled, terms.landlock_scoped] {
        bytes.extend(number.to_ne_bytes());
    }
    for number in terms.hard_limits {
        bytes.extend(number.to_ne_bytes());
    }
    for number in [
        terms.landlock_abi,
        terms.single_id,
        terms.joined,
        terms.instructions,
        terms.large_code,
        terms.padding,
    ] {
        bytes.extend(number.to_ne_bytes());
    }
    for instruction in &rules.filter {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes[at..at + N].try_into().unwrap()
    }

    #[test]
    fn an_order_lies_as_its_reader_expects() {
        let order =
            Order { disk: u64::MAX - 1, program: 2, processes: 3, into_group: 4, padding: 0 };
        let bytes = bytes_of(&order);
        assert_eq!(number(&bytes, offset_of!(Order, disk)), order.disk.to_ne_bytes());
        assert_eq!(number(&bytes, offset_of!(Order, program)), order.program.to_ne_bytes());
        assert_eq!(number(&bytes, offset_of!(Order, processes)), order.processes.to_ne_bytes());
        assert_eq!(number(&bytes, offset_of!(Order, into_group)), order.into_group.to_ne_bytes());
        assert_eq!(number(&bytes, offset_of!(Order, padding)), [0; 4]);
    }

    #[test]
    fn terms_lie_as_their_reader_expects() {
        let filter = vec![
            fences::Instruction { code: 0x0102, jt: 3, jf: 4, k: 0x0506_0708 },
            fences::Instruction { code: 9, jt: 10, jf: 11, k: 12 },
        ];
        let rules = Rules {
            landlock_abi: 6,
            hard_limits: std::array::from_fn(|at| 100 + at as u64),
            filter,
        };
        let bytes = terms(&rules, true, true).unwrap();
        let at = offset_of!(Terms, hard_limits);
        for (place, limit) in (at..).step_by(8).zip(rules.hard_limits) {
            assert_eq!(number(&bytes, place), limit.to_ne_bytes());
        }
        let expected: [(usize, u32); 6] = [
            (offset_of!(Terms, landlock_abi), 6),
            (offset_of!(Terms, single_id), 1),
            (offset_of!(Terms, joined), u32::try_from(worker::JOINED).unwrap()),
            (offset_of!(Terms, instructions), 2),
            (offset_of!(Terms, large_code), 1),
            (offset_of!(Terms, padding), 0),
        ];
        for (at, value) in expected {
            assert_eq!(number(&bytes, at), value.to_ne_bytes());
        }
        let handled = rules.landlock_handled().to_ne_bytes();
        assert_eq!(number(&bytes, offset_of!(Terms, landlock_handled)), handled);
        let scoped = rules.landlock_scoped().to_ne_bytes();
        assert_eq!(number(&bytes, offset_of!(Terms, landlock_scoped)), scoped);
        let (size, first) = (size_of::<fences::Instruction>(), size_of::<Terms>());
        assert_eq!(bytes.len(), first + 2 * size);
        assert_eq!(
            number(&bytes, first + offset_of!(fences::Instruction, code)),
            0x0102_u16.to_ne_bytes()
        );
        assert_eq!(bytes[first + offset_of!(fences::Instruction, jt)], 3);
        assert_eq!(bytes[first + offset_of!(fences::Instruction, jf)], 4);
        assert_eq!(
            number(&bytes, first + size + offset_of!(fences::Instruction, k)),
            12_u32.to_ne_bytes()
        );
    }

    #[test]
    fn a_filter_that_no_zygote_has_room_for_is_refused() {
        let one = fences::Instruction { code: 6, jt: 0, jf: 0, k: 0 };
        let rules = |count| Rules {
            landlock_abi: 6,
            hard_limits: Default::default(),
            filter: vec![one; count],
        };
        assert!(terms(&rules(MOST_INSTRUCTIONS), false, false).is_ok());
        assert!(terms(&rules(MOST_INSTRUCTIONS + 1), false, false).is_err());
    }
}
