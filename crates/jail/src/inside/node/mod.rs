//! A fork of a warm Node.js.
//!
//! Nobody documents that V8 and libuv may be forked, so nothing here trusts that they may: what a
//! fork would lose or share is looked up in what the kernel tells of the process, and anything of an
//! unknown kind is a reason not to fork. A zygote that refuses costs a start by exec, no more; and
//! whether a forked interpreter works is tried by the runtime's self-test on the very machine.
//!
//! ```text
//! zygote   prepare        once: threads stopped, descriptors noted, memory looked at
//!          before         each time: memory
//! worker   after_join     in its cell, not yet confined: fresh descriptors
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

use super::{
    dlsym_of, order,
    sys::{Fault, Sys},
    zygote::{self, Interpreter, Returned},
};

/// Looks a symbol up in the process that has loaded us.
type Lookup = fn(&CStr) -> Option<*mut c_void>;

/// The highest descriptor that is not the interpreter's own: the setup socket's place.
const GIVEN: i32 = 4;

/// A Node.js that is ready to be forked.
#[derive(Debug)]
pub(crate) struct Node {
    threads: u32,
}

impl Node {
    /// Gets this process ready.
    pub(crate) fn prepare() -> Sys<Self> {
        let offset = dlsym_of(c"__rseq_offset").map(<*mut c_void>::cast_const);
        let helpers = threads::stop_others(offset)?;
        chance::find(dlsym_of)?;
        descriptors::survey(GIVEN)?;
        memory::fork_all()?;
        memory::check()?;
        Ok(Self { threads: u32::try_from(helpers).unwrap_or(u32::MAX).saturating_add(1) })
    }
}

impl Interpreter for Node {
    fn threads(&self) -> u32 {
        self.threads
    }

    fn before(&mut self) -> Sys<()> {
        memory::fork_all()
    }

    fn after_in_zygote(&mut self) {}

    fn after_in_worker(&mut self) -> Sys<()> {
        Ok(())
    }

    fn after_join(&mut self) -> Sys<&'static [i32]> {
        descriptors::replace_all()
    }

    fn after_confine(&mut self) -> Sys<()> {
        chance::renew()?;
        threads::start_again()?;
        // By itself OpenSSL looks at the pid.
        let missing = Fault { call: "RAND_poll", errno: 38 };
        let reseed = dlsym_of(c"RAND_poll").ok_or(missing)?;
        // SAFETY: OpenSSL documents this signature; it takes its own locks, whose holders run again.
        let reseeded =
            unsafe { core::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> i32>(reseed)() };
        if reseeded == 1 { Ok(()) } else { Err(Fault { call: "RAND_poll", errno: 5 }) }
    }
}

/// Makes this process a zygote; returns in workers, and where there can be none.
pub(crate) fn serve() -> Result<(), Fault> {
    let served = Node::prepare().and_then(|mut node| zygote::serve(&mut node));
    match served {
        Ok(Returned::Worker) => Ok(()),
        Ok(Returned::Dismissed) => super::sys::exit(0),
        Err(fault) => {
            zygote::complain(order::CONTROL_FD, fault);
            Err(fault)
        }
    }
}
