//! Ranges of addresses: which are closed, and which routes say so.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{HELPER_RANGE, RESOLVER};
use crate::error::{Jail, Step};

/// A range of IPv4 addresses, written `10.1.0.0/16`; a single address has no prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressRange {
    address: Ipv4Addr,
    prefix: u8,
}

/// What an operator opens though it would be closed: a range, and perhaps one port of it only.
/// Written `10.1.0.0/16`, `10.1.2.3`, `10.1.2.3:5432`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    range: AddressRange,
    port: Option<u16>,
}

/// A text that names no range that could be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRange {
    /// No address at all.
    #[error(
        "`{0}` is no IPv4 address or range; hint: write `10.1.2.3`, `10.1.0.0/16`, or with a port \
         `10.1.2.3:5432`"
    )]
    Malformed(String),
    /// Of the other family.
    #[error("`{0}` is IPv6, and programs have IPv4 only; hint: list the service's IPv4 address")]
    Ipv6(String),
    /// An address with more bits than its prefix.
    #[error("`{text}` has bits beyond its prefix; hint: write `{meant}`")]
    StrayBits {
        /// What was written.
        text: String,
        /// The range that it lies in.
        meant: AddressRange,
    },
    /// A range that cannot lead to the host.
    #[error(
        "`{range}` holds addresses of {whose}; hint: list an address that the service listens on \
         and that is not a loopback's"
    )]
    Unreachable {
        /// What was written.
        range: AddressRange,
        /// Whose addresses are among it.
        whose: &'static str,
    },
}

const fn range(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> AddressRange {
    AddressRange::constant(Ipv4Addr::new(a, b, c, d), prefix)
}

/// What is closed unless it is listed. IANA's registry of special-purpose addresses, without those
/// for documentation, behind which there is nothing.
const CLOSED: [AddressRange; 12] = [
    range(0, 0, 0, 0, 8),
    range(10, 0, 0, 0, 8),
    range(100, 64, 0, 0, 10), // shared by carriers; some clouds' metadata
    range(127, 0, 0, 0, 8),
    range(168, 63, 129, 16, 32), // a cloud's host agent, on an address that looks public
    range(169, 254, 0, 0, 16),   // link-local; most clouds' metadata
    range(172, 16, 0, 0, 12),
    range(192, 0, 0, 0, 24), // protocol assignments; a cloud's metadata
    range(192, 168, 0, 0, 16),
    range(198, 18, 0, 0, 15), // benchmarks; the helper's own network
    range(224, 0, 0, 0, 4),   // multicast
    range(240, 0, 0, 0, 4),   // reserved, and the broadcast address
];

/// What cannot be opened: it would not leave the sandbox, or end in the helper.
const NEVER: [(AddressRange, &str); 5] = [
    (range(0, 0, 0, 0, 8), "no network"),
    (range(127, 0, 0, 0, 8), "the sandbox's own loopback"),
    (HELPER_RANGE, "the network helper"),
    (range(224, 0, 0, 0, 4), "multicast"),
    (range(240, 0, 0, 0, 4), "no network"),
];

impl AddressRange {
    pub(super) const fn constant(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address, prefix }
    }

    /// The first address.
    pub(super) fn address(self) -> Ipv4Addr {
        self.address
    }

    /// How many leading bits all its addresses share.
    pub(super) fn prefix(self) -> u8 {
        self.prefix
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// Whether every address of `other` is one of ours.
    fn contains(self, other: Self) -> bool {
        self.prefix <= other.prefix
            && other.address.to_bits() & self.mask() == self.address.to_bits()
    }

    fn overlaps(self, other: Self) -> bool {
        self.contains(other) || other.contains(self)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            32 => write!(formatter, "{}", self.address),
            prefix => write!(formatter, "{}/{prefix}", self.address),
        }
    }
}

impl FromStr for AddressRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let malformed = || BadRange::Malformed(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, prefix.parse().map_err(|_| malformed())?),
            None => (text, 32),
        };
        let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        if prefix > 32 {
            return Err(malformed());
        }
        let asked = Self { address, prefix };
        let range = Self { address: Ipv4Addr::from_bits(address.to_bits() & asked.mask()), prefix };
        if range != asked {
            return Err(BadRange::StrayBits { text: text.to_owned(), meant: range });
        }
        match NEVER.iter().find(|(never, _)| never.overlaps(range)) {
            Some((_, whose)) => Err(BadRange::Unreachable { range, whose }),
            None => Ok(range),
        }
    }
}

