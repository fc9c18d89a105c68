//! The back-end, in two phases.
//!
//! The processes that build sandboxes must be started before any thread exists, and spoken to
//! inside the runtime:
//!
//! ```text
//! Prepared::new (no thread yet; root is given up) -> Prepared::connect (in the runtime) -> Provider
//! ```

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use ampoule_core::{Language, Provider};
use ampoule_jail::Keeper;
use ampoule_providers::{
    memory::Memory,
    native::{Native, NativeConfig, NativeRuntime, NetworkConfig},
    runtimes::{Catalogue, default_data_dir},
};
use tracing::warn;

use crate::{environment::Environment, exit::Failure};

/// The longest wall clock that anybody may ask for.
const MAX_WALL: Duration = Duration::from_secs(3600);

/// The most memory that anybody may ask for, in bytes.
const MAX_MEMORY: u64 = 64 << 30;

/// What the back-end must be able to do.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    /// Runs at the same time.
    pub(crate) concurrency: NonZeroUsize,
    /// The only language that is asked for, if there is only one.
    pub(crate) only: Option<Language>,
    /// Whether this process does nothing more that needs the rights it was started with.
    pub(crate) gives_up_root: bool,
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
        environment: &Environment<'_>,
        catalogue: &Catalogue,
        needs: &Needs,
    ) -> Result<Self, Failure> {
        match environment.provider()?.as_deref() {
            None | Some("native") => Self::native(catalogue, needs),
            Some("memory") => Ok(Self::Memory),
            Some(unknown) => {
                let message = format!("AMPOULE_PROVIDER is `{unknown}`; hint: `native`");
                Err(Failure::usage(message))
            }
        }
    }

    fn native(catalogue: &Catalogue, needs: &Needs) -> Result<Self, Failure> {
        let config = NativeConfig {
            runtimes: runtimes(catalogue, needs.only.as_ref())?,
            slots: u32::try_from(needs.concurrency.get()).unwrap_or(u32::MAX),
            max_wall: MAX_WALL,
            max_memory: MAX_MEMORY,
            id_base: NativeConfig::DEFAULT_ID_BASE,
            allow_missing: Vec::new(),
            network: NetworkConfig::default(),
        };
        let keeper = Native::spawn(&config)?;
        if needs.gives_up_root && ampoule_jail::is_root() {
            ampoule_jail::drop_to(config.manager_id())
                .map_err(|error| Failure::platform(format!("failed to give up root: {error}")))?;
        }
        Ok(Self::Native(keeper, Box::new(config)))
    }

    /// The second phase, inside the runtime.
    pub(crate) async fn connect(self) -> Result<Arc<dyn Provider>, Failure> {
        match self {
            Self::Native(keeper, config) => Ok(Arc::new(Native::connect(keeper, &config).await?)),
            Self::Memory => Ok(Arc::new(Memory::default())),
        }
    }
}

/// The runtimes whose interpreters are on this host. Without the only one that is asked for nothing
/// can be done; of several those that are there are served, and readiness tells of the rest.
fn runtimes(catalogue: &Catalogue, only: Option<&Language>) -> Result<Vec<NativeRuntime>, Failure> {
    let data_dir = default_data_dir();
    let mut found = Vec::new();
    for folder in
        catalogue.iter().filter(|folder| only.is_none_or(|only| only == folder.language()))
    {
        match NativeRuntime::find(folder, &data_dir) {
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
