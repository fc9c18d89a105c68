//! Rate limits: so many calls in a period from one address.
//!
//! For each address one moment is kept: when it will have earned back everything it used. A call
//! moves it on by one share of the period, and is refused if that would put it further ahead than the
//! whole period. Whoever has been quiet may use the whole amount at once.

use std::{
    collections::HashMap,
    net::IpAddr,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Addresses that are remembered at once.
const ADDRESSES: usize = 10_000;

/// So many calls in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    amount: u32,
    period: Duration,
    unit: &'static str,
}

/// Text that is no [`Rate`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a rate; hint: as in `60/minute` or `10/second`; also hour, day")]
pub struct RateError(String);

impl Rate {
    /// How often an address may fail to show the token, unless the operator says otherwise.
    pub const PREAUTH: Self = Self { amount: 30, period: Duration::from_secs(60), unit: "minute" };

    const UNITS: [(&'static str, u64); 4] =
        [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400)];
}

impl FromStr for Rate {
    type Err = RateError;

    /// Reads a rate such as `60/minute`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || RateError(text.to_owned());
        let (amount, word) = text.split_once('/').ok_or_else(bad)?;
        let amount = amount.trim().parse().ok().filter(|amount| *amount > 0).ok_or_else(bad)?;
        let word = word.trim().to_ascii_lowercase();
        let known = Self::UNITS.into_iter().find(|(unit, _)| *unit == word);
        let (unit, seconds) = known.ok_or_else(bad)?;
        Ok(Self { amount, period: Duration::from_secs(seconds), unit })
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.amount, self.unit)
    }
}

/// One rate limit, for every address on its own.
#[derive(Debug)]
pub(super) struct RateLimit {
    rate: Rate,
    earned_back: Mutex<HashMap<Client, Instant>>,
}

/// Whose calls are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    /// One address; of IPv6 the network that one customer has.
    Address(IpAddr),
    /// All that came when the table was full of others.
    Others,
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
            address => address,
        })
    }
}

impl RateLimit {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, earned_back: Mutex::default() }
    }

    /// Says whether a call would be refused now, and if so when to come again; counts nothing.
    pub(super) fn look(&self, address: IpAddr) -> Result<(), Duration> {
        self.at(address, Instant::now(), false)
    }

    /// Counts a call, or refuses it and says when to come again.
    pub(super) fn take(&self, address: IpAddr) -> Result<(), Duration> {
        self.at(address, Instant::now(), true)
    }

    fn at(&self, address: IpAddr, now: Instant, counts: bool) -> Result<(), Duration> {
        let share = self.rate.period / self.rate.amount;
        let mut table = self.earned_back.lock().unwrap_or_else(PoisonError::into_inner);
        let mut client = Client::from(address);
        if table.len() >= ADDRESSES && !table.contains_key(&client) {
            table.retain(|_, earned_back| *earned_back > now);
            if table.len() >= ADDRESSES {
                client = Client::Others;
            }
        }
        let next = table.get(&client).map_or(now, |earned_back| now.max(*earned_back)) + share;
        // A rounded share may leave the whole amount a little short of the period, never beyond it.
        match (next - now).checked_sub(self.rate.period).filter(|ahead| !ahead.is_zero()) {
            Some(ahead) => Err(ahead),
            None => {
                if counts {
                    table.insert(client, next);
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn limit(text: &str) -> RateLimit {
        RateLimit::new(text.parse().unwrap())
    }

    fn address(last: u32) -> IpAddr {
        Ipv4Addr::from_bits(last).into()
    }

    #[test]
    fn rates_are_read_and_written() {
        for text in ["60/minute", "10/second", "1/hour", "5/day"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!(" 3 / Minute ".parse::<Rate>().unwrap().to_string(), "3/minute");
        for bad in ["", "60", "/minute", "0/minute", "-1/second", "60/", "60/fortnight", "1/2/day"]
        {
            let error = bad.parse::<Rate>().unwrap_err();
            assert!(error.to_string().contains("hint: as in `60/minute`"), "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_amount_is_there_at_once_and_comes_back_by_and_by() {
        let limit = limit("3/minute");
        for _ in 0..3 {
            assert_eq!(limit.take(address(1)), Ok(()));
        }
        assert_eq!(limit.take(address(1)), Err(Duration::from_secs(20)));
        assert_eq!(limit.take(address(2)), Ok(()), "another address has its own");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(limit.take(address(1)), Err(Duration::from_secs(15)), "refusals cost nothing");
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(limit.look(address(1)), Ok(()));
        assert_eq!(limit.take(address(1)), Ok(()));
        assert!(limit.look(address(1)).is_err());
        tokio::time::advance(Duration::from_secs(600)).await;
        for _ in 0..3 {
            assert_eq!(limit.take(address(1)), Ok(()));
        }
        assert!(limit.take(address(1)).is_err(), "quiet time is not saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn an_amount_that_does_not_divide_the_period_is_whole() {
        let limit = limit("7/second");
        assert!((0..7).all(|_| limit.take(address(1)).is_ok()));
        assert!(limit.take(address(1)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_newcomers_then_share() {
        let limit = limit("2/minute");
        for last in 0..10_000 {
            assert_eq!(limit.take(address(last)), Ok(()));
        }
        assert_eq!(limit.look(address(20_002)), Ok(()));
        assert_eq!(limit.take(address(20_000)), Ok(()));
        assert_eq!(limit.take(address(20_001)), Ok(()));
        assert!(limit.look(address(20_002)).is_err(), "a look finds what newcomers share");
        assert!(limit.take(address(20_002)).is_err());
        assert_eq!(limit.look(address(5)), Ok(()));
        assert_eq!(limit.take(address(5)), Ok(()), "who is known keeps its own");
        assert!(limit.earned_back.lock().unwrap().len() <= ADDRESSES + 1);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(limit.look(address(20_002)), Ok(()));
        assert_eq!(limit.take(address(20_002)), Ok(()));
        assert_eq!(
            limit.earned_back.lock().unwrap().len(),
            1,
            "who has earned all back is forgotten"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_client() {
        let limit = limit("1/minute");
        let within = |last: u128| IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8 << 96) + last));
        assert_eq!(limit.take(within(1)), Ok(()));
        assert!(limit.take(within(u128::from(u64::MAX))).is_err());
        assert_eq!(limit.take(within(1 << 64)), Ok(()));
    }
}
