//! How full the pool is, seen from outside.
//!
//! The one place that knows how that is found out: today by counting the processes in cells, with no
//! run under way. A service that tells it by itself is asked here and nowhere else.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    failure::{Failure, Result},
    processes::count_workers,
    service::Service,
};

/// How long the count must stay as it is to count as full.
const STILL: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);

/// Looks at the pool of one service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    launcher: u32,
}

impl Watch {
    pub(crate) fn of(service: &Service) -> Result<Self> {
        Ok(Self { launcher: service.tree()?.launcher })
    }

    /// Ready workers, as long as no run is under way: then those that run count too.
    pub(crate) fn ready(self) -> Result<usize> {
        count_workers(self.launcher)
            .ok_or_else(|| Failure::Broken("failed to count the launcher's children".to_owned()))
    }
}

/// Waits until the pool changes no more; how many are ready then.
pub(crate) fn settle(service: &Service) -> Result<usize> {
    let watch = Watch::of(service)?;
    let began = Instant::now();
    let (mut ready, mut since) = (watch.ready()?, Instant::now());
    while since.elapsed() < STILL && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
        let now = watch.ready()?;
        if now != ready {
            (ready, since) = (now, Instant::now());
        }
    }
    Ok(ready)
}
