//! The provider tries its own fences.

use std::sync::Arc;

use ampoule_core::{Crossing, Layer, LimitKind, Provider as _, SelfTest as _};
use ampoule_providers::native::{METERS, Probes};
use ampoule_testkit::{Failure, Suite, eventually};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Rig, WARM, is_root, limits, request};

/// One slot for programs; and the names of the run's namespace and host are the launcher's.
pub(crate) fn rig() -> Rig {
    Rig::with(1, WARM, Some(Probes { without: vec![Layer::UtsNamespace] }))
}

/// A control, because those run one after another, and this one counts sandboxes.
pub(crate) fn add_control(suite: &mut Suite, rig: &Arc<Rig>) {
    let rig = Arc::clone(rig);
    suite.control("proofs_are_kept_for_as_long_as_the_launcher_lives", move || {
        // What only root's sandboxes have is not tried for others.
        let absent = if is_root() { 0 } else { 2 };
        let probes = u64::try_from(Layer::ALL.len() - 3 - absent)?;
        let first = sandboxes(&rig)?;
        rig.runtime.block_on(rig.native.prove());
        let tried = sandboxes(&rig)?;
        assert_eq!(tried - first, probes + 1);
        rig.runtime.block_on(rig.native.prove());
        let mut last = sandboxes(&rig)?;
        assert_eq!(last - tried, 1);
        let launcher = i32::try_from(rig.launcher().ok_or("no launcher")?)?;
        kill_process(Pid::from_raw(launcher).ok_or("no launcher")?, Signal::KILL)?;
        eventually("the next launcher's fences are tried", || {
            rig.runtime.block_on(rig.native.prove());
            // None while the old launcher is being missed.
            let now = sandboxes(&rig).unwrap_or(last);
            let made = now - last;
            last = now;
            made > probes
        })
    });
}

/// How many sandboxes this process has made, with the one that is made to ask.
fn sandboxes(rig: &Rig) -> Result<u64, Failure> {
    let spec = request("python", "def main(): return 1", limits()).spec();
    rig.runtime.block_on(async {
        let sandbox = rig.native.create(spec).await?;
        let number = sandbox.id().as_str().rsplit('-').next().unwrap_or_default().parse();
        sandbox.destroy().await?;
        Ok(number?)
    })
}

pub(crate) fn add(suite: &mut Suite, rig: &Arc<Rig>) {
    let shared = Arc::clone(rig);
    suite.test("proofs::a_probe_takes_no_place_of_a_run", move || {
        let spec = request("python", "def main(): return 1", limits()).spec();
        shared.runtime.block_on(async {
            let held = shared.native.create(spec.clone()).await?;
            assert!(held.isolation().missing.contains(&Layer::UtsNamespace));
            assert!(!held.isolation().enforced.contains(&Layer::UtsNamespace));
            let proofs = shared.native.prove().await;
            assert_eq!(proofs.len(), Layer::ALL.len() - 3);
            for proof in &proofs {
                let crossed = matches!(proof.crossing, Crossing::Crossed { .. });
                assert_eq!(crossed, proof.layer == Layer::UtsNamespace, "{proof:?}");
                assert_eq!(proof.problem().is_some(), crossed, "{proof:?}");
            }
            assert_eq!(shared.native.prove().await, proofs);
            held.destroy().await
        })?;
        for limit in METERS {
            let proof = shared.runtime.block_on(shared.native.try_meter(limit))?;
            assert!(proof.holds(), "{proof:?}");
        }
        assert!(shared.runtime.block_on(shared.native.try_meter(LimitKind::Disk)).is_err());
        Ok(())
    });
}
