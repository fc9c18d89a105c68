//! What a run may use, and how limits are written by people.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens when a program writes more than `Limits::output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnOutputLimit {
    /// The rest is discarded, the loss is stated, the program goes on.
    #[default]
    Discard,
    /// The program is stopped with `limit: output`.
    Stop,
}

/// What the program may reach over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkPolicy {
    /// Loopback inside the sandbox only.
    #[default]
    None,
    /// Name lookups, and TCP and UDP to public addresses; the host, its links and private ranges
    /// stay closed but for what the operator lists.
    Open,
}

impl NetworkPolicy {
    /// Every policy there is, the narrowest first.
    pub const ALL: [Self; 2] = [Self::None, Self::Open];

    /// The policy as a stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Open => "open",
        }
    }
}

impl std::str::FromStr for NetworkPolicy {
    type Err = LimitsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        known.ok_or_else(|| LimitsError::Network(text.to_owned()))
    }
}

/// The limits of one execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Wall clock, from the lease of the sandbox.
    #[serde(rename = "wall_ms", serialize_with = "as_millis")]
    pub wall: Duration,
    /// Memory of the whole process tree, swap included, in bytes.
    pub memory: u64,
    /// CPU time of the whole process tree, if bounded apart from the wall clock.
    #[serde(rename = "cpu_ms", serialize_with = "as_optional_millis")]
    pub cpu: Option<Duration>,
    /// CPU bandwidth in thousandths of a CPU.
    pub millicpus: u32,
    /// Processes and threads alive at once.
    pub processes: u32,
    /// Bytes of stdout and stderr together that are kept.
    pub output: u64,
    /// What happens beyond `output`.
    pub on_output: OnOutputLimit,
    /// Bytes of the working directory.
    pub disk: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: Duration::from_secs(10),
            memory: 256 << 20,
            cpu: None,
            millicpus: 1000,
            processes: 64,
            output: 1 << 20,
            on_output: OnOutputLimit::Discard,
            disk: 100 << 20,
        }
    }
}

fn as_millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn as_optional_millis<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => as_millis(duration, serializer),
        None => serializer.serialize_none(),
    }
}

/// A limit that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Not a size.
    #[error(
        "`{0}` is not a size; hint: a number of bytes with an optional b, k, m or g, as in `256m`"
    )]
    Bytes(String),
    /// Not a duration.
    #[error("`{0}` is not a duration; hint: `90s`, `2m`, `1m30s`, `500ms`, or a number of seconds")]
    Duration(String),
    /// Not a network policy.
    #[error("`{0}` is not a network policy; hint: `none` or `open`")]
    Network(String),
}

/// Reads a size such as `256m`: an integer with an optional unit of `b`, `k`, `m` or `g` (powers of
/// 1024, any case).
pub fn parse_bytes(text: &str) -> Result<u64, LimitsError> {
    let bad = || LimitsError::Bytes(text.to_owned());
    let trimmed = text.trim();
    let digits = trimmed.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match trimmed[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(bad)
}

/// Reads a duration such as `10s`, `2m`, `1m30s`, `500ms`, or a plain number of seconds (`2.5`).
pub fn parse_duration(text: &str) -> Result<Duration, LimitsError> {
    let bad = || LimitsError::Duration(text.to_owned());
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|duration| !duration.is_zero())
            .ok_or_else(bad);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u32 = rest[..number_end].parse().map_err(|_| bad())?;
        rest = &rest[number_end..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..unit_end] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(bad()),
        };
        total =
            unit.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = &rest[unit_end..];
    }
    Some(total).filter(|total| !total.is_zero()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_bytes("256m"), Ok(256 << 20));
        assert_eq!(parse_bytes("1G"), Ok(1 << 30));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        for bad in ["", "m", "-1", "1.5g", "256x", "0", "99999999999999999999", "20000000000g"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_as_the_contract_writes_them() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2.5"), Ok(Duration::from_millis(2500)));
        for bad in ["", "s", "10x", "-1", "0", "0s", "nan", "inf", "1s2", "1e300", "99999999999h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
