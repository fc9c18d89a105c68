//! What a run may use, and how limits are written by people.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens when a program writes more than `Limits::output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnOutputLimit {
    /// The rest is discarded, the loss is stated, the program goes on.
    #[default]
    Discard,
    /// The program is stopped with `limit: output`.
    Stop,
}

/// What the program may reach over the network.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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

impl Limits {
    /// What of them is built into a sandbox; what is looked after per execution is at its default.
    #[must_use]
    pub fn built_in(&self) -> Self {
        let Self { memory, millicpus, processes, disk, .. } = *self;
        Self { memory, millicpus, processes, disk, ..Self::default() }
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
    /// Not a number of CPUs.
    #[error("`{0}` is not a number of CPUs; hint: `1`, `0.5` or `2.25`")]
    Cpus(String),
    /// Not a number of processes.
    #[error("`{0}` is not a number of processes; hint: a whole number from 1")]
    Processes(String),
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

/// Reads a number of CPUs such as `1` or `0.5`, as thousandths of a CPU.
pub fn parse_cpus(text: &str) -> Result<u32, LimitsError> {
    let bad = || LimitsError::Cpus(text.to_owned());
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(part) || part.len() > 3 {
        return Err(bad());
    }
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    let part: u32 = format!("{part:0<3}").parse().map_err(|_| bad())?;
    let millicpus = whole.checked_mul(1000).and_then(|whole| whole.checked_add(part));
    millicpus.filter(|millicpus| *millicpus > 0).ok_or_else(bad)
}

/// Writes a size as [`parse_bytes`] reads it: in whole units where they fit, else in bytes.
pub fn format_bytes(count: u64) -> String {
    for (shift, unit) in [(30, "g"), (20, "m"), (10, "k")] {
        if count >> shift > 0 && count.trailing_zeros() >= shift {
            return format!("{}{unit}", count >> shift);
        }
    }
    format!("{count}b")
}

/// Writes a duration as [`parse_duration`] reads it; what is shorter than a millisecond is left out.
pub fn format_duration(duration: Duration) -> String {
    if duration.subsec_millis() > 0 {
        return format!("{}ms", duration.as_millis());
    }
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: String = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Writes thousandths of a CPU as [`parse_cpus`] reads them.
pub fn format_cpus(millicpus: u32) -> String {
    let text = format!("{}.{:03}", millicpus / 1000, millicpus % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
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
    #[test]
    fn cpus_are_read_in_thousandths() {
        assert_eq!(parse_cpus("1"), Ok(1000));
        assert_eq!(parse_cpus(" 0.5 "), Ok(500));
        assert_eq!(parse_cpus("2.125"), Ok(2125));
        for bad in ["", ".", "1.", ".5", "0", "0.0", "-1", "+1", "1e3", "0.0001", "5000000"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (text, bytes) in [("256m", 256 << 20), ("1025k", 1025 << 10), ("3b", 3)] {
            assert_eq!((format_bytes(bytes), parse_bytes(text)), (text.to_owned(), Ok(bytes)));
        }
        for (text, millis) in [("1h", 3_600_000), ("1m30s", 90_000), ("2500ms", 2500)] {
            let duration = Duration::from_millis(millis);
            assert_eq!(
                (format_duration(duration), parse_duration(text)),
                (text.to_owned(), Ok(duration))
            );
        }
        for (text, millicpus) in [("1", 1000), ("0.5", 500), ("10", 10_000), ("0.01", 10)] {
            assert_eq!(
                (format_cpus(millicpus), parse_cpus(text)),
                (text.to_owned(), Ok(millicpus))
            );
        }
    }
}
