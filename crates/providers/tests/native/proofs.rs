//! The provider tries its own fences.

use std::sync::Arc;

use ampoule_core::{Crossing, Layer, LimitKind, Provider as _, SelfTest as _};
use ampoule_providers::native::{METERS, Probes};
use ampoule_testkit::Suite;

use crate::rig::{Rig, limits, request};

/// One slot for programs; and the names of the run's namespace and host are the launcher's.
pub(crate) fn rig() -> Rig {
    Rig::with(1, Some(Probes { without: vec![Layer::UtsNamespace] }))
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
