//! The cell's end of the way out: the device, its filter, its address and its routes.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::{
    DEVICE, GATEWAY, MTU, PROGRAM, RESOLVER,
    netlink::{Device, MAIN_TABLE},
    range::{AddressRange, OpenPort, Plan, Way},
};
use crate::{
    error::{Jail, Step},
    sys,
};

const EVERYTHING: AddressRange = AddressRange::constant(Ipv4Addr::UNSPECIFIED, 0);
/// Tables of routes that nothing else in a fresh namespace uses.
const WITHOUT_HOST: u8 = 100;
const WITH_HOST: u8 = 101;

const CLONE_NEWUSER: i32 = 0x1000_0000;
const CLONE_NEWNET: i32 = 0x4000_0000;

/// `struct ifreq` as the tun device reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

/// `struct tun_filter` with two addresses.
#[repr(C)]
struct FrameFilter {
    flags: u16,
    count: u16,
    addresses: [[u8; 6]; 2],
}

/// Makes the device in the cell's network namespace. To be called in a process of its own, which
/// has no way back.
pub(super) fn build(
    user_namespace: BorrowedFd<'_>,
    network_namespace: BorrowedFd<'_>,
    plan: &Plan,
) -> Jail<()> {
    // Whoever enters it has every capability over what belongs to it.
    sys::setns(user_namespace.as_raw_fd(), CLONE_NEWUSER)?;
    sys::setns(network_namespace.as_raw_fd(), CLONE_NEWNET)?;
    make_device()?;
    let device = Device::open(DEVICE)?;
    // A kernel without IPv6 has nothing to leave off.
    let _ = device.without_ipv6();
    device.up(MTU)?;
    device.address(PROGRAM)?;
    for neighbour in [GATEWAY, RESOLVER] {
        device.neighbour(neighbour, hardware_address(neighbour))?;
    }
    for (range, way) in &plan.routes {
        let gateway = match way {
            Way::Closed => None,
            Way::Open if range.address() == RESOLVER => Some(RESOLVER),
            Way::Open => Some(GATEWAY),
        };
        device.route(MAIN_TABLE, *range, gateway)?;
    }
    if !plan.ports.is_empty() {
        open_ports(&device, plan)?;
    }
    device.route(MAIN_TABLE, EVERYTHING, Some(GATEWAY))
}

/// Lays out two tables for ports that are open, without and with the host's own addresses, and the
/// rules that lead there. What a table throws is looked up in the main one.
fn open_ports(device: &Device, plan: &Plan) -> Jail<()> {
    for address in &plan.own {
        device.route(WITHOUT_HOST, *address, None)?;
    }
    for table in [WITHOUT_HOST, WITH_HOST] {
        device.route(table, EVERYTHING, Some(GATEWAY))?;
    }
    for OpenPort { range, port, of_host } in &plan.ports {
        device.rule(*range, *port, if *of_host { WITH_HOST } else { WITHOUT_HOST })?;
    }
    Ok(())
}

/// The hardware addresses that libslirp has: two fixed bytes, then the IPv4 address.
fn hardware_address(of: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = of.octets();
    [0x52, 0x55, a, b, c, d]
}

/// Makes a device that stays when we close it, for the helper to attach to, with a filter that
/// stays as well: only frames to the gateway and the resolver leave the namespace.
fn make_device() -> Jail<()> {
    const TUNSETIFF: u32 = 0x4004_54ca;
    const TUNSETPERSIST: u32 = 0x4004_54cb;
    const TUNSETTXFILTER: u32 = 0x4004_54d1;
    const TAP_WITHOUT_HEADER: u16 = 0x1002;
    let tun =
        File::options().read(true).write(true).open("/dev/net/tun").step("open the tun device")?;
    let mut request =
        InterfaceRequest { name: [0; 16], flags: TAP_WITHOUT_HEADER, padding: [0; 22] };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` of 40 bytes, which `request` is laid
    // out as.
    unsafe { sys::ioctl(tun.as_raw_fd(), TUNSETIFF, (&raw mut request).cast()) }?;
    let mut filter = FrameFilter {
        flags: 0,
        count: 2,
        addresses: [hardware_address(GATEWAY), hardware_address(RESOLVER)],
    };
    // SAFETY: TUNSETTXFILTER reads a header of four bytes and `count` addresses of six behind it,
    // which `filter` is laid out as.
    unsafe { sys::ioctl(tun.as_raw_fd(), TUNSETTXFILTER, (&raw mut filter).cast()) }?;
    // SAFETY: the argument of TUNSETPERSIST is a number, which the kernel does not follow.
    unsafe { sys::ioctl(tun.as_raw_fd(), TUNSETPERSIST, std::ptr::without_provenance_mut(1)) }?;
    Ok(())
}
