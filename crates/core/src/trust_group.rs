//! Who may share warm interpreters with whom.

use std::{fmt, str::FromStr};

use serde::Serialize;

/// The longest name, in bytes.
const LONGEST: usize = 64;

/// The name of a group of callers who trust each other. Warm interpreters and ready sandboxes are
/// never shared between two groups.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TrustGroup(String);

/// A text that cannot name a trust group. What was sent is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is no name of a trust group; hint: 1 to {LONGEST} lower-case letters, digits, `-`, `_` or `.`"
)]
pub struct BadTrustGroup;

impl TrustGroup {
    /// Takes a name.
    pub fn new(name: &str) -> Result<Self, BadTrustGroup> {
        let is_allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > LONGEST || !name.bytes().all(is_allowed) {
            return Err(BadTrustGroup);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustGroup {
    /// The group of who names none.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for TrustGroup {
    type Err = BadTrustGroup;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl fmt::Display for TrustGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["default", "a", "tenant-7_b.c", &"x".repeat(64)] {
            assert_eq!(TrustGroup::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "A", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            let error = TrustGroup::new(bad).unwrap_err();
            assert!(error.to_string().contains("hint: 1 to 64"), "{bad}");
        }
        assert_eq!(TrustGroup::default().as_str(), "default");
    }
}
