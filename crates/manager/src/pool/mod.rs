//! The pool: sandboxes that are ready before anybody asks.
//!
//! A kind is what is built into a sandbox ([`SandboxSpec::built_in`], the template included); any
//! ready sandbox of a kind suits a request of that kind, and no other. One sandbox on its way:
//!
//! ```text
//!            plan                created               take
//! (wanted) --------> booting -----------------> ready --------> the run's own, once
//!     ^                 | failed: after a pause     | too old, not ready any more, its kind
//!     +-----------------+                           | is dropped, in the way, shutdown
//!                       \-- nobody wants it now --> dying -- destroyed --> (gone)
//! ```
//!
//! The keeper, one task, moves everything but `take`, by a plan that it makes whenever something
//! has changed, and each second:
//!
//! - **Which.** The kinds that are named at the start are kept ready for good. Any other is kept as
//!   many times as it was used, up to `ready`, and dropped when it was not used for a minute. Kinds
//!   with the network open are never kept: a helper per sandbox would run. With all `most` taken, a
//!   kind may take the place of a ready sandbox of the kind that was not used for the longest time.
//! - **When.** Behind the answer: what a run has taken is replaced when that run's sandbox is
//!   destroyed, or 10 ms after its program began.
//! - **How much at a time.** At most `boots`. While requests wait for a place, one: their own runs
//!   are the better use of the CPUs, and one boot beside them keeps the next of them a hit.
//! - **Memory.** While the machine has less than `spare_memory` available none is made ready: programs
//!   that run are the better use of what is left, and each brings a sandbox of its own.
//! - **What fails** is tried again after a pause, 100 ms at first and doubling up to 5 s; it is logged
//!   when it begins and when it is over, and no request ever waits for it: a miss is created at
//!   once, beside the boots.
//!
//! Whoever takes looks first whether the sandbox is still ready ([`Sandbox::is_ready`]) and not too
//! old; so does the keeper, each second. What is not is destroyed behind, and counts until it is
//! gone.

mod keeper;
mod memory;
mod stock;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ampoule_core::{CancellationToken, NetworkPolicy, Provider, Sandbox, SandboxSpec};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};
use tracing::warn;

use crate::admission::Admission;
use stock::Stock;

/// How long after its program began a run's sandbox is replaced, if the run goes on so long.
pub(crate) const REFILL_AFTER: Duration = Duration::from_millis(10);

/// How long boots and destructions may take at the shutdown.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// How many sandboxes are kept ready, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Ready sandboxes of one kind; none switches the pool off.
    pub ready: usize,
    /// Ready sandboxes of all kinds, with those that are being created or destroyed.
    pub most: usize,
    /// Sandboxes that are created at a time.
    pub boots: NonZeroUsize,
    /// How long one may wait to be used.
    pub max_age: Duration,
    /// Bytes that the machine must have available for another to be created.
    pub spare_memory: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            ready: 8,
            most: 64,
            boots: NonZeroUsize::new(cpus / 2).unwrap_or(NonZeroUsize::MIN),
            max_age: Duration::from_secs(15 * 60),
            spare_memory: 256 << 20,
        }
    }
}

impl PoolConfig {
    /// No pool: each sandbox is created when it is asked for.
    pub fn off() -> Self {
        Self { ready: 0, ..Self::default() }
    }
}

/// Whether a run found its sandbox ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolUse {
    /// It was ready.
    Hit,
    /// It was created for the run.
    Miss,
}

impl PoolUse {
    /// The use as a stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
        }
    }
}

/// What the pool holds, and what came of it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolLoad {
    /// Each kind that is kept now.
    pub kinds: Vec<KindLoad>,
    /// Sandboxes that are ready.
    pub ready: usize,
    /// Sandboxes that are being created to be ready.
    pub booting: usize,
    /// Sandboxes that nobody took and that are being destroyed.
    pub dying: usize,
    /// Runs that found one ready, of kinds that are not kept any more too.
    pub hits: u64,
    /// Runs that did not.
    pub misses: u64,
}

/// One kind of sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindLoad {
    /// What is built into them.
    pub spec: SandboxSpec,
    /// Sandboxes that are ready.
    pub ready: usize,
    /// Sandboxes that are being created to be ready.
    pub booting: usize,
    /// Runs that found one ready since the kind is kept.
    pub hits: u64,
    /// Runs that did not.
    pub misses: u64,
}

