//! What a runtime folder says of itself.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Arguments, Code, Language};

/// The `manifest.toml` of a runtime folder.
///
/// In `command` and `environment`, `{interpreter}`, `{runner}` and `{packages}` stand for the paths
/// inside the sandbox; in `command`, `{heap_mb}` stands for the bound of an interpreter's own heap.
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
    /// Whether an interpreter outside of `/usr` needs all that is beside its `bin`.
    #[serde(default)]
    pub needs_prefix: bool,
    /// What prints the version of an interpreter.
    pub version_arguments: Vec<String>,
    /// The oldest version that works, as `3.11` or `20`.
    pub minimum_version: String,
    /// The runner's file name in this folder.
    pub runner: String,
    /// How the runner is compiled ahead, if that makes the interpreter start faster.
    #[serde(default)]
    pub compiled: Option<CompiledManifest>,
    /// How the runner takes its request and gives its result.
    #[serde(default)]
    pub protocol: Protocol,
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
    /// How its interpreter is kept warm, if it can be forked.
    #[serde(default)]
    pub zygote: Option<ZygoteManifest>,
    /// The least memory that it starts with, in bytes, as `32m`.
    pub minimum_memory: String,
    /// The packages that programs find.
    #[serde(default)]
    pub packages: Option<Packages>,
    /// What sandboxes can be made from beside the bare interpreter.
    #[serde(default)]
    pub templates: Vec<ManifestTemplate>,
    /// The programs by which the runtime is checked.
    pub example: Example,
}

/// How a runner is compiled ahead, by the very interpreter that will run it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompiledManifest {
    /// The name of what comes out of it, which takes the place of the runner.
    pub runner: String,
    /// A command line on this host: it reads the runner's source and writes what it is compiled to.
    pub command: Vec<String>,
}

/// How an interpreter is kept warm, for workers to be forked from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZygoteManifest {
    /// The command line of the warm interpreter, as `command`; `{library}` stands for the code that
    /// is loaded into it. What it imports ahead follows.
    pub command: Vec<String>,
    /// The file in this folder that says whether a fork is as good as a start: until it has said so,
    /// no program runs in one. Without it forks are used at once.
    #[serde(default)]
    pub selftest: Option<String>,
}

/// How a runner takes its request and gives its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Frames of JSON behind their length in four bytes.
    #[default]
    Frames,
    /// Lines of text, for runners that cannot easily read JSON.
    Text,
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

/// An interpreter that has modules imported already, for the programs that import them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestTemplate {
    /// Its name, as `python-data`.
    pub name: String,
    /// A program whose source imports any of these modules is run in it.
    pub imports: Vec<String>,
    /// The modules that it has imported, parts of modules too; `imports` if there are none.
    #[serde(default)]
    pub modules: Vec<String>,
    /// A program that uses them as programs do, to be rehearsed with.
    #[serde(default)]
    pub rehearsal: Option<String>,
}

impl ManifestTemplate {
    /// The modules that it has imported.
    pub fn modules(&self) -> &[String] {
        if self.modules.is_empty() { &self.imports } else { &self.modules }
    }
}

/// The programs by which a runtime is checked: when it is added, and before a service is ready.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// A program that returns `value` when it is called with `arguments`.
    pub code: String,
    /// The JSON object for its `main`.
    #[serde(default = "no_arguments")]
    pub arguments: String,
    /// What it returns, as JSON.
    pub value: String,
    /// A program that fails by its own doing.
    pub failing: String,
    /// A program that never ends.
    pub endless: String,
}

fn no_arguments() -> String {
    "{}".to_owned()
}

impl Example {
    /// Whether a value is the one that the example returns, however its JSON is laid out.
    pub fn returns(&self, value: &RawValue) -> bool {
        let parse = serde_json::from_str::<serde_json::Value>;
        parse(value.get()).is_ok_and(|value| parse(&self.value).is_ok_and(|wanted| wanted == value))
    }
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A field holds something else than it may.
    #[error("field `{field}`: {problem}")]
    Field {
        /// The field, with its table: `example.value`.
        field: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
}

/// What stands for something in braces in a command.
const PLACEHOLDERS: [&str; 5] =
    ["{interpreter}", "{runner}", "{packages}", "{heap_mb}", "{library}"];

impl ZygoteManifest {
    /// Whether its heap is bounded when it starts, so that its forks suit one memory limit only.
    pub fn bounds_its_heap(&self) -> bool {
        self.command.iter().any(|part| part.contains("{heap_mb}"))
    }
}

impl RuntimeManifest {
    /// The least memory that it starts with, in bytes.
    pub fn least_memory(&self) -> u64 {
        // Validation refuses what is no size.
        crate::parse_bytes(&self.minimum_memory).unwrap_or(0)
    }

