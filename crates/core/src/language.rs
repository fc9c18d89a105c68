//! The language of a program.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The canonical name of a language, as its runtime's manifest gives it (`python`, `javascript`).
///
/// Aliases (`python3`, `nodejs`, …) are resolved by the catalogue of runtimes, once, at the door.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Language(String);

impl Language {
    /// Wraps a canonical name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The canonical name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Language {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
