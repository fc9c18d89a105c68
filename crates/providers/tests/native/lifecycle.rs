//! What of the slots is left. What is left of runs is a law of every provider's, and tested by the
//! conformance suite.

use std::{sync::Arc, time::Duration};

use ampoule_core::{ErrorKind, Provider as _};
use ampoule_testkit::Suite;

use crate::rig::{Rig, limits, request};

/// Controls, because those run one after another: while they take every slot, no other test has one.
pub(crate) fn add_controls(suite: &mut Suite, rig: &Arc<Rig>) {
    let dropping = Arc::clone(rig);
    suite.control("a_dropped_creation_gives_its_slot_back", move || {
        let rig = &dropping;
        rig.runtime.block_on(async {
            let spec = request("python", "def main(): return 1", limits()).spec();
            // Dropped at every moment, more often than there are slots.
            for moment in 0..80_u64 {
                let soon = Duration::from_micros(moment * 250);
                let _ = tokio::time::timeout(soon, rig.native.create(spec.clone())).await;
            }
            // Those that were dropped late are still on their way back.
            let mut tries = 0;
            let sandbox = loop {
                match rig.native.create(spec.clone()).await {
                    Err(error) if error.kind() == ErrorKind::Busy && tries < 200 => tries += 1,
                    other => break other?,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            sandbox.destroy().await
        })?;
        Ok(())
    });
    let rig = Arc::clone(rig);
    suite.control("more_than_the_slots_is_an_error_and_not_a_wait", move || {
        rig.runtime.block_on(async {
            let request = request("python", "def main(): return 1", limits());
            let mut held = Vec::new();
            let refused = loop {
                match rig.native.create(request.spec()).await {
                    Ok(sandbox) => held.push(sandbox),
                    Err(error) => break error,
                }
            };
            assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
            for sandbox in held {
                sandbox.destroy().await?;
            }
            Ok::<_, ampoule_core::Error>(())
        })?;
        Ok(())
    });
}
