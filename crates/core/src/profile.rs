//! How much of an interpreter a run may share with others.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where the interpreter of a run comes from. A stricter one is greater.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The run may be a fork of an interpreter that is warm.
    #[default]
    Fast,
    /// The run has an interpreter of its own exec, and shares no page layout or seed with another.
    Strict,
}

impl Profile {
    /// Every profile there is, the least strict first.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Strict];

    /// The profile as a stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Strict => "strict",
        }
    }
}

/// A word that names no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a profile; hint: `fast` or `strict`")]
pub struct UnknownProfile(pub String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|profile| profile.as_str() == text);
        known.ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_as_it_is_written() {
        for profile in Profile::ALL {
            assert_eq!(profile.as_str().parse(), Ok(profile));
        }
        let error = "Fast".parse::<Profile>().unwrap_err();
        assert_eq!(error.to_string(), "`Fast` is not a profile; hint: `fast` or `strict`");
        assert!(Profile::Strict > Profile::Fast);
    }
}
