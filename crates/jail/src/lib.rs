//! Linux confinement, and the processes that build and end sandboxes.
//!
//! # Theory of operation
//!
//! ```text
//! manager M   asynchronous; parses requests; needs no right. Spawns K by exec, first thing.
//!  └ keeper K     waits. Starts L, starts it again, removes control groups when L is gone.
//!     └ launcher L    synchronous, single-threaded, epoll. PID 1 of its own pid namespace P0, in
//!        │            its own user namespace U0, on its own root. Never sees code or output.
//!        ├ cell C     pid 1 of a run's pid namespace: builds root, tmpfs, proc, quotas; waits.
//!        └ worker W   pid 2 of the cell: joins C, confines itself, becomes the interpreter.
//! ```
//!
//! **Privileges.** Started as root, K and L are root of the host in name only: L's user namespace
//! maps root and the ids of Ampoule, and its root directory shows nothing else of the host. C and W
//! have two host ids of their own per slot. Started as an ordinary user everything has that user's
//! one id. W loses everything in `confine`, in one order that is the same cold and warm.
//!
//! **Clean-up** is the kernel's: M's end closes L's socket, L's end is the end of P0, and a killed C
//! takes its whole pid namespace along. Mounts live in mount namespaces and end with them. Only
//! control groups outlive processes; K removes them, and sweeps those of a K that was killed.
//!
//! **Pipes.** For each run L makes four, gives W one end and M the other: request, stdout, stderr,
//! result. They are pipes and not sockets, so that no descriptor travels over them. The listener of
//! denied system calls goes to M as well. L keeps pidfds, group files, and the two directories of
//! scratch space that C opened before any user code.

#![forbid(clippy::undocumented_unsafe_blocks)]

#[path = "inside/allowed.rs"]
mod allowed;
mod cgroup;
mod client;
#[cfg(test)]
#[path = "inside/code.rs"]
#[expect(dead_code, reason = "zygotes use the rest of it")]
mod code;
mod config;
#[path = "inside/confine.rs"]
mod confine;
mod error;
#[path = "inside/fences.rs"]
mod fences;
mod handover;
mod hurdles;
mod identity;
mod keeper;
mod launcher;
mod leaks;
#[cfg(test)]
#[path = "inside/lines.rs"]
mod lines;
mod network;
#[path = "inside/order.rs"]
#[expect(dead_code, reason = "the zygote uses the rest of it")]
mod order;
mod probe;
mod protocol;
mod rights;
pub mod seccomp;
mod survey;
#[path = "inside/sys.rs"]
mod sys;
mod wire;

pub use client::{Connection, Keeper, Listener, give_up_rights};
pub use config::{LauncherConfig, NetworkSetup, SkeletonFile, Template, Tree, Warm, ZygoteRecipe};
pub use error::JailError;
pub use hurdles::{Hurdle, Machine};
pub use leaks::{Leak, leaks};
pub use network::{
    range::{AddressRange, BadRange, Opening},
    tool::PROGRAM as NETWORK_HELPER,
};
pub use probe::{
    ARGUMENT as PROBE_ARGUMENT, Asked as ProbeRequest, EXECUTABLE as PROBE_EXECUTABLE, MeterProbe,
    fences as probed_fences,
};
pub use protocol::{
    CellLimits, Command, Conditions, Counters, FileNote, KernelMeters, Malformed, Origin, Report,
    WaitStatus,
};
pub use survey::{ControlGroups, OwnGroup, control_groups, landlock_abi};

/// The code that is loaded into an interpreter, as built beside this crate.
pub const INSIDE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ampoule_inside.so"));

/// Becomes a keeper, a launcher or a probe if this process was started as one, and then never
/// returns.
///
/// The first line of `main` in every program that uses [`Keeper`]: all are this very executable,
/// started again with a hidden argument.
pub fn entry() {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(argument), None) = (arguments.next(), arguments.next()) else { return };
    let outcome = match argument.to_str() {
        Some(keeper::ARGUMENT) => keeper::run(),
        Some(handover::LAUNCHER_ARGUMENT) => launcher::run(),
        Some(probe::ARGUMENT) => probe::run(),
        _ => return,
    };
    if let (Err(error), Some(probe::ARGUMENT)) = (&outcome, argument.to_str()) {
        // Standard error is all that a probe has beside its answer. The others have told the
        // manager over their sockets; a manager that is gone has nobody to tell.
        let _ = sys::write(2, format!("ampoule: {error}\n").as_bytes());
    }
    sys::exit(i32::from(outcome.is_err()))
}
