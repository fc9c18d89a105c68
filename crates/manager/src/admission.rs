//! Admission: a bounded number of places, and a bounded queue with a deadline before them.
//!
//! ```text
//! admit -> Place                      a place is free
//!       -> queued -> Place            one becomes free in time; first come, first served
//!                 -> Busy             the deadline passes
//!                 -> Cancelled        the caller withdraws (or drops the future)
//!                 -> Unavailable      the shutdown begins
//!       -> Busy                       the queue is full
//! ```

use std::{sync::Arc, time::Duration};

use ampoule_core::{CancellationToken, Error, ErrorKind, Result};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{Load, ManagerConfig};

const OPERATION: &str = "find a place for the run";

/// The places and the queue.
#[derive(Debug)]
pub(crate) struct Admission {
    config: ManagerConfig,
    places: Arc<Semaphore>,
    queue: Semaphore,
    stopping: CancellationToken,
}

/// A place that a run holds until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    /// How long it was waited for.
    pub(crate) waited: Duration,
}

impl Admission {
    pub(crate) fn new(mut config: ManagerConfig, stopping: CancellationToken) -> Self {
        config.queue = config.queue.min(Semaphore::MAX_PERMITS);
        let places = config.concurrency.get().min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places)),
            queue: Semaphore::new(config.queue),
            config,
            stopping,
        }
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            running: self.config.concurrency.get() - self.places.available_permits(),
            waiting: self.config.queue - self.queue.available_permits(),
        }
    }

    /// Gives a place, or says why there is none.
    pub(crate) async fn admit(&self, cancel: &CancellationToken) -> Result<Place> {
        let refused = |kind, message: &str| Err(Error::new(kind, OPERATION, message));
        if self.stopping.is_cancelled() {
            return refused(ErrorKind::Unavailable, "the service is shutting down");
        }
        if cancel.is_cancelled() {
            return refused(ErrorKind::Cancelled, "the request was withdrawn");
        }
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Place { _permit: permit, waited: Duration::ZERO });
        }
        let Ok(_waiting) = self.queue.try_acquire() else {
            let (places, queue) = (self.config.concurrency, self.config.queue);
            let message = format!("all {places} places are taken and {queue} requests wait");
            return refused(ErrorKind::Busy, &message);
        };
        let began = Instant::now();
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                refused(ErrorKind::Cancelled, "the request was withdrawn")
            }
            () = self.stopping.cancelled() => {
                refused(ErrorKind::Unavailable, "the service is shutting down")
            }
            permit = Arc::clone(&self.places).acquire_owned() => {
                let permit = permit.map_err(|closed| {
                    Error::new(ErrorKind::Internal, OPERATION, "it was closed").with_source(closed)
                })?;
                Ok(Place { _permit: permit, waited: began.elapsed() })
            }
            () = tokio::time::sleep(self.config.queue_deadline) => {
                let deadline = self.config.queue_deadline;
                refused(ErrorKind::Busy, &format!("no place became free within {deadline:?}"))
            }
        }
    }
}
