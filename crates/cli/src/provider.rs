//! The back-end, in two phases.
//!
//! The processes that build sandboxes must be started before any thread exists, and spoken to
//! inside the runtime:
//!
//! ```text
//! Prepared::new (no thread yet; rights are given up) -> Prepared::connect (in the runtime) -> Provider
//! ```

use std::{num::NonZeroUsize, path::Path, sync::Arc};

use ampoule_core::{Language, Layer, Provider, SelfTest};
use ampoule_jail::Keeper;
use ampoule_providers::{
    memory::Memory,
    native::{Native, NativeConfig, NativeRuntime, NetworkConfig, Probes, Warm},
    runtimes::Catalogue,
};
use tracing::warn;

use crate::{
    config::{Config, ProviderType},
    exit::Failure,
};

/// Every runtime of this installation: the binary's own, and those in the data directory.
pub(crate) fn catalogue(config: &Config) -> Result<Catalogue, Failure> {
    Ok(Catalogue::load(&config.data_dir, &config.runtime_dirs)?)
}

/// What the back-end must be able to do.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    /// Runs at the same time.
    pub(crate) concurrency: NonZeroUsize,
    /// The only language that is asked for, if there is only one.
    pub(crate) only: Option<Language>,
    /// Whether the fences are to be tried.
    pub(crate) probes: bool,
    /// Whether this process does nothing more that needs the rights it was started with.
    pub(crate) gives_up_rights: bool,
}

/// A back-end that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) provider: Arc<dyn Provider>,
    /// What tries its fences, where it can and is to.
    pub(crate) self_test: Option<Arc<dyn SelfTest>>,
}

/// A back-end of which the first phase is done.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// The processes that build native sandboxes.
    Native(Keeper, Box<NativeConfig>),
    /// The fake, for tests of the layers above.
    Memory,
}

impl Prepared {
    /// The first phase, before any thread exists.
    pub(crate) fn new(
        config: &Config,
        catalogue: &Catalogue,
        needs: &Needs,
    ) -> Result<Self, Failure> {
        match config.provider {
            ProviderType::Native => Self::native(config, catalogue, needs),
            ProviderType::Memory => Ok(Self::Memory),
        }
    }

    fn native(config: &Config, catalogue: &Catalogue, needs: &Needs) -> Result<Self, Failure> {
        let config = NativeConfig {
            runtimes: runtimes(catalogue, &config.data_dir, needs.only.as_ref())?,
            slots: u32::try_from(needs.concurrency.get()).unwrap_or(u32::MAX),
            max_wall: config.manager.bounds.wall,
            max_memory: config.manager.bounds.memory,
            id_base: config.id_base,
            allow_missing: config.allow_missing.clone(),
            network: NetworkConfig { allow: config.network_allow.clone() },
            probes: needs.probes.then(Probes::default),
            warm: Warm { zygotes: needs.probes, cells: 2, disk: config.limits.disk },
        };
        let keeper = Native::spawn(&config)?;
        if needs.gives_up_rights {
            ampoule_jail::give_up_rights(config.manager_id())
                .map_err(|error| Failure::platform(format!("failed to give up rights: {error}")))?;
        }
        Ok(Self::Native(keeper, Box::new(config)))
    }

    /// The second phase, inside the runtime.
    pub(crate) async fn connect(self) -> Result<Connected, Failure> {
        match self {
            Self::Native(keeper, config) => {
                let native = Arc::new(Native::connect(keeper, &config).await?);
                let self_test: Arc<dyn SelfTest> = native.clone();
                let self_test = config.probes.map(|_| self_test);
                Ok(Connected { provider: native, self_test })
            }
            Self::Memory => {
                Ok(Connected { provider: Arc::new(Memory::default()), self_test: None })
            }
        }
    }
}

/// A native provider that runs probes and nothing else: no interpreter is needed.
pub(crate) fn for_probes(config: &Config, without: Vec<Layer>) -> NativeConfig {
    NativeConfig {
        runtimes: Vec::new(),
        slots: 0,
        max_wall: config.manager.bounds.wall,
        max_memory: config.manager.bounds.memory,
        id_base: config.id_base,
        // What is missing is told, and what is there is tried all the same.
        allow_missing: Layer::WAIVABLE.to_vec(),
        network: NetworkConfig::default(),
        probes: Some(Probes { without }),
        warm: Warm::default(),
    }
}

/// The runtimes whose interpreters are on this host. Without the only one that is asked for nothing
/// can be done; of several those that are there are served, and readiness tells of the rest.
fn runtimes(
    catalogue: &Catalogue,
    data_dir: &Path,
    only: Option<&Language>,
) -> Result<Vec<NativeRuntime>, Failure> {
    let mut found = Vec::new();
    for folder in
        catalogue.iter().filter(|folder| only.is_none_or(|only| only == folder.language()))
    {
        match NativeRuntime::find(folder, data_dir) {
            Ok(runtime) => found.push(runtime),
            Err(error) if only.is_some() => return Err(error.into()),
            Err(error) => {
                warn!(language = %folder.language(), error = error.chain(), "no interpreter");
            }
        }
    }
    if found.is_empty() {
        let message =
            "no interpreter was found; hint: `ampoule runtimes list` says what is missing";
        return Err(Failure::platform(message));
    }
    Ok(found)
}
