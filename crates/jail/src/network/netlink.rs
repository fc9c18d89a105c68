//! The kernel's own way to set up a network: requests over a netlink socket, each answered.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice::name_to_index, recv,
    send, socket_with,
};

use super::range::AddressRange;
use crate::error::{Jail, JailError, Step};

/// The table of routes that is looked into last.
pub(super) const MAIN_TABLE: u8 = 254;

const INET: u8 = 2;
const INET6: u8 = 10;
const ANSWER: u16 = 2;
const REQUEST_AND_ANSWER: u16 = 1 | 4;
const CREATE: u16 = 0x400 | 0x200;
const HEADER_LEN: usize = 16;

/// One request under construction.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST_AND_ANSWER | flags).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// A device, and the socket that its network namespace is set up through.
pub(super) struct Device {
    socket: OwnedFd,
    index: u32,
}

impl Device {
    /// Opens the device of this name in the network namespace that we are in.
    pub(super) fn open(name: &str) -> Jail<Self> {
        let flags = SocketFlags::CLOEXEC;
        // Without a protocol it is the one for routes, number 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .step("open a netlink socket")?;
        let any = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
            .step("open a socket")?;
        let index = name_to_index(any.as_fd(), name).step("find the network device")?;
        Ok(Self { socket, index })
    }

    fn ask(&self, mut request: Request, step: &str) -> Jail<()> {
        let length = u32::try_from(request.0.len()).unwrap_or(u32::MAX);
        request.0[..4].copy_from_slice(&length.to_ne_bytes());
        send(&self.socket, &request.0, SendFlags::empty()).step(step)?;
        let mut answer = [0_u8; 4096];
        let (length, _) =
            recv(&self.socket, answer.as_mut_slice(), RecvFlags::empty()).step(step)?;
        let kind = answer[..length].get(4..6).and_then(|bytes| bytes.try_into().ok());
        let errno = answer[..length].get(HEADER_LEN..20).and_then(|bytes| bytes.try_into().ok());
        match (kind.map(u16::from_ne_bytes), errno.map(i32::from_ne_bytes)) {
            (Some(ANSWER), Some(0)) => Ok(()),
            (Some(ANSWER), Some(errno)) => {
                Err(JailError::new(step, io::Error::from_raw_os_error(-errno)))
            }
            _ => Err(JailError::new(step, io::ErrorKind::InvalidData)),
        }
    }

    fn link_body(&self, family: u8, flags: u32) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        body.extend_from_slice(&self.index.to_ne_bytes());
        body.extend_from_slice(&flags.to_ne_bytes());
        body.extend_from_slice(&flags.to_ne_bytes());
        body
    }

    /// Keeps the kernel from giving the device an IPv6 address when it comes up.
    pub(super) fn without_ipv6(&self) -> Jail<()> {
        const NEW_LINK: u16 = 16;
        const AF_SPEC: u16 = 26;
        const ADDRESS_MODE: u16 = 8;
        const NONE: u8 = 1;
        let mode = Request(Vec::new()).with(ADDRESS_MODE, &[NONE]).0;
        let family = Request(Vec::new()).with(INET6.into(), &mode).0;
        let request = Request::new(NEW_LINK, 0, &self.link_body(0, 0)).with(AF_SPEC, &family);
        self.ask(request, "leave IPv6 off")
    }

    /// Brings the device up.
    pub(super) fn up(&self, mtu: u32) -> Jail<()> {
        const NEW_LINK: u16 = 16;
        const MTU: u16 = 4;
        const UP: u32 = 1;
        let request =
            Request::new(NEW_LINK, 0, &self.link_body(0, UP)).with(MTU, &mtu.to_ne_bytes());
        self.ask(request, "bring the network device up")
    }

    /// Gives the device its one address.
    pub(super) fn address(&self, address: Ipv4Addr) -> Jail<()> {
        const NEW_ADDRESS: u16 = 20;
        const ADDRESS: u16 = 1;
        const LOCAL: u16 = 2;
        let mut body = vec![INET, 32, 0, 0];
        body.extend_from_slice(&self.index.to_ne_bytes());
        let request = Request::new(NEW_ADDRESS, CREATE, &body)
            .with(LOCAL, &address.octets())
            .with(ADDRESS, &address.octets());
        self.ask(request, "give the network device its address")
    }

    /// Says for good which hardware address a neighbour has, so that nobody has to be asked.
    pub(super) fn neighbour(&self, address: Ipv4Addr, hardware: [u8; 6]) -> Jail<()> {
        const NEW_NEIGHBOUR: u16 = 28;
        const DESTINATION: u16 = 1;
        const LINK_ADDRESS: u16 = 2;
        const PERMANENT: u16 = 0x80;
        let mut body = vec![INET, 0, 0, 0];
        body.extend_from_slice(&self.index.to_ne_bytes());
        body.extend_from_slice(&PERMANENT.to_ne_bytes());
        body.extend_from_slice(&[0, 0]);
        let request = Request::new(NEW_NEIGHBOUR, CREATE, &body)
            .with(DESTINATION, &address.octets())
            .with(LINK_ADDRESS, &hardware);
        self.ask(request, "name a neighbour")
    }

    /// Adds a route; without a gateway one that finds nothing, so that the kernel says "unreachable"
    /// and counts.
    pub(super) fn route(&self, table: u8, to: AddressRange, gateway: Option<Ipv4Addr>) -> Jail<()> {
        const NEW_ROUTE: u16 = 24;
        const DESTINATION: u16 = 1;
        const DEVICE: u16 = 4;
        const GATEWAY: u16 = 5;
        const STATIC: u8 = 4;
        const UNIVERSE: u8 = 0;
        const UNICAST: u8 = 1;
        const THROW: u8 = 9;
        const ON_LINK: u32 = 4;
        let (kind, flags) = if gateway.is_some() { (UNICAST, ON_LINK) } else { (THROW, 0) };
        let mut body = vec![INET, to.prefix(), 0, 0, table, STATIC, UNIVERSE, kind];
        body.extend_from_slice(&flags.to_ne_bytes());
        let mut request = Request::new(NEW_ROUTE, CREATE, &body);
        if to.prefix() > 0 {
            request = request.with(DESTINATION, &to.address().octets());
        }
        if let Some(gateway) = gateway {
            request =
                request.with(GATEWAY, &gateway.octets()).with(DEVICE, &self.index.to_ne_bytes());
        }
        self.ask(request, "add a route")
    }

    /// Has packets to a port of a range look into another table first.
    pub(super) fn rule(&self, to: AddressRange, port: u16, table: u8) -> Jail<()> {
        const NEW_RULE: u16 = 32;
        const DESTINATION: u16 = 1;
        const PRIORITY: u16 = 6;
        const PORTS: u16 = 24;
        const LOOK_INTO_TABLE: u8 = 1;
        const BEFORE_MAIN: u32 = 100;
        let body = [INET, to.prefix(), 0, 0, table, 0, 0, LOOK_INTO_TABLE, 0, 0, 0, 0];
        let [low, high] = port.to_ne_bytes();
        let request = Request::new(NEW_RULE, CREATE, &body)
            .with(DESTINATION, &to.address().octets())
            .with(PRIORITY, &BEFORE_MAIN.to_ne_bytes())
            .with(PORTS, &[low, high, low, high]);
        self.ask(request, "open a port")
    }
}
