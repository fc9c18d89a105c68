//! Compiles the system-call policy to a seccomp filter and checks the result against an oracle.
//!
//! # Theory of operation
//!
//! ```text
//! policies/seccomp.json ──parse, validate──▶ Policy ──compile(arch)──▶ Program ──▶ installed by confine()
//!                                              │                         │
//!                                              └──evaluate()──▶  ==  ◀───┘ simulate()
//! ```
//!
//! The policy is data and every rule says why it is there. [`Policy::compile`] turns it into classic
//! BPF; [`evaluate`] reads the same policy directly and [`simulate`] runs the compiled program, so
//! that a test compares the two for every number and every argument of interest. Nothing here makes a
//! system call: who installs the filter and who answers its notifications is another module's matter.
//!
//! A compiled program first kills calls of a foreign architecture and, on `x86_64`, of x32. It then
//! walks a balanced tree over ranges of call numbers, because the cost of installing a filter grows
//! with its length and the cost of a call with its depth. The leaves are actions or checks of
//! arguments. Pointers are opaque to a filter; a rule on what they point to belongs to another layer.

mod compile;
mod numbers;
mod policy;
mod simulate;
#[cfg(test)]
mod tests;

pub use compile::{Instruction, MAX_INSTRUCTIONS, Program};
pub use numbers::Arch;
pub use policy::{DEFAULT_POLICY, Policy, PolicyError, Problem};
pub use simulate::{BadProgram, CallData, Outcome, evaluate, simulate};

/// What the kernel does when a filter returns it: run the call.
pub const RET_ALLOW: u32 = 0x7fff_0000;
/// What the kernel does when a filter returns it: ask the holder of the listener.
pub const RET_USER_NOTIF: u32 = 0x7fc0_0000;
/// What the kernel does when a filter returns it: fail the call with the error in the low 16 bits.
pub const RET_ERRNO: u32 = 0x0005_0000;
/// What the kernel does when a filter returns it: end the process with SIGSYS.
pub const RET_KILL_PROCESS: u32 = 0x8000_0000;

/// Bit 30 of a call number marks an x32 call on `x86_64`.
const X32_BIT: u32 = 0x4000_0000;
