//! The fork server inside a warm interpreter.
//!
//! A zygote is single-threaded, holds no secret and sees no code, argument or output: it waits for
//! an [`Order`], forks, and waits again. The fork is a sibling, so that the launcher is its parent;
//! it is born in the cell's pid namespace, joins the others, and goes through the very `confine` of
//! a cold worker before it returns into the interpreter.

use core::mem::size_of;

use super::{
    allowed::{path_rules, resource_limits},
    code,
    confine::{Plan, Spared, confine},
    fork_calls::{self, MOST_RECEIVED},
    order::{
        CELL, CHANNELS, CONTROL_FD, FAILED, FIXED, FORKED, MOST_INSTRUCTIONS, Order, SETUP,
        STARTED, Terms, UNFORKED,
    },
    fences::Instruction,
    sys::{self, Fault, Sys},
};

/// What an interpreter wants to be called around a fork.
pub(crate) trait Interpreter {
    /// How many threads it has.
    fn threads(&self) -> u32;
    /// In the zygote, before each fork.
    fn before(&mut self) -> Sys<()>;
    /// In the zygote, after each.
    fn after_in_zygote(&mut self);
    /// In the worker, first thing.
    fn after_in_worker(&mut self) -> Sys<()>;
    /// In the worker, which has joined its cell and has every right yet. Gives the descriptors above
    /// the setup socket that are the interpreter's own, ascending; no other is left.
    fn after_join(&mut self) -> Sys<&'static [i32]>;
    /// In the worker, confined, last thing.
    fn after_confine(&mut self) -> Sys<()>;
}

/// Why [`serve`] has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// This is a worker, confined.
    Worker,
    /// This is the zygote, and the launcher wants nothing more of it.
    Dismissed,
}

/// Where a worker keeps its setup socket, above the program's four descriptors.
const SETUP_FD: i32 = 4;
/// Above what is laid out.
const ABOVE: i32 = 32;
const CLONE_NEWPID: i32 = 0x2000_0000;
const O_CLOEXEC: i32 = 0o2_000_000;

/// The terms with their instructions, as one datagram.
#[repr(C)]
struct Inbox {
    terms: Terms,
    filter: [Instruction; MOST_INSTRUCTIONS],
}

/// Serves orders until the launcher is gone, which returns in the zygote; and returns in each
/// worker.
pub(crate) fn serve(interpreter: &mut impl Interpreter) -> Sys<Returned> {
    let mut inbox = Inbox {
        terms: Terms::default(),
        filter: [Instruction { code: 0, jt: 0, jf: 0, k: 0 }; MOST_INSTRUCTIONS],
    };
    let mut descriptors = [-1; MOST_RECEIVED];
    let (length, _) = fork_calls::receive(CONTROL_FD, bytes_of(&mut inbox), &mut descriptors)?;
    let instructions = inbox.terms.instructions as usize;
    if length != size_of::<Terms>() + instructions * size_of::<Instruction>() {
        return Err(Fault { call: "read the terms", errno: EBADMSG });
    }
    let own = Own::find()?;
    // Here and not at the first order: who was never ready has failed to start, which is counted.
    look_for_threads(interpreter)?;
    let mut started = [STARTED, 0, 0, 0, 0];
    if inbox.terms.large_code != 0 {
        started[1..].copy_from_slice(&code::enlarge()?.to_ne_bytes());
    }
    sys::write(CONTROL_FD, &started)?;
    loop {
        let mut order = Order::default();
        let (length, count) =
            fork_calls::receive(CONTROL_FD, bytes_of(&mut order), &mut descriptors)?;
        if length == 0 {
            return Ok(Returned::Dismissed);
        }
        if length != size_of::<Order>() || count < FIXED {
            return Err(Fault { call: "read an order", errno: EBADMSG });
        }
        let given = &descriptors[..count];
        let forked = fork(interpreter, &own, &order, given);
        if let Ok(Forked::Worker) = forked {
            let filter = &inbox.filter[..instructions];
            let confined = fork_calls::set_robust_list(own.robust_list)
                .and_then(|()| interpreter.after_in_worker())
                .and_then(|()| become_worker(interpreter, &inbox.terms, &order, filter, given));
            if let Err(fault) = confined {
                complain(given[SETUP], fault);
                complain(SETUP_FD, fault);
                sys::exit(127);
            }
            // Nobody listens any more: an error here must not look like the zygote's.
            if interpreter.after_confine().is_err() {
                sys::exit(127);
            }
            return Ok(Returned::Worker);
        }
        for descriptor in given {
            let _ = sys::close(*descriptor);
        }
        forked?;
    }
}

/// How an order was carried out.
enum Forked {
    /// This is the worker.
    Worker,
    /// This is the zygote, and the launcher has been told, whether there is a worker or not.
    Told,
}

fn look_for_threads(interpreter: &impl Interpreter) -> Sys<()> {
    if fork_calls::threads()? == interpreter.threads() {
        return Ok(());
    }
    Err(Fault { call: "fork: another thread appeared", errno: EBUSY })
}

const EBADMSG: i32 = 74;
const EBUSY: i32 = 16;

/// What a zygote knows of itself.
struct Own {
    pid_namespace: i32,
    tid: usize,
    robust_list: [usize; 2],
}

