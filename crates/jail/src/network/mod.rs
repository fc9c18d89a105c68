//! The way out of a cell under the policy `open`: a user-space network helper, one per run.
//!
//! ```text
//!  cell's network namespace                      │ host's network namespace
//!  program ── routes ── tap0 ── frame filter ────┼── slirp4netns ── ordinary sockets ── world
//! ```
//!
//! **Who does what.** The keeper K alone sees the host's network and files, so it starts the helper.
//! The launcher L asks for it over a line of their own ([`line`]), with the cell's network and user
//! namespace and one end of a pipe; when L's end closes, whatever the reason, K kills the helper.
//! K's own end ends it too (parent-death signal).
//!
//! **Where it leads** is decided by two locks, both put up in the cell's namespace before the
//! program exists, neither of which it has the right to touch:
//!
//! 1. *Routes.* One default route through the helper, and a `throw` for every closed range
//!    ([`range`]): the host's own addresses, private, link-local, metadata, multicast. A program
//!    that tries hears "network is unreachable", and the kernel counts it, as under `none`.
//! 2. *A filter of frames on the tap device* ([`tap`]), which lets only those to the gateway and to
//!    the forwarder of name lookups through. It is there for what asks no route: a socket that is
//!    bound to the device, multicast, broadcast. Their frames have other addresses.
//!
//! IPv4 only: the device has no IPv6 address, and the filter no address that IPv6 could use.
//!
//! **The helper's rights.** It runs as the id of the cell's first process, in the cell's user
//! namespace, with two Linux caps there (to enter the network namespace and attach the device) and
//! none anywhere else; with no_new_privs, under Landlock (programs and libraries, `resolv.conf`, the
//! tun device) and under its own system call filter.

pub(crate) mod helper;
pub(crate) mod line;
mod netlink;
pub(crate) mod range;
mod start;
mod tap;
pub(crate) mod tool;

use std::net::Ipv4Addr;

use range::AddressRange;

/// The helper's own network: of the range for benchmarks of devices, which nobody's network uses.
pub(crate) const HELPER_RANGE: AddressRange =
    AddressRange::constant(Ipv4Addr::new(198, 18, 0, 0), 24);
/// The address of a program, and of what the helper answers at.
const PROGRAM: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Forwards name lookups to the host's own resolver.
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);
/// The device inside.
const DEVICE: &str = "tap0";
/// The largest packet on the device. It never touches a wire.
const MTU: u32 = 65_520;