impl FromStr for Opening {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let (range, port) = match text.split_once(':') {
            Some((_, rest)) if text.starts_with('[') || rest.contains(':') => {
                return Err(BadRange::Ipv6(text.to_owned()));
            }
            Some((range, port)) => (range, Some(port)),
            None => (text, None),
        };
        let port = port.map(|port| port.parse::<NonZeroU16>().map(NonZeroU16::get));
        let port = port.transpose().map_err(|_| BadRange::Malformed(text.to_owned()))?;
        Ok(Self { range: range.parse()?, port })
    }
}

impl fmt::Display for Opening {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => self.range.fmt(formatter),
            Some(port) => write!(formatter, "{}:{port}", self.range),
        }
    }
}

/// Where packets to a range go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Through the helper.
    Open,
    /// Nowhere: the kernel finds no route, and counts.
    Closed,
}

/// A port of a range that is open, whatever the range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenPort {
    pub(super) range: AddressRange,
    pub(super) port: u16,
    /// Whether that holds for addresses of the host, too: the range is one.
    pub(super) of_host: bool,
}

/// Where everything goes that does not take the default route.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) routes: BTreeMap<AddressRange, Way>,
    pub(super) ports: Vec<OpenPort>,
    /// The host's own addresses.
    pub(super) own: Vec<AddressRange>,
}

impl Plan {
    /// The longest prefix wins, so a listed range opens its part of a closed one; an address of the
    /// host stays closed within a listed range unless it is itself listed.
    pub(super) fn new(allow: &[Opening], own: Vec<AddressRange>) -> Self {
        let whole = allow.iter().filter(|opening| opening.port.is_none());
        let whole: Vec<_> = whole.map(|opening| opening.range).collect();
        let ports = allow.iter().filter_map(|Opening { range, port }| {
            let of_host = own.contains(range);
            port.map(|port| OpenPort { range: *range, port, of_host })
        });
        Self { ports: ports.collect(), routes: routes(&whole, &own), own }
    }
}

/// The routes beside the default one.
fn routes(allow: &[AddressRange], own: &[AddressRange]) -> BTreeMap<AddressRange, Way> {
    let listed_within = |range: AddressRange| allow.iter().any(|listed| listed.contains(range));
    let closed = CLOSED.into_iter().filter(|range| !listed_within(*range));
    let ours = own.iter().copied().filter(|address| {
        !allow.contains(address)
            && (listed_within(*address) || !CLOSED.iter().any(|range| range.contains(*address)))
    });
    let resolver = AddressRange { address: RESOLVER, prefix: 32 };
    let open = allow.iter().copied().chain([resolver]);
    let closed = closed.chain(ours).map(|range| (range, Way::Closed));
    closed.chain(open.map(|range| (range, Way::Open))).collect()
}