impl Own {
    fn find() -> Sys<Self> {
        // A worker has pid 2 in its cell. Libraries tell a fork by another pid than before, so that
        // ours must be none that a worker could have.
        if fork_calls::pid() <= 2 {
            return Err(Fault { call: "have a pid that no worker has", errno: EBUSY });
        }
        Ok(Self {
            pid_namespace: sys::open(c"/proc/self/ns/pid", O_CLOEXEC)?,
            tid: fork_calls::tid_address()?,
            robust_list: fork_calls::robust_list()?,
        })
    }
}

/// Forks. After an error the zygote is no good any more; that a cell was given up meanwhile, or had
/// no place for a process, is none.
fn fork(
    interpreter: &mut impl Interpreter,
    own: &Own,
    order: &Order,
    given: &[i32],
) -> Sys<Forked> {
    let refuse = || {
        let _ = sys::write(given[SETUP], &[UNFORKED]);
    };
    if let Err(fault) = look_for_threads(interpreter) {
        refuse();
        return Err(fault);
    }
    let group = (order.into_group != 0).then(|| given[given.len() - 1]);
    // Children are born in the cell's pid namespace while this holds.
    if sys::setns(given[CELL], CLONE_NEWPID).is_err() {
        refuse();
        return Ok(Forked::Told);
    }
    if let Err(fault) = interpreter.before() {
        refuse();
        return Err(fault);
    }
    // SAFETY: one thread, or those that the interpreter is known to do without in a child; `tid` is
    // what the kernel was told by the C library itself.
    let child = unsafe { fork_calls::clone_sibling(own.tid, group) };
    if matches!(child, Ok(None)) {
        return Ok(Forked::Worker);
    }
    interpreter.after_in_zygote();
    let back = sys::setns(own.pid_namespace, CLONE_NEWPID);
    if let Ok(Some(child)) = child {
        // Untold of, it is found and ended by the launcher, when we are gone.
        sys::send_descriptor(given[SETUP], FORKED, child.pidfd)?;
        sys::close(child.pidfd)?;
    } else {
        refuse();
    }
    back.map(|()| Forked::Told)
}

/// Joins the cell, lays out the descriptors, and gives everything else away.
fn become_worker(
    interpreter: &mut impl Interpreter,
    terms: &Terms,
    order: &Order,
    filter: &[Instruction],
    given: &[i32],
) -> Sys<()> {
    if order.into_group == 0 {
        for join in &given[FIXED..] {
            sys::write(*join, b"0")?;
        }
    }
    sys::setns(given[CELL], terms.joined.cast_signed())?;
    fork_calls::leave_session()?;
    fork_calls::set_umask(0o022);
    fork_calls::change_directory(c"/workspace")?;
    let mut copies = [-1; CELL];
    for (copy, descriptor) in copies.iter_mut().zip(given) {
        *copy = fork_calls::copy_above(*descriptor, ABOVE)?;
    }
    for (copy, target) in copies[CHANNELS..].iter().zip(0..) {
        sys::dup_to(*copy, target)?;
    }
    sys::dup_to(copies[SETUP], SETUP_FD)?;
    let kept = interpreter.after_join()?;
    let limits = resource_limits(order.processes, order.disk, &terms.hard_limits);
    confine(&Plan {
        id: order.program,
        single_id: terms.single_id != 0,
        limits: &limits,
        landlock_abi: terms.landlock_abi,
        landlock_handled: terms.landlock_handled,
        landlock_scoped: terms.landlock_scoped,
        landlock_rules: &path_rules(),
        filter,
        setup_socket: SETUP_FD,
        kept,
        dumpable: true,
        spared: Spared::default(),
    })
}

/// Says over a socket what went wrong.
pub(crate) fn complain(socket: i32, fault: Fault) {
    let mut text = [0; 128];
    text[0] = FAILED;
    let mut at = 1;
    let digits = decimal(fault.errno);
    for part in [fault.call.as_bytes(), b": errno ", &digits] {
        for byte in part.iter().filter(|byte| **byte != 0) {
            if at < text.len() {
                text[at] = *byte;
                at += 1;
            }
        }
    }
    let _ = sys::write(socket, &text[..at]);
}

/// A small number in three digits, leading ones zero bytes.
fn decimal(number: i32) -> [u8; 4] {
    let mut digits = [0; 4];
    let mut left = number.unsigned_abs() % 10_000;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    digits
}

/// The bytes of a value that any bytes are a value of.
fn bytes_of<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: the slice covers `value` exactly and borrows it; `Plain` vouches that it has no padding
    // to leak and that whatever is written is a value.
    unsafe { core::slice::from_raw_parts_mut((&raw mut *value).cast(), size_of::<T>()) }
}

/// Whole numbers without padding.
///
/// # Safety
/// Every pattern of bits must be a value, and no byte padding.
unsafe trait Plain {}
// SAFETY: `repr(C)` of u64 and u32 fields, the sum of whose sizes is the whole.
unsafe impl Plain for Order {}
// SAFETY: `Terms` as `Order`; an instruction is 16 + 8 + 8 + 32 bits, aligned to four bytes behind a
// multiple of eight.
unsafe impl Plain for Inbox {}
const _: () = assert!(size_of::<Order>() == 24);
const _: () = assert!(size_of::<Terms>() == 2 * 8 + 16 * 8 + 6 * 4);
const _: () = assert!(
    size_of::<Inbox>() == size_of::<Terms>() + MOST_INSTRUCTIONS * size_of::<Instruction>()
);
