//! Values as they are given, and how each kind of them is read.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use ampoule_core::{format_duration, parse_duration};
use ampoule_server::Rate;

/// A value as it was given. No `Debug`: it may be a token.
pub(super) enum Given {
    Text(String),
    List(Vec<String>),
}

impl Given {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.trim()),
            Self::List(_) => None,
        }
    }

    /// The values of a list; as text they stand between commas.
    pub(super) fn list<T>(&self, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        match self {
            Self::List(values) => values.iter().map(|value| read(value)).collect(),
            Self::Text(text) => {
                text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(read).collect()
            }
        }
    }
}

/// Puts a value in its place, if there is one.
pub(super) fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

pub(super) fn parse<T, E>(given: &Given, read: impl Fn(&str) -> Result<T, E>) -> Option<T> {
    read(given.text()?).ok()
}

pub(super) fn positive(text: &str) -> Result<u32, ()> {
    text.parse().ok().filter(|number| *number > 0).ok_or(())
}

pub(super) fn whole(given: &Given, allowed: RangeInclusive<usize>) -> Option<usize> {
    given.text()?.parse().ok().filter(|number| allowed.contains(number))
}

pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

pub(super) fn is_address(text: &str) -> bool {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

pub(super) fn duration_or_nothing(text: &str) -> Option<Duration> {
    match text {
        "0" | "0s" => Some(Duration::ZERO),
        text => parse_duration(text).ok(),
    }
}

pub(super) fn duration_or_none(text: &str) -> Option<Option<Duration>> {
    match text {
        "none" => Some(None),
        text => parse_duration(text).ok().map(Some),
    }
}

pub(super) fn or_none(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "none".to_owned(), format_duration)
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

pub(super) fn rate(text: &str) -> Option<Option<Rate>> {
    match text {
        "none" => Some(None),
        text => text.parse().ok().map(Some),
    }
}

/// A token: what can stand in a header, and nothing that would be lost on the way.
pub(super) fn token(text: &str) -> Option<&str> {
    let text = text.trim();
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then_some(text)
}

pub(super) fn joined(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_a_port() {
        for good in ["127.0.0.1:0", "[::1]:9385", "localhost:80"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "9385", ":9385", "host:", "host:99999"] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
