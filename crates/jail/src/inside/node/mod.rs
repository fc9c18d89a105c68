//! A fork of a warm Node.js.
//!
//! Nobody documents that V8 and libuv may be forked, so nothing here trusts that they may: what a
//! fork would lose or share is looked up in what the kernel tells of the process, and anything of an
//! unknown kind is a reason not to fork. A zygote that refuses costs a start by exec, no more; and
//! whether a forked interpreter works is tried by the runtime's self-test on the very machine.
//!
//! ```text
//! zygote   prepare        once: threads stopped, descriptors noted, memory looked at
//!          before_fork    each time
//! child    after_fork     in its cell, not yet confined: fresh descriptors
//!          after_confine  confined: the threads go on, the random numbers are new
//! ```
//!
//! A zygote never runs JavaScript again once it is prepared: `serve` returns in children only. So
//! what `prepare` has seen stays true.

mod calls;
mod chance;
mod descriptors;
mod listing;
mod memory;
pub(crate) mod napi;
mod threads;

use core::ffi::{CStr, c_void};

use super::sys::{Fault, Sys};

/// Every child is the second process of its cell.
const PID_OF_WORKERS: i32 = 2;

/// Looks a symbol up in the process that has loaded us.
type Lookup = fn(&CStr) -> Option<*mut c_void>;

/// Gets this process ready to be forked; `given` is the highest descriptor that the launcher gave.
pub(crate) fn prepare(given: i32, lookup: Lookup) -> Sys<()> {
    // OpenSSL notices a fork by a changed pid.
    if calls::pid() == PID_OF_WORKERS {
        return Err(Fault { call: "pid of a zygote", errno: PID_OF_WORKERS });
    }
    threads::stop_others(lookup(c"__rseq_offset").map(<*mut c_void>::cast_const))?;
    chance::find(lookup)?;
    descriptors::survey(given)?;
    memory::fork_all()?;
    memory::check()
}

/// Before each fork.
pub(crate) fn before_fork() -> Sys<()> {
    memory::fork_all()
}

/// In a child that has joined its cell: replaces what it shares with the zygote. Gives the numbers
/// of the descriptors that are the interpreter's own, ascending; all others may be closed.
pub(crate) fn after_fork() -> Sys<&'static [i32]> {
    descriptors::replace_all()
}

/// In a child that is confined: makes it a whole interpreter again.
pub(crate) fn after_confine(lookup: Lookup) -> Sys<()> {
    chance::renew()?;
    threads::start_again()?;
    let Some(reseed) = lookup(c"RAND_poll") else {
        return Err(Fault { call: "RAND_poll", errno: 38 });
    };
    // SAFETY: OpenSSL documents this signature; it takes its own locks, whose holders run again.
    let reseeded =
        unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> i32>(reseed)() };
    if reseeded == 1 { Ok(()) } else { Err(Fault { call: "RAND_poll", errno: 5 }) }
}
