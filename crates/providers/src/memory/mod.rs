//! The fake provider: it runs nothing and follows a script, so that tests of the layers above can
//! produce every sequence of events and every end.
//!
//! ```text
//! Memory::create -> MemorySandbox (live) --execute--> Run (running) --end or drop--> over
//!                        \--destroy or drop--> gone
//! ```
//!
//! It obeys the laws of [`Provider`]: exactly one `Finished`, last; the verdict computed by
//! [`ampoule_core::verdict`] from the evidence of the script; wall clock, output limit and
//! cancellation honoured. [`Script`] says how a program becomes a script, [`Memory::census`] counts
//! sandboxes, so that a test can prove that all of them were destroyed.
//!
//! It isolates nothing because it runs nothing: it is for tests, never for users.

mod config;
mod error;
mod sandbox;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ampoule_core::{
    CancellationToken, Capabilities, Error, ErrorKind, Provider, ProviderInfo, Result, Sandbox,
    SandboxId, SandboxSpec,
};
use async_trait::async_trait;
use tokio::sync::watch;

pub use config::{Behaviour, IsGone, MemoryConfig, OnCreate, OnHealth, Script, Step, Stop};
pub use sandbox::MemorySandbox;

use crate::gate;

/// How many sandboxes there were and are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Sandboxes created so far.
    pub created: u64,
    /// Sandboxes ended by `destroy` so far; those that were only dropped are not among them.
    pub destroyed: u64,
    /// Sandboxes that exist now.
    pub live: u64,
    /// Programs that run now.
    pub running: u64,
}

/// The fake provider.
#[derive(Debug)]
pub struct Memory {
    config: MemoryConfig,
    capabilities: Arc<Capabilities>,
    census: Arc<watch::Sender<Census>>,
    next: AtomicU64,
    /// Ends what runs when the provider is shut down.
    closing: CancellationToken,
}

impl Memory {
    /// A provider that behaves as `config` says.
    pub fn new(config: MemoryConfig) -> Self {
        Self {
            capabilities: Arc::new(config.capabilities.clone()),
            config,
            census: Arc::new(watch::Sender::new(Census::default())),
            next: AtomicU64::new(1),
            closing: CancellationToken::new(),
        }
    }

    /// How many sandboxes there were and are.
    pub fn census(&self) -> Census {
        *self.census.borrow()
    }

    /// Waits until the census is as `wanted` says, so that a test needs no sleep.
    pub async fn until(&self, wanted: impl FnMut(&Census) -> bool) {
        let mut census = self.census.subscribe();
        // No error is possible: the sender is a field of `self`.
        drop(census.wait_for(wanted).await);
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(MemoryConfig::default())
    }
}

#[async_trait]
impl Provider for Memory {
    fn info(&self) -> ProviderInfo {
        ProviderInfo { provider_type: "memory", name: "memory".to_owned() }
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn health(&self) -> Result<()> {
        match &self.config.on_health {
            Some(on_health) => on_health(),
            None => Ok(()),
        }
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Box<dyn Sandbox>> {
        if self.closing.is_cancelled() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "create a sandbox",
                "the provider is shut down",
            ));
        }
        gate::check(&self.config.capabilities, &spec)?;
        if let Some(on_create) = &self.config.on_create {
            on_create(&spec)?;
        }
        tokio::time::sleep(self.config.create_time).await;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = SandboxId::new(format!("memory-{number}"));
        Ok(Box::new(MemorySandbox::new(
            id,
            self.config.clone(),
            spec,
            Arc::clone(&self.census),
            self.closing.clone(),
        )))
    }

    async fn shutdown(&self) -> Result<()> {
        self.closing.cancel();
        Ok(())
    }
}
