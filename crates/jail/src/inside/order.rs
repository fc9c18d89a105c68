//! What a launcher tells a zygote: fixed layouts, the same source on both sides.
//!
//! ```text
//! launcher                          zygote
//!   Terms + instructions       ->   once, at its start
//!                              <-   STARTED + pages of its code that are its own now: everything is
//!                                   imported; or a text: it cannot go on
//!   Order + descriptors        ->   forks a worker
//!                              over the slot's setup socket, in either order:
//!                              <-   FORKED + the worker's pidfd, from the zygote
//!                              <-   CONFINED + the listener, from the worker
//!                                   or a text from the worker, UNFORKED from the zygote
//! ```

use super::confine::CONFINED;

/// What every worker is confined by; the instructions of the filter follow.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Terms {
    /// The file system rights that Landlock denies unless a rule allows them.
    pub(crate) landlock_handled: u64,
    /// The scopes that do not leave the cell.
    pub(crate) landlock_scoped: u64,
    /// The hard limits of the launcher.
    pub(crate) hard_limits: super::allowed::HardLimits,
    /// The version of Landlock in force.
    pub(crate) landlock_abi: u32,
    /// Whether a cell maps one id only.
    pub(crate) single_id: u32,
    /// The namespaces of a cell that a worker joins, as flags of `setns`.
    pub(crate) joined: u32,
    /// How many instructions follow.
    pub(crate) instructions: u32,
    /// Whether the zygote puts its code into large pages.
    pub(crate) large_code: u32,
    /// Nothing.
    pub(crate) padding: u32,
}

/// One fork. With it come [`FIXED`] descriptors in the order of the numbers below, then either the
/// group that the worker is born in (v2) or the files through which it joins its groups (v1).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Order {
    /// Bytes of the working directory.
    pub(crate) disk: u64,
    /// The id of the program.
    pub(crate) program: u32,
    /// Processes and threads.
    pub(crate) processes: u32,
    /// Whether the last descriptor is a group to be born in.
    pub(crate) into_group: u32,
    /// Nothing.
    pub(crate) padding: u32,
}

/// The setup socket among the descriptors of an order.
pub(crate) const SETUP: usize = 0;
/// The program's four: request, output, error, result.
pub(crate) const CHANNELS: usize = 1;
/// The pidfd of the cell's first process.
pub(crate) const CELL: usize = 5;
/// How many come with every order.
pub(crate) const FIXED: usize = 6;

/// The zygote is ready for orders. Four bytes follow.
pub(crate) const STARTED: u8 = b'Z';
/// A worker exists.
pub(crate) const FORKED: u8 = b'W';
/// There is none, and will be none for this order.
pub(crate) const UNFORKED: u8 = b'U';
/// What begins a text.
pub(crate) const FAILED: u8 = b'E';
const _: () = assert!(CONFINED != FORKED && FORKED != FAILED && CONFINED != FAILED);

/// The most instructions that a zygote has room for, as many as the kernel takes.
pub(crate) const MOST_INSTRUCTIONS: usize = 4096;
/// Where a zygote finds the socket to the launcher.
pub(crate) const CONTROL_FD: i32 = 3;
