//! The back-end, in two phases.
//!
//! A launcher must be started before any thread exists, and spoken to inside the runtime:
//!
//! ```text
//! Prepared::new (no thread yet) -> Prepared::connect (inside the runtime) -> Provider
//! ```

use std::{num::NonZeroUsize, sync::Arc};

use ampoule_core::Provider;
use ampoule_providers::memory::Memory;

use crate::{environment::Environment, exit::Failure};

/// What the back-end must be able to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Runs at the same time.
    #[expect(dead_code, reason = "the native provider sizes its launcher by it")]
    pub(crate) concurrency: NonZeroUsize,
}

/// A back-end of which the first phase is done.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// The fake, for tests of the layers above.
    Memory,
}

impl Prepared {
    /// The first phase, before any thread exists.
    pub(crate) fn new(environment: &Environment<'_>, _needs: Needs) -> Result<Self, Failure> {
        match environment.provider()?.as_deref() {
            None | Some("native") => {
                Err(Failure::usage("the provider `native` is not part of this build"))
            }
            Some("memory") => Ok(Self::Memory),
            Some(unknown) => {
                let message = format!("AMPOULE_PROVIDER is `{unknown}`; hint: `native`");
                Err(Failure::usage(message))
            }
        }
    }

    /// The second phase, inside the runtime.
    pub(crate) async fn connect(self) -> Result<Arc<dyn Provider>, Failure> {
        match self {
            Self::Memory => Ok(Arc::new(Memory::default())),
        }
    }
}