    /// Checks what the types do not.
    pub fn validate(&self) -> Result<(), ManifestError> {
        self.check_names()?;
        self.check_interpreter()?;
        self.check_command()?;
        if crate::parse_bytes(&self.minimum_memory).is_err() {
            return refuse("minimum_memory", "it is not a size; hint: as in `32m`");
        }
        if let Some(packages) = &self.packages {
            if !matches!(packages.installer.as_str(), "pip" | "npm") {
                return refuse("packages.installer", "unknown; hint: `pip` or `npm`");
            }
            if !is_file_name(&packages.lock) {
                return refuse(
                    "packages.lock",
                    "it is not a file name in this folder; hint: as in `requirements.lock`",
                );
            }
        }
        self.check_templates()?;
        self.check_example()
    }

    fn check_templates(&self) -> Result<(), ManifestError> {
        for (place, template) in self.templates.iter().enumerate() {
            let name = &template.name;
            if !is_language(name) || *name == *self.language.as_str() {
                return refuse(
                    "templates.name",
                    format!("`{name}` is none; hint: as a language is named, and not as this one"),
                );
            }
            if self.templates[..place].iter().any(|earlier| earlier.name == *name) {
                return refuse("templates.name", format!("`{name}` is there twice"));
            }
            if template.imports.is_empty() {
                return refuse("templates.imports", "it is empty; hint: list at least one module");
            }
            for (place, module) in template.imports.iter().enumerate() {
                if !is_variable(module) {
                    return refuse(
                        "templates.imports",
                        format!("`{module}` is no name of a module; hint: as in `numpy`"),
                    );
                }
                if template.imports[..place].contains(module) {
                    return refuse("templates.imports", format!("`{module}` is there twice"));
                }
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), ManifestError> {
        let rule = "hint: a lower-case letter, then at most 31 lower-case letters, digits, `+`, `-`, `_`, `#`";
        if !is_language(self.language.as_str()) {
            return refuse("language", format!("`{}` is no name; {rule}", self.language));
        }
        if let Some(bad) = self.aliases.iter().find(|alias| !is_language(alias)) {
            return refuse("aliases", format!("`{bad}` is no name; {rule}"));
        }
        let is_extension = |text: &String| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        match self.extensions.iter().find(|text| !is_extension(text)) {
            Some(bad) => refuse(
                "extensions",
                format!("`{bad}` is none; hint: letters and digits without the dot, as in `rb`"),
            ),
            None => Ok(()),
        }
    }

    fn check_interpreter(&self) -> Result<(), ManifestError> {
        if self.interpreter.is_empty() {
            return refuse("interpreter", "it is empty; hint: list at least one path or name");
        }
        let is_candidate =
            |text: &String| !text.is_empty() && (text.starts_with('/') || !text.contains('/'));
        if let Some(bad) = self.interpreter.iter().find(|text| !is_candidate(text)) {
            return refuse(
                "interpreter",
                format!("`{bad}` is neither; hint: an absolute path, or a name for `PATH`"),
            );
        }
        if !is_variable(&self.interpreter_variable) {
            return refuse(
                "interpreter_variable",
                format!(
                    "`{}` is no name of a variable; hint: as in `AMPOULE_RUBY_BIN`",
                    self.interpreter_variable
                ),
            );
        }
        let is_number = |part: &str| part.parse::<u32>().is_ok();
        if !self.minimum_version.split('.').all(is_number) {
            return refuse(
                "minimum_version",
                format!("`{}` is none; hint: numbers, as in `3.11`", self.minimum_version),
            );
        }
        Ok(())
    }

    fn check_command(&self) -> Result<(), ManifestError> {
        if !is_file_name(&self.runner) {
            return refuse(
                "runner",
                "it is not a file name in this folder; hint: as in `runner.rb`",
            );
        }
        if self.command.first().map(String::as_str) != Some("{interpreter}") {
            return refuse(
                "command",
                "it does not start with `{interpreter}`; hint: the sandbox starts that and no other",
            );
        }
        if !self.command.iter().any(|part| part.contains("{runner}")) {
            return refuse(
                "command",
                "it does not name `{runner}`; hint: the interpreter must be told what to read",
            );
        }
        for part in &self.command {
            check_text("command", part, &PLACEHOLDERS[..4])?;
        }
        if let Some(compiled) = &self.compiled {
            if !is_file_name(&compiled.runner) || compiled.runner == self.runner {
                return refuse(
                    "compiled.runner",
                    "it is not another file name; hint: as in `runner.pyc`",
                );
            }
            if compiled.command.first().map(String::as_str) != Some("{interpreter}") {
                return refuse(
                    "compiled.command",
                    "it does not start with `{interpreter}`; hint: the runner is compiled by what runs it",
                );
            }
            for part in compiled.command.iter().skip(1) {
                check_text("compiled.command", part, &PLACEHOLDERS[1..2])?;
            }
        }
        for part in self.zygote.iter().flat_map(|zygote| &zygote.command) {
            check_text("zygote.command", part, &PLACEHOLDERS)?;
        }
        let selftest = self.zygote.iter().find_map(|zygote| zygote.selftest.as_deref());
        if selftest.is_some_and(|file| !is_file_name(file)) {
            return refuse(
                "zygote.selftest",
                "it is not a file name in this folder; hint: as in `selftest.rb`",
            );
        }
        if self.zygote.as_ref().is_some_and(|zygote| zygote.command.is_empty()) {
            return refuse("zygote.command", "it is empty; hint: as `command`, with `{library}`");
        }
        for (name, value) in &self.environment {
            if !is_variable(name) {
                return refuse("environment", format!("`{name}` is no name of a variable"));
            }
            // How much memory there is, is known with the run; the environment is there before.
            check_text(&format!("environment.{name}"), value, &PLACEHOLDERS[..3])?;
        }
        Ok(())
    }

    fn check_example(&self) -> Result<(), ManifestError> {
        let example = &self.example;
        for (field, code) in [
            ("example.code", &example.code),
            ("example.failing", &example.failing),
            ("example.endless", &example.endless),
        ] {
            if let Err(error) = Code::new(code) {
                return refuse(field, error.to_string());
            }
        }
        if let Err(error) = Arguments::parse(&example.arguments) {
            return refuse("example.arguments", error.to_string());
        }
        match serde_json::from_str::<serde_json::Value>(&example.value) {
            Err(error) => refuse(
                "example.value",
                format!(
                    "it is not JSON ({error}); hint: a text with JSON in it, as in `'\"yes\"'`"
                ),
            ),
            Ok(_) => Ok(()),
        }
    }

    /// Whether a caller means this language by `name`, in any case.
    pub fn answers_to(&self, name: &str) -> bool {
        self.language.as_str().eq_ignore_ascii_case(name)
            || self.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
    }
}

fn refuse(field: &str, problem: impl Into<String>) -> Result<(), ManifestError> {
    Err(ManifestError::Field { field: field.to_owned(), problem: problem.into() })
}

/// Whether a text can name a language: it becomes the name of a directory too.
fn is_language(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-_#".contains(&byte)
        })
}

fn is_variable(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_file_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('.') && !text.contains(['/', '\0'])
}

/// Refuses what no process can be started with, and a name in braces that stands for nothing.
fn check_text(field: &str, text: &str, known: &[&str]) -> Result<(), ManifestError> {
    if text.contains('\0') {
        return refuse(field, "it holds a null byte");
    }
    for (start, _) in text.match_indices('{') {
        let Some(length) = text[start..].find('}') else { break };
        let found = &text[start..=start + length];
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        if found.len() > 2
            && found[1..found.len() - 1].bytes().all(is_word)
            && !known.contains(&found)
        {
            let known: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
            return refuse(
                field,
                format!("`{found}` stands for nothing; hint: one of {}", known.join(", ")),
            );
        }
    }
    Ok(())
}