/// The pool. When the last who holds it lets go, everything in it is destroyed.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    provider: Arc<dyn Provider>,
    admission: Arc<Admission>,
    is_on: bool,
    is_kept: AtomicBool,
    keeper: Mutex<Option<JoinHandle<()>>>,
    closing: CancellationToken,
}

/// What the keeper and runs share.
#[derive(Debug)]
struct Shared {
    stock: Mutex<Stock>,
    /// Says that there may be something to do.
    changed: Notify,
}

impl Shared {
    fn stock(&self) -> MutexGuard<'_, Stock> {
        // Counts in a poisoned stock may be off by one; a pool that does nothing would be worse.
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a run gets.
#[derive(Debug)]
pub(crate) struct Taken {
    /// A sandbox that was ready.
    pub(crate) sandbox: Option<Box<dyn Sandbox>>,
    /// Keeps the pool from replacing it yet.
    pub(crate) hold: Hold,
}

/// Keeps the pool from preparing another of a kind, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold(Option<(Arc<Shared>, Arc<SandboxSpec>)>);

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some((shared, kind)) = self.0.take()
            && shared.stock().settle(&kind)
        {
            shared.changed.notify_one();
        }
    }
}

impl Pool {
    /// A pool that fills from `provider` until `stopping` fires.
    pub(crate) fn new(
        config: PoolConfig,
        provider: Arc<dyn Provider>,
        admission: Arc<Admission>,
        stopping: &CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                stock: Mutex::new(Stock::new(config)),
                changed: Notify::new(),
            }),
            provider,
            admission,
            is_on: config.ready > 0 && config.most > 0,
            is_kept: AtomicBool::new(false),
            keeper: Mutex::new(None),
            closing: stopping.child_token(),
        }
    }

    /// Keeps these kinds ready from now on.
    pub(crate) fn name(&self, specs: impl IntoIterator<Item = SandboxSpec>) {
        let now = Instant::now();
        for spec in specs.into_iter().filter(|spec| self.is_kept_ready(spec)) {
            self.shared.stock().name(spec, now);
        }
        self.wake();
    }

    /// A ready sandbox of the kind that `spec` is of, if there is one.
    pub(crate) fn take(&self, spec: &SandboxSpec) -> Taken {
        if !self.is_kept_ready(spec) || self.closing.is_cancelled() {
            return Taken { sandbox: None, hold: Hold(None) };
        }
        let kind = Arc::new(spec.built_in());
        let mut stock = self.shared.stock();
        let sandbox = stock.take(&kind, spec, Instant::now());
        let has_work = stock.has_gone();
        drop(stock);
        if has_work {
            self.wake();
        } else {
            self.keep();
        }
        Taken { sandbox, hold: Hold(Some((Arc::clone(&self.shared), kind))) }
    }

    /// Destroys a sandbox behind: it was taken, and is of no use.
    pub(crate) fn discard(&self, sandbox: Box<dyn Sandbox>) {
        self.shared.stock().discard(sandbox);
        self.wake();
    }

    pub(crate) fn load(&self) -> PoolLoad {
        self.shared.stock().load()
    }

    /// Waits until everything in it is destroyed. It stops filling with the token that it was made
    /// with.
    pub(crate) async fn closed(&self) {
        self.closing.cancel();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut keeper) = keeper else { return };
        if tokio::time::timeout(CLOSE_DEADLINE, &mut keeper).await.is_err() {
            warn!("ready sandboxes are not gone, shutting down over them");
            keeper.abort();
        }
    }

    fn is_kept_ready(&self, spec: &SandboxSpec) -> bool {
        self.is_on && spec.network == NetworkPolicy::None
    }

    fn wake(&self) {
        self.keep();
        self.shared.changed.notify_one();
    }

    /// Starts the keeper, once and not before there is anything to keep.
    fn keep(&self) {
        if !self.is_on || self.is_kept.swap(true, Ordering::Relaxed) {
            return;
        }
        let keeper = keeper::Keeper {
            shared: Arc::clone(&self.shared),
            provider: Arc::clone(&self.provider),
            admission: Arc::clone(&self.admission),
            closing: self.closing.clone(),
        };
        let task = tokio::spawn(keeper.keep());
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}
