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
use ampoule_manager::{ManagerConfig, PoolConfig};
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
    /// What sandboxes have to be held at once.
    pub(crate) slots: Slots,
    /// The only language that is asked for, if there is only one.
    pub(crate) only: Option<Language>,
    /// Whether the fences are to be tried.
    pub(crate) probes: bool,
    /// Whether this process does nothing more that needs the rights it was started with.
    pub(crate) gives_up_rights: bool,
}

/// How many sandboxes exist at once, at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    /// Runs at the same time.
    places: usize,
    /// The pool of ready sandboxes.
    pool: PoolConfig,
    /// Spare cells of each template.
    cells: u32,
    /// Whether interpreters are kept warm.
    zygotes: bool,
}

impl Slots {
    /// One run, and nothing that waits.
    pub(crate) const ONE: Self = Self {
        places: 1,
        pool: PoolConfig {
            ready: 0,
            most: 0,
            boots: NonZeroUsize::MIN,
            max_age: std::time::Duration::ZERO,
            spare_memory: 0,
        },
        cells: 0,
        zygotes: false,
    };

    /// What a service needs that is configured so.
    pub(crate) fn of(config: &Config) -> Self {
        let ManagerConfig { concurrency, pool, .. } = config.manager;
        Self { places: concurrency.get(), pool, cells: config.cells, zygotes: true }
    }

    /// Sandboxes that exist at once, at most.
    pub(crate) fn most(self) -> usize {
        let Self { places, pool, .. } = self;
        let pooled = match pool.ready {
            0 => 0,
            // A run may hold a place while a sandbox of the pool that was of no use to it goes.
            _ => pool.most.saturating_add(pool.boots.get()).saturating_add(places),
        };
        places.saturating_add(pooled)
    }

    /// The same, as slots. A slot is taken from the first word of its sandbox until nothing of it is
    /// left.
    fn count(self) -> u32 {
        u32::try_from(self.most()).unwrap_or(u32::MAX).min(NativeConfig::MOST_SLOTS)
    }
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
        let runtimes = runtimes(catalogue, &config.data_dir, needs.only.as_ref())?;
        let config = NativeConfig {
            slots: needs.slots.count(),
            runtimes,
            max_wall: config.manager.bounds.wall,
            max_memory: config.manager.bounds.memory,
            id_base: config.id_base,
            allow_missing: config.allow_missing.clone(),
            network: NetworkConfig { allow: config.network_allow.clone() },
            probes: needs.probes.then(Probes::default),
            warm: Warm {
                zygotes: needs.slots.zygotes,
                cells: needs.slots.cells,
                disk: config.limits.disk,
                memory: config.limits.memory,
                ..Warm::default()
            },
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

/// A native provider that runs probes and self-tests and nothing else: no interpreter is needed.
pub(crate) fn for_probes(config: &Config, without: Vec<Layer>) -> NativeConfig {
    let (catalogue, _) = Catalogue::survey(&config.data_dir, &config.runtime_dirs);
    let tested = catalogue.iter().filter(|folder| without.is_empty() && folder.selftest.is_some());
    let found = tested.filter_map(|folder| NativeRuntime::find(folder, &config.data_dir).ok());
    NativeConfig {
        runtimes: found.collect(),
        slots: 0,
        max_wall: config.manager.bounds.wall,
        max_memory: config.manager.bounds.memory,
        id_base: config.id_base,
        // What is missing is told, and what is there is tried all the same.
        allow_missing: Layer::WAIVABLE.to_vec(),
        network: NetworkConfig::default(),
        probes: Some(Probes { without }),
        warm: Warm {
            zygotes: true,
            cells: 0,
            disk: config.limits.disk,
            memory: config.limits.memory,
            ..Warm::default()
        },
    }
}

/// The runtimes whose interpreters are on this host. Without the only one that is asked for nothing
/// can be done; of several those that are there are served, and readiness tells of the rest.
fn runtimes(
    catalogue: &Catalogue,
    data_dir: &Path,
    only: Option<&Language>,
) -> Result<Vec<NativeRuntime>, Failure> {
    let mut found: Vec<NativeRuntime> = Vec::new();
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
    // For one program alone it would take longer than it saves.
    for runtime in found.iter_mut().filter(|_| only.is_none()) {
        if let Err(error) = runtime.compile() {
            warn!(language = %runtime.folder.language(), error = error.chain(), "its runner is not compiled ahead");
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_hold_whatever_can_exist_at_once_and_have_a_bound() {
        let slots = |places, ready, most| {
            let pool = PoolConfig { ready, most, boots: NonZeroUsize::MIN, ..PoolConfig::off() };
            Slots { places, pool, cells: 2, zygotes: true }.count()
        };
        assert_eq!(Slots::ONE.count(), 1);
        assert_eq!(slots(4, 0, 64), 4);
        // Places, ready ones, the boot, and those of no use.
        assert_eq!(slots(4, 8, 64), 4 + 64 + 1 + 4);
        assert_eq!(slots(1024, 8, 1512), NativeConfig::MOST_SLOTS);
    }
}