/// The addresses of this network namespace, those of its broadcasts included.
pub(super) fn own_addresses() -> Jail<Vec<AddressRange>> {
    let table = std::fs::read_to_string("/proc/net/fib_trie").step("read the host's addresses")?;
    let mut found = parse_addresses(&table);
    // The kernel shows some in more than one table.
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Reads the kernel's table of routes: a leaf's address, then its entries `/<prefix> <scope> <type>`.
fn parse_addresses(table: &str) -> Vec<AddressRange> {
    let mut found = Vec::new();
    let mut leaf = None;
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if let (Some(address), Some(entry)) = (leaf, line.strip_prefix('/')) {
            let mut fields = entry.split_whitespace();
            let prefix = fields.next().and_then(|prefix| prefix.parse().ok());
            if let (Some(prefix @ 0..=32), Some("LOCAL" | "BROADCAST")) = (prefix, fields.nth(1)) {
                found.push(AddressRange { address, prefix });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    /// What the kernel would do: the entry with the longest prefix decides, else the default route.
    fn way(routes: &BTreeMap<AddressRange, Way>, address: Ipv4Addr) -> Way {
        let single = AddressRange { address, prefix: 32 };
        let decides = routes.iter().filter(|(range, _)| range.contains(single));
        decides.max_by_key(|(range, _)| range.prefix).map_or(Way::Open, |(_, way)| *way)
    }

    #[test]
    fn what_is_no_range_is_said_with_what_is() {
        for (text, said) in [
            ("", "`` is no IPv4 address or range; hint: write `10.1.2.3`, `10.1.0.0/16`, or with"),
            ("10.1.2.3:0", "`10.1.2.3:0` is no IPv4"),
            ("10.1.2.3:70000", "`10.1.2.3:70000` is no IPv4"),
            ("[fd00::1]:443", "`[fd00::1]:443` is IPv6"),
            ("10.1.2", "`10.1.2` is no IPv4"),
            ("10.0.0.0/33", "`10.0.0.0/33` is no IPv4"),
            ("10.0.0.0/-1", "`10.0.0.0/-1` is no IPv4"),
            ("db.internal", "`db.internal` is no IPv4"),
            ("fd00::/8", "`fd00::/8` is IPv6"),
            ("10.1.2.3/16", "hint: write `10.1.0.0/16`"),
            ("127.0.0.1", "`127.0.0.1` holds addresses of the sandbox's own loopback"),
            ("0.0.0.0/0", "`0.0.0.0/0` holds addresses of no network"),
            ("198.18.0.3", "of the network helper"),
            ("224.0.0.251", "of multicast"),
        ] {
            let error = text.parse::<Opening>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        for text in ["10.1.2.3", "10.1.0.0/16", "10.1.2.3:5432", "10.1.0.0/16:443"] {
            assert_eq!(text.parse::<Opening>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_kernels_table_tells_the_hosts_addresses() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                     Local:\n     |-- 127.0.0.0\n        /8 host LOCAL\n     |-- 203.0.113.7\n        \
                     /32 host LOCAL\n     |-- 203.0.113.255\n        /32 link BROADCAST\n";
        let found = parse_addresses(table);
        assert_eq!(found, [range(127, 0, 0, 0, 8), parse("203.0.113.7"), parse("203.0.113.255")]);
    }

    #[test]
    fn a_listed_range_opens_what_it_lists_and_no_address_of_the_host() {
        let own = [parse("10.1.0.5"), parse("203.0.113.7")];
        let routes = routes(&[parse("10.1.0.0/16"), parse("192.168.7.7")], &own);
        for (address, expected) in [
            ([10, 1, 2, 3], Way::Open),
            ([10, 1, 0, 5], Way::Closed),
            ([10, 2, 0, 1], Way::Closed),
            ([192, 168, 7, 7], Way::Open),
            ([192, 168, 7, 8], Way::Closed),
            ([203, 0, 113, 7], Way::Closed),
            ([203, 0, 113, 8], Way::Open),
            ([169, 254, 169, 254], Way::Closed),
            ([198, 18, 0, 2], Way::Closed),
            ([198, 18, 0, 3], Way::Open),
        ] {
            assert_eq!(way(&routes, Ipv4Addr::from(address)), expected, "{address:?}");
        }
        let listed = super::routes(&own, &own);
        assert_eq!(way(&listed, Ipv4Addr::new(10, 1, 0, 5)), Way::Open);
        let ports = ["10.1.0.0/16:443", "10.1.0.5:80"].map(|text| text.parse().unwrap());
        let plan = Plan::new(&ports, own.to_vec());
        assert_eq!(way(&plan.routes, Ipv4Addr::new(10, 1, 2, 3)), Way::Closed);
        assert_eq!(plan.ports.iter().map(|open| open.of_host).collect::<Vec<_>>(), [false, true]);
    }

    proptest! {
        #[test]
        fn nothing_closed_is_open_unless_it_is_listed(address: u32, own: u32, listed: u32, prefix in 8..=32_u8) {
            let own = AddressRange { address: Ipv4Addr::from_bits(own), prefix: 32 };
            let mask = u32::MAX << (32 - u32::from(prefix));
            let listed = AddressRange { address: Ipv4Addr::from_bits(listed & mask), prefix };
            // Of interest is above all what lies close to the two.
            for address in [address, own.address.to_bits(), listed.address.to_bits(), listed.address.to_bits() | 1] {
                let single = AddressRange { address: Ipv4Addr::from_bits(address), prefix: 32 };
                let special = CLOSED.iter().any(|range| range.contains(single));
                let closed = (single == own && listed != own)
                    || (special && !listed.contains(single) && address != RESOLVER.to_bits());
                let expected = if closed { Way::Closed } else { Way::Open };
                prop_assert_eq!(way(&routes(&[listed], &[own]), single.address), expected);
            }
        }
    }
}
