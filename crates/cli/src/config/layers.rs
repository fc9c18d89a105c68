//! The layers: defaults < file < environment < flags.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use ampoule_providers::runtimes::Catalogue;

use super::{
    Config,
    file::{self, SYSTEM_FILE, nearest},
    foreign::FOREIGN,
    keys::{KEYS, Key},
    values::Given,
};
use crate::exit::Failure;

/// The variable that names a file.
const FILE_VARIABLE: &str = "AMPOULE_CONFIG";

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    /// The file that `--config` names.
    pub(crate) file: Option<PathBuf>,
    /// Flags with their values.
    pub(crate) flags: Vec<(&'static str, String)>,
}

/// Who decided a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Source {
    #[default]
    Default,
    File {
        path: PathBuf,
        line: usize,
    },
    Environment(String),
    Flag(&'static str),
}

impl Source {
    /// Its place in the order in which layers speak.
    fn layer(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Environment(name) => write!(formatter, "environment {name}"),
            Self::Flag(name) => write!(formatter, "flag {name}"),
        }
    }
}

/// What of the machine decides: tests have their own. No `Debug`: a token may be among the variables.
pub(crate) struct Host {
    pub(super) variables: Vec<(OsString, OsString)>,
    pub(super) is_root: bool,
    pub(super) system_file: PathBuf,
}

impl Host {
    /// This process's.
    pub(super) fn this() -> Self {
        Self {
            variables: env::vars_os().collect(),
            is_root: rustix::process::geteuid().is_root(),
            system_file: SYSTEM_FILE.into(),
        }
    }

    /// A variable that is set to something.
    pub(super) fn variable(&self, name: &str) -> Option<&OsString> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Failure> {
        let Some(value) = self.variable(name) else { return Ok(None) };
        value.to_str().map(Some).ok_or_else(|| {
            Failure::usage(format!("{name} holds what is not UTF-8; hint: plain text"))
        })
    }
}

/// Applies every layer over `config`.
pub(super) fn apply(mut config: Config, host: &Host, layers: &Layers) -> Result<Config, Failure> {
    let named = host.text(FILE_VARIABLE)?.map(Path::new);
    let path = file::find(host, layers.file.as_deref().or(named));
    if let Some(path) = &path {
        for entry in file::read(path)? {
            let source = Source::File { path: path.clone(), line: entry.line };
            let place = format!("{}: `{}`", entry.place, entry.path);
            set(&mut config, |key| key.path == entry.path, &place, &entry.given, source)?;
        }
    }
    for key in KEYS {
        // Ours comes last and wins over the contract's: it is the more particular.
        for name in key.variables() {
            if let Some(text) = host.text(&name)? {
                let given = Given::Text(text.to_owned());
                let source = Source::Environment(name.clone());
                set(&mut config, |known| known.path == key.path, &name, &given, source)?;
            }
        }
    }
    for (flag, value) in &layers.flags {
        let given = Given::Text(value.clone());
        set(&mut config, |key| key.flag == Some(flag), flag, &given, Source::Flag(flag))?;
    }
    settle(&mut config);
    config.origin.file = path;
    config.origin.not_applied =
        FOREIGN.iter().filter(|foreign| host.variable(foreign.name).is_some()).collect();
    config.origin.unknown = unknown_variables(host, &config);
    Ok(config)
}

/// Sets the key that `is_it` finds; `place` is where its value comes from.
fn set(
    config: &mut Config,
    is_it: impl Fn(&Key) -> bool,
    place: &str,
    given: &Given,
    source: Source,
) -> Result<(), Failure> {
    let Some((index, key)) = KEYS.iter().enumerate().find(|(_, key)| is_it(key)) else {
        return Err(Failure::platform(format!("{place} belongs to no key")));
    };
    if (key.set)(config, given).is_none() {
        let value = match given {
            _ if key.is_secret => "malformed".to_owned(),
            Given::Text(text) => format!("`{text}`"),
            Given::List(values) => format!("`[{}]`", values.join(", ")),
        };
        return Err(Failure::usage(format!("{place} is {value}; hint: {}", key.allowed)));
    }
    config.origin.sources[index] = source;
    Ok(())
}

/// Decides what hangs on several keys, when each of them has its value.
fn settle(config: &mut Config) {
    for (index, key) in KEYS.iter().enumerate() {
        if config.origin.sources[index] == Source::Default {
            (key.unset)(config);
        }
    }
    // Two ways to give one token: as with one key, the later layer wins.
    let token = config.source("auth.api_token").layer();
    let file = config.source("auth.api_token_file").layer();
    if config.api_token.is_some() && config.api_token_file.is_some() && token != file {
        let loser = if token > file {
            config.api_token_file = None;
            "auth.api_token_file"
        } else {
            config.api_token = None;
            "auth.api_token"
        };
        if let Some(index) = KEYS.iter().position(|key| key.path == loser) {
            config.origin.sources[index] = Source::Default;
        }
    }
}

/// Variables that look like ours and mean nothing: told, and no error, because others set such names
/// too. Kubernetes does for a service that is called `ampoule`.
fn unknown_variables(host: &Host, config: &Config) -> Vec<String> {
    let is_others = |rest: &str| ["SERVICE_", "PORT"].iter().any(|start| rest.starts_with(start));
    let mut ours: Vec<String> =
        KEYS.iter().map(Key::variable).chain([FILE_VARIABLE.into()]).collect();
    let names = host.variables.iter().filter_map(|(name, _)| name.to_str());
    let named: Vec<&str> = names
        .filter(|name| name.strip_prefix("AMPOULE_").is_some_and(|rest| !is_others(rest)))
        .collect();
    if named.iter().any(|name| !ours.iter().any(|known| known == name)) {
        // Each runtime has one for its interpreter, those that were added too.
        let (runtimes, _) = Catalogue::survey(&config.data_dir, &config.runtime_dirs);
        ours.extend(runtimes.iter().map(|folder| folder.manifest.interpreter_variable.clone()));
    }
    let mut unknown: Vec<String> = named
        .into_iter()
        .filter(|name| !ours.iter().any(|known| known == name))
        .map(|name| match nearest(name, ours.iter().cloned()) {
            Some(near) => format!("{name} is no variable of ours; hint: perhaps {near}"),
            None => format!("{name} is no variable of ours; hint: `ampoule config` lists the keys"),
        })
        .collect();
    unknown.sort();
    unknown
}
