//! A place on the network that an operator opens.

use std::{fmt, net::IpAddr, str::FromStr};

/// Addresses, and perhaps one port of them, that stay reachable under the network policy `open`.
///
/// Written `10.1.0.0/16`, `192.168.1.5`, `192.168.1.5:5432`, `10.1.0.0/16:443`, `fd00::/8`,
/// `[fd00::1]:443`, `[fd00::/8]:443`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The first address of the range.
    pub address: IpAddr,
    /// How many leading bits an address shares with it.
    pub prefix: u8,
    /// The only port, if there is only one.
    pub port: Option<u16>,
}

/// Text that is no [`Destination`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a destination; hint: an address or a range of them with an optional port, as in \
     `10.1.0.0/16`, `192.168.1.5:5432` or `[fd00::1]:443`"
)]
pub struct DestinationError(String);

impl Destination {
    /// Whether a connection to `address` and `port` is one to this destination.
    pub fn covers(&self, address: IpAddr, port: u16) -> bool {
        let same = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differ = u128::from(ours.to_bits() ^ theirs.to_bits());
                differ.checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                differ.checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        };
        same && self.port.is_none_or(|known| known == port)
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || DestinationError(text.to_owned());
        let (range, port) = match text.strip_prefix('[') {
            Some(rest) => match rest.split_once(']').ok_or_else(bad)? {
                (range, "") => (range, None),
                (range, port) => (range, Some(port.strip_prefix(':').ok_or_else(bad)?)),
            },
            // More than one colon is an address of IPv6.
            None => match text.split_once(':') {
                Some((range, port)) if !port.contains(':') => (range, Some(port)),
                _ => (text, None),
            },
        };
        let port = port.map(|port| port.parse().ok().filter(|port| *port > 0).ok_or_else(bad));
        let (address, prefix) = match range.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| bad())?)),
            None => (range, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(bad());
        }
        Ok(Self { address, prefix, port: port.transpose()? })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, prefix, port } = self;
        let is_one = *prefix == if address.is_ipv4() { 32 } else { 128 };
        let range = if is_one { address.to_string() } else { format!("{address}/{prefix}") };
        match port {
            None => write!(formatter, "{range}"),
            Some(port) if address.is_ipv6() => write!(formatter, "[{range}]:{port}"),
            Some(port) => write!(formatter, "{range}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_and_written() {
        for text in [
            "10.1.0.0/16",
            "192.168.1.5",
            "192.168.1.5:5432",
            "10.1.0.0/16:443",
            "fd00::/8",
            "fd00::1",
            "[fd00::1]:443",
            "[fd00::/8]:443",
            "0.0.0.0/0",
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "host",
            "host:80",
            "10.0.0.0/33",
            "10.0.0.1:",
            "10.0.0.1:0",
            "[fd00::1",
            "::/129",
            "10.0.0.1:x",
            "[fd00::1]443",
        ] {
            assert!(bad.parse::<Destination>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_covers_its_addresses_and_its_port() {
        let covers = |range: &str, address: &str, port| {
            range.parse::<Destination>().unwrap().covers(address.parse().unwrap(), port)
        };
        assert!(covers("10.1.0.0/16", "10.1.255.1", 80));
        assert!(!covers("10.1.0.0/16", "10.2.0.1", 80));
        assert!(covers("192.168.1.5:80", "192.168.1.5", 80));
        assert!(!covers("192.168.1.5:80", "192.168.1.5", 81));
        assert!(!covers("192.168.1.5", "192.168.1.4", 80));
        assert!(covers("0.0.0.0/0", "8.8.8.8", 1));
        assert!(!covers("0.0.0.0/0", "::1", 1));
        assert!(covers("fd00::/8", "fdff::1", 1) && !covers("fd00::/8", "fe00::1", 1));
        assert!(covers("::/0", "fe00::1", 1));
    }
}
