//! What a runtime folder says of itself.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::Language;

/// The `manifest.toml` of a runtime folder.
///
/// In `command` and `environment`, `{interpreter}`, `{runner}` and `{packages}` stand for the paths
/// inside the sandbox.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeManifest {
    /// The canonical language.
    pub language: Language,
    /// Other names that callers use.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// File extensions, without the dot.
    #[serde(default)]
    pub extensions: Vec<String>,
    /// Where an interpreter may be, in order of preference: absolute paths, or names for `PATH`.
    pub interpreter: Vec<String>,
    /// The variable that overrides `interpreter`.
    pub interpreter_variable: String,
    /// What prints the version of an interpreter.
    pub version_arguments: Vec<String>,
    /// The oldest version that works, as `3.11` or `20`.
    pub minimum_version: String,
    /// The runner's file name in this folder.
    pub runner: String,
    /// The command line inside the sandbox.
    pub command: Vec<String>,
    /// The whole environment inside the sandbox.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Whether the interpreter aborts by itself when its heap meets the limit.
    #[serde(default)]
    pub heap_aborts: bool,
    /// System calls that the interpreter tries by itself and copes without: their denial is
    /// recorded and never decides a verdict.
    #[serde(default)]
    pub probes: Vec<String>,
    /// The least memory that it starts with, in bytes, as `32m`.
    pub minimum_memory: String,
    /// The packages that programs find.
    #[serde(default)]
    pub packages: Option<Packages>,
}

/// The packages of a runtime.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// What installs them: `pip` or `npm`.
    pub installer: String,
    /// The locked list in this folder.
    pub lock: String,
    /// What users import: the packages that must be there, by their import names.
    pub names: Vec<String>,
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A field holds something else than it may.
    #[error("field `{field}`: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

impl RuntimeManifest {
    /// Checks what the types do not.
    pub fn validate(&self) -> Result<(), ManifestError> {
        let field =
            |field, problem: &str| Err(ManifestError::Field { field, problem: problem.to_owned() });
        if self.language.as_str().is_empty() {
            return field("language", "it is empty; hint: the language's lower-case name");
        }
        if self.interpreter.is_empty() {
            return field("interpreter", "it is empty; hint: list at least one path or name");
        }
        if self.command.first().map(String::as_str) != Some("{interpreter}") {
            return field("command", "it does not start with `{interpreter}`");
        }
        if self.runner.contains('/') || self.runner.starts_with('.') || self.runner.is_empty() {
            return field("runner", "it is not a file name in this folder");
        }
        if crate::parse_bytes(&self.minimum_memory).is_err() {
            return field("minimum_memory", "it is not a size; hint: as in `32m`");
        }
        match &self.packages {
            Some(packages) if !matches!(packages.installer.as_str(), "pip" | "npm") => {
                field("packages.installer", "unknown; hint: `pip` or `npm`")
            }
            _ => Ok(()),
        }
    }

    /// Whether a caller means this language by `name`, in any case.
    pub fn answers_to(&self, name: &str) -> bool {
        self.language.as_str().eq_ignore_ascii_case(name)
            || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }
}
