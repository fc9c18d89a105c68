//! What the operator decides: a file, then the environment, then flags.
//!
//! ```text
//! keys         the one list of keys: names, what is allowed, how each is read and written
//! values       how one kind of value or another is read
//! file         ampoule.toml, with the line and column of whatever is wrong in it
//! layers       file < environment < flags; the last to speak wins, and is remembered as the source
//! check        what is wrong between keys: a limit above its bound
//! foreign      RAGFlow's own variables, which are not applied here and never stop anything
//! ```
//!
//! A variable that is set to nothing counts as not set, as compose writes `X=${X:-}`.

mod check;
mod file;
mod foreign;
mod keys;
mod layers;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod values;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use ampoule_core::{Layer, Limits, NetworkPolicy, Profile};
use ampoule_manager::ManagerConfig;
use ampoule_providers::{
    native::{NativeConfig, Opening},
    runtimes::data_dir,
};
use ampoule_server::{ApiToken, Rate};

use crate::{exit::Failure, logging::LogFormat};

pub(crate) use foreign::Foreign;
pub(crate) use keys::{KEYS, Key};
pub(crate) use layers::{Host, Layers, Source};

/// The configuration in effect.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) listen: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) provider: ProviderType,
    pub(crate) log: Option<String>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) grace: Duration,
    pub(crate) max_body: u64,
    /// What a run may use that asks for nothing else.
    pub(crate) limits: Limits,
    /// What a run may reach that asks for nothing else.
    pub(crate) network: NetworkPolicy,
    /// How much of an interpreter a run may share that asks for nothing else.
    pub(crate) profile: Profile,
    /// What stays reachable under the policy `open` of what else would be closed.
    pub(crate) network_allow: Vec<Opening>,
    /// Places, the queue before them, the pool, and the bounds of what a run may ask for.
    pub(crate) manager: ManagerConfig,
    pub(crate) api_token: Option<Secret>,
    pub(crate) api_token_file: Option<PathBuf>,
    pub(crate) allow_unauthenticated: bool,
    pub(crate) run_rate: Option<Rate>,
    pub(crate) preauth_rate: Option<Rate>,
    pub(crate) allow_missing: Vec<Layer>,
    pub(crate) id_base: u32,
    /// Spare cells of each template.
    pub(crate) cells: u32,
    /// Folders with further runtimes.
    pub(crate) runtime_dirs: Vec<PathBuf>,
    pub(crate) python_image: Option<String>,
    pub(crate) nodejs_image: Option<String>,
    /// Where it all comes from.
    pub(crate) origin: Origin,
}

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origin {
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// The source of each of [`KEYS`], in their order.
    sources: Vec<Source>,
    /// RAGFlow's own variables that are set.
    pub(crate) not_applied: Vec<&'static Foreign>,
    /// Variables that look like ours and are not, each with what may have been meant.
    pub(crate) unknown: Vec<String>,
}

/// The back-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProviderType {
    Native,
    /// The fake, for tests of the layers above.
    Memory,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Config {
    /// Reads every layer: the configuration in effect, or what is wrong, where, and what is allowed.
    pub(crate) fn load(layers: &Layers) -> Result<Self, Failure> {
        Self::load_on(&Host::this(), layers)
    }

    fn load_on(host: &Host, layers: &Layers) -> Result<Self, Failure> {
        let config = layers::apply(Self::defaults(host), host, layers)?;
        check::check(&config)?;
        Ok(config)
    }

    /// What holds where nobody says anything, on this machine.
    pub(crate) fn untouched() -> Self {
        Self::defaults(&Host::this())
    }

    /// What holds where nobody says anything.
    fn defaults(host: &Host) -> Self {
        // The variable is a layer like any other.
        let variable = |name: &str| -> Option<OsString> {
            if name == "AMPOULE_DATA_DIR" { None } else { host.variable(name).cloned() }
        };
        Self {
            listen: "127.0.0.1:9385".to_owned(),
            data_dir: data_dir(variable, host.is_root),
            provider: ProviderType::Native,
            log: None,
            log_format: None,
            grace: Duration::from_secs(10),
            max_body: 32 << 20,
            limits: Limits::default(),
            network: NetworkPolicy::None,
            profile: Profile::Fast,
            network_allow: Vec::new(),
            manager: ManagerConfig::default(),
            api_token: None,
            api_token_file: None,
            allow_unauthenticated: false,
            run_rate: None,
            preauth_rate: Some(Rate::PREAUTH),
            allow_missing: Vec::new(),
            id_base: NativeConfig::DEFAULT_ID_BASE,
            cells: NativeConfig::DEFAULT_CELLS,
            runtime_dirs: Vec::new(),
            python_image: None,
            nodejs_image: None,
            origin: Origin { sources: vec![Source::Default; KEYS.len()], ..Origin::default() },
        }
    }

    /// Every key with its value and its source, for people. What is secret is not in it.
    pub(crate) fn told(&self) -> impl Iterator<Item = (&'static Key, String, &Source)> {
        KEYS.iter().zip(&self.origin.sources).map(|(key, source)| (key, key.shown(self), source))
    }

    /// The source of a key.
    pub(crate) fn source(&self, path: &str) -> &Source {
        let place = KEYS.iter().position(|key| key.path == path);
        place.and_then(|place| self.origin.sources.get(place)).unwrap_or(&Source::Default)
    }

    /// The token that callers must show, read from its file if it is kept in one.
    pub(crate) fn token(&self) -> Result<Option<ApiToken>, Failure> {
        if let Some(Secret(token)) = &self.api_token {
            return Ok(Some(ApiToken::new(token)));
        }
        let Some(path) = &self.api_token_file else { return Ok(None) };
        let (shown, source) = (path.display(), self.source("auth.api_token_file"));
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("failed to read the token in `{shown}` ({source}): {error}"))
        })?;
        match values::token(&text) {
            Some(token) => Ok(Some(ApiToken::new(token))),
            None => Err(Failure::usage(format!(
                "`{shown}` ({source}) holds no token; hint: one line of printable ASCII without spaces"
            ))),
        }
    }
}
