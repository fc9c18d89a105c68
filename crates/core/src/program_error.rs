//! What a program's uncaught error looked like, by its own runner's account.

use serde::{Deserialize, Serialize};

/// An uncaught error of the user's program.
///
/// This is a claim from inside the sandbox: it explains a failure to people and never decides a
/// verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramError {
    /// The error's class, `ValueError` or `TypeError`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its message.
    #[serde(default)]
    pub message: String,
    /// The line of the program that it points at, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}
