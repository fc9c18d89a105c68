//! The manager: what the layers above hold.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use ampoule_core::{
    Bounds, CancellationToken, Collector, Error, ErrorKind, Excess, ExecuteRequest, ExecutionId,
    ExecutionResult, Provider, Result, SandboxSpec,
};
use ampoule_providers::gate;
use tracing::info;

use crate::{
    admission::Admission,
    execution::{self, Execution, Supply},
    lifecycle::Lifecycle,
    pool::{Pool, PoolConfig, PoolLoad},
};

/// How much the manager takes on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManagerConfig {
    /// Runs at the same time.
    pub concurrency: NonZeroUsize,
    /// Requests that may wait for a place.
    pub queue: usize,
    /// How long a request may wait for a place.
    pub queue_deadline: Duration,
    /// What a request may ask for at most, at whichever door.
    pub bounds: Bounds,
    /// Sandboxes that are ready before they are asked for.
    pub pool: PoolConfig,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            concurrency: NonZeroUsize::new(cpus).unwrap_or(NonZeroUsize::MIN).max(TWO),
            // A thousand programs sent at once are all answered.
            queue: 4096,
            queue_deadline: Duration::from_secs(60),
            bounds: Bounds::default(),
            pool: PoolConfig::default(),
        }
    }
}

const TWO: NonZeroUsize = NonZeroUsize::new(2).expect("two is not zero");

/// What the manager is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Places taken.
    pub running: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
}

/// Runs programs on one provider: bounded, counted, and always cleaned up after.
#[derive(Clone, Debug)]
pub struct Manager {
    provider: Arc<dyn Provider>,
    admission: Arc<Admission>,
    lifecycle: Arc<Lifecycle>,
    pool: Arc<Pool>,
    bounds: Bounds,
}

impl Manager {
    /// A manager that runs on `provider`.
    pub fn new(provider: Arc<dyn Provider>, config: ManagerConfig) -> Self {
        let lifecycle = Arc::new(Lifecycle::default());
        let stopping = lifecycle.stopping();
        let admission = Arc::new(Admission::new(config, stopping.clone()));
        let pool = Pool::new(config.pool, Arc::clone(&provider), Arc::clone(&admission), &stopping);
        Self { provider, admission, lifecycle, pool: Arc::new(pool), bounds: config.bounds }
    }

    /// The provider.
    pub fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    /// What it is busy with now.
    pub fn load(&self) -> Load {
        self.admission.load()
    }

    /// What it has ready, and what came of it.
    pub fn pool_load(&self) -> PoolLoad {
        self.pool.load()
    }

    /// Keeps sandboxes of these kinds ready from now on, whether they are used or not. A kind that no
    /// request may ask for, that the provider refuses, or with the network open, is left out.
    ///
    /// To be called inside a runtime.
    pub fn warm_up(&self, specs: impl IntoIterator<Item = SandboxSpec>) {
        let capabilities = self.provider.capabilities();
        let possible = |spec: &SandboxSpec| {
            self.bounds.excesses(spec).is_empty() && gate::check(&capabilities, spec).is_ok()
        };
        self.pool.name(specs.into_iter().filter(possible));
    }

    /// Everything that `spec` asks for and that the operator or the provider does not allow, each
    /// field once, so that a door can say all of it in its own shape.
    pub fn excesses(&self, spec: &SandboxSpec) -> Vec<Excess> {
        let mut found = self.bounds.excesses(spec);
        for excess in gate::excesses(&self.provider.capabilities(), spec) {
            if found.iter().all(|known| known.field != excess.field) {
                found.push(excess);
            }
        }
        found
    }

    /// Runs one program and gives its events as they happen.
    ///
    /// - What is outside of the operator's bounds, and what the provider does not declare, is refused
    ///   before the request waits.
    /// - Without a free place the request waits in the queue: [`Busy`] if that is full or the
    ///   deadline passes, [`Unavailable`] after [`Manager::shutdown`] began, [`Cancelled`] if
    ///   `cancel` fires. A caller who drops the future leaves the queue.
    /// - It runs in a ready sandbox of its kind if there is one, else in one that is created at once.
    ///   A ready one that turns out to be of no use before the program began is replaced.
    /// - When `cancel` fires, or the [`Execution`] is dropped, the run is ended.
    /// - The sandbox is destroyed in any case, and its place given back after that.
    ///
    /// [`Busy`]: ampoule_core::ErrorKind::Busy
    /// [`Unavailable`]: ampoule_core::ErrorKind::Unavailable
    /// [`Cancelled`]: ampoule_core::ErrorKind::Cancelled
    pub async fn execute(
        &self,
        request: ExecuteRequest,
        cancel: CancellationToken,
    ) -> Result<Execution> {
        let mut spec = request.spec();
        if let Some(excess) = self.bounds.excesses(&spec).first() {
            let message = excess.to_string();
            return Err(Error::new(ErrorKind::InvalidRequest, "admit the run", message));
        }
        let capabilities = self.provider.capabilities();
        gate::check(&capabilities, &spec)?;
        spec.template = capabilities.template_for(&request.language, &request.code);
        let place = match self.admission.admit(&cancel).await {
            Ok(place) => place,
            Err(error) => {
                let (id, language, kind) = (&request.id, &request.language, error.kind().as_str());
                info!(execution_id = %id, %language, error = kind, "execution not admitted");
                return Err(error);
            }
        };
        let supply = Supply { provider: Arc::clone(&self.provider), pool: Arc::clone(&self.pool) };
        execution::start(supply, spec, request, cancel, place, &self.lifecycle).await
    }

    /// Runs one program and folds its events.
    pub async fn run(
        &self,
        request: ExecuteRequest,
        cancel: CancellationToken,
    ) -> Result<ExecutionResult> {
        Collector::collect(self.execute(request, cancel).await?.events).await
    }

    /// Waits until nothing runs and every sandbox that was used is destroyed.
    pub async fn idle(&self) {
        self.lifecycle.idle().await;
    }

    /// Cancels what runs, without waiting for a grace to end.
    pub fn cancel(&self) {
        self.lifecycle.cancel();
    }

    /// Ends everything: admits nothing more, lets what runs go on for `grace`, then cancels it, destroys
    /// what is ready, and shuts the provider down. A second call waits for the first and does nothing.
    pub async fn shutdown(&self, grace: Duration) -> Result<()> {
        self.lifecycle.shutdown(&*self.provider, &self.pool, grace).await
    }
}

/// A new id: 128 random bits.
pub fn new_execution_id() -> ExecutionId {
    let mut bytes = [0; 16];
    // The kernel's generator has nothing to fail of on a machine that runs at all, and an id that is
    // not unique would let one caller's answer be taken for another's.
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    ExecutionId::new(format!("{:032x}", u128::from_be_bytes(bytes)))
}
