//! The one task that fills the pool, looks after it, and empties it.

use std::{panic::AssertUnwindSafe, sync::Arc};

use ampoule_core::{CancellationToken, Provider, Result, Sandbox, SandboxSpec};
use futures_util::FutureExt as _;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    Shared,
    memory::Memory,
    stock::{Change, Plan, Pressure},
};
use crate::{
    admission::Admission,
    execution::{destroy, panicked},
};

/// What the keeper works with.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) admission: Arc<Admission>,
    pub(super) closing: CancellationToken,
}

/// A piece of work that is over.
enum Done {
    Booted(Arc<SandboxSpec>, Result<Box<dyn Sandbox>>),
    Destroyed,
}

impl Keeper {
    /// Keeps the pool until it closes, and leaves nothing in it.
    pub(super) async fn keep(self) {
        let mut work = JoinSet::new();
        let mut memory = Memory::new(self.shared.stock().spare_memory());
        loop {
            let requests_wait = self.admission.load().waiting > 0;
            let now = Instant::now();
            let pressure = match (memory.is_short(now), requests_wait) {
                (true, _) => Pressure::Memory,
                (false, true) => Pressure::Requests,
                (false, false) => Pressure::None,
            };
            let plan = self.shared.stock().plan(now, pressure);
            let wake = plan.wake;
            self.begin(plan, &mut work);
            tokio::select! {
                () = self.closing.cancelled() => break,
                () = self.shared.changed.notified() => {}
                Some(done) = work.join_next() => self.note(done),
                () = sleep_until(wake) => {}
            }
        }
        self.shared.stock().close();
        loop {
            let plan = self.shared.stock().plan(Instant::now(), Pressure::None);
            self.begin(plan, &mut work);
            match work.join_next().await {
                Some(done) => self.note(done),
                None => return,
            }
        }
    }

    fn begin(&self, plan: Plan, work: &mut JoinSet<Done>) {
        for sandbox in plan.gone {
            work.spawn(async {
                destroy(sandbox).await;
                Done::Destroyed
            });
        }
        for (kind, spec) in plan.boots {
            let provider = Arc::clone(&self.provider);
            work.spawn(async move {
                let created = AssertUnwindSafe(provider.create(spec)).catch_unwind().await;
                Done::Booted(kind, created.unwrap_or_else(|_| Err(panicked())))
            });
        }
    }

    fn note(&self, done: std::result::Result<Done, JoinError>) {
        match done {
            Ok(Done::Destroyed) => self.shared.stock().destroyed(),
            Ok(Done::Booted(kind, created)) => {
                let told = created.as_ref().err().map(|error| error.chain()).unwrap_or_default();
                let change = self.shared.stock().booted(&kind, created, Instant::now());
                let (language, profile) = (&kind.language, kind.profile.as_str());
                match change {
                    Change::None => {}
                    Change::Fails => {
                        warn!(%language, profile, error = told, "no sandbox can be made ready");
                    }
                    Change::Recovered => {
                        info!(%language, profile, "sandboxes can be made ready again");
                    }
                }
            }
            // Both kinds of work catch what the provider does.
            Err(error) => error!(%error, "the pool lost a piece of work"),
        }
    }
}
