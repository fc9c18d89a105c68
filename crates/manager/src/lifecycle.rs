//! The life of the manager.
//!
//! ```text
//! open --shutdown--> stopping (nothing admitted, the pool empties) --grace--> cancelling
//!                        \-- everything ended by itself -----------------------^
//!      --> the pool is empty --> provider shut down
//! ```
//!
//! `shutdown` moves it, and only forward.

use std::time::Duration;

use ampoule_core::{CancellationToken, Provider, Result};
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::pool::Pool;

/// How long cancelled runs may take to be gone before the provider is shut down over them.
const CANCEL_DEADLINE: Duration = Duration::from_secs(10);

/// Knows every run that has not been destroyed yet.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    runs: TaskTracker,
    stopping: CancellationToken,
    cancelling: CancellationToken,
    is_shut_down: Mutex<bool>,
}

impl Lifecycle {
    /// Fires when nothing may be admitted any more.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// The token of a new run; it fires when the grace is over.
    pub(crate) fn run_token(&self) -> CancellationToken {
        self.cancelling.child_token()
    }

    /// Runs `run` to its end, whoever still waits for it.
    pub(crate) fn spawn(&self, run: impl Future<Output = ()> + Send + 'static) {
        self.runs.spawn(run);
    }

    pub(crate) async fn idle(&self) {
        // `wait` returns only for a closed tracker; a closed one still takes new tasks.
        self.runs.close();
        self.runs.wait().await;
    }

    /// Cancels what runs.
    pub(crate) fn cancel(&self) {
        self.cancelling.cancel();
    }

    pub(crate) async fn shutdown(
        &self,
        provider: &dyn Provider,
        pool: &Pool,
        grace: Duration,
    ) -> Result<()> {
        self.stopping.cancel();
        let mut is_shut_down = self.is_shut_down.lock().await;
        if *is_shut_down {
            return Ok(());
        }
        if tokio::time::timeout(grace, self.idle()).await.is_err() {
            info!(runs = self.runs.len(), "the grace is over, cancelling what runs");
        }
        self.cancelling.cancel();
        if tokio::time::timeout(CANCEL_DEADLINE, self.idle()).await.is_err() {
            warn!(runs = self.runs.len(), "cancelled runs are not gone, shutting down over them");
        }
        pool.closed().await;
        *is_shut_down = true;
        provider.shutdown().await
    }
}
