//! `ampoule config`: the configuration in effect, and where each value comes from.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use ampoule_providers::runtimes::Catalogue;
use serde::Serialize;

use crate::{
    arguments::ConfigArguments,
    config::{Config, Foreign, Key, Layers, Source},
    exit::{ExitCode, Failure},
    output,
};

/// Everything, as `--json` prints it.
#[derive(Serialize)]
struct Report {
    file: Option<PathBuf>,
    settings: Vec<Setting>,
    /// The interpreters that variables name.
    interpreters: BTreeMap<String, String>,
    /// Variables of RAGFlow's own side.
    not_applied: Vec<&'static Foreign>,
    /// Variables that look like ours and are not.
    unknown: Vec<String>,
}

#[derive(Serialize)]
struct Setting {
    key: &'static str,
    /// As it would be written; of a secret only whether it is set.
    value: String,
    source: SourceReport,
    effect: &'static str,
    allowed: &'static str,
    variables: Vec<String>,
    flag: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum SourceReport {
    Default,
    File { path: PathBuf, line: usize },
    Environment { name: String },
    Flag { name: &'static str },
}

impl From<&Source> for SourceReport {
    fn from(source: &Source) -> Self {
        match source.clone() {
            Source::Default => Self::Default,
            Source::File { path, line } => Self::File { path, line },
            Source::Environment(name) => Self::Environment { name },
            Source::Flag(name) => Self::Flag { name },
        }
    }
}

/// Prints what is in effect.
pub(crate) fn config(arguments: &ConfigArguments, layers: &Layers) -> Result<ExitCode, Failure> {
    let config = Config::load(layers)?;
    let interpreters = interpreters(&config);
    let text = if arguments.json {
        let setting = |(key, value, source): (&'static Key, String, &Source)| Setting {
            key: key.path,
            value,
            source: source.into(),
            effect: key.effect,
            allowed: key.allowed,
            variables: key.variables().collect(),
            flag: key.flag,
        };
        let report = Report {
            file: config.origin.file.clone(),
            settings: config.told().map(setting).collect(),
            interpreters,
            not_applied: config.origin.not_applied.clone(),
            unknown: config.origin.unknown.clone(),
        };
        let text = serde_json::to_string_pretty(&report);
        text.map_err(|error| Failure::platform(format!("failed to write it: {error}")))? + "\n"
    } else {
        table(&config, &interpreters)
    };
    output::print(&text)?;
    for problem in &config.origin.unknown {
        output::note(problem);
    }
    Ok(ExitCode::Success)
}

/// The variables that name interpreters, where they are set.
fn interpreters(config: &Config) -> BTreeMap<String, String> {
    // What is broken is for the commands that run programs to tell.
    let (catalogue, _) = Catalogue::survey(&config.data_dir, &config.runtime_dirs);
    let names = catalogue.iter().map(|folder| folder.manifest.interpreter_variable.clone());
    names
        .filter_map(|name| {
            let value = std::env::var_os(&name).filter(|value| !value.is_empty())?;
            Some((name, value.to_string_lossy().into_owned()))
        })
        .collect()
}

fn table(config: &Config, interpreters: &BTreeMap<String, String>) -> String {
    let mut rows: Vec<[String; 3]> = vec![["KEY", "VALUE", "SOURCE"].map(str::to_owned)];
    rows.extend(
        config.told().map(|(key, value, source)| [key.path.to_owned(), value, source.to_string()]),
    );
    rows.extend(interpreters.iter().map(|(name, value)| {
        [name.clone(), value.clone(), Source::Environment(name.clone()).to_string()]
    }));
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (key_width, value_width) = (width(0), width(1));
    let mut text = String::new();
    for [key, value, source] in &rows {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key:<key_width$}  {value:<value_width$}  {source}");
    }
    let file = config.origin.file.as_ref().map(|path| path.display().to_string());
    let _ = writeln!(text, "\nfile: {}", file.as_deref().unwrap_or("none"));
    if !config.origin.not_applied.is_empty() {
        let names: Vec<_> = config.origin.not_applied.iter().map(|foreign| foreign.name).collect();
        let names = names.join(", ");
        let _ = writeln!(text, "RAGFlow's own, not applied here: {names}");
    }
    text
}
