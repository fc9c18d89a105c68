//! Fences proved by trying to cross them. Asked is not enforced, and read back is not tried.

use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Language, Layer};

/// What came of trying to cross a fence from inside of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Crossing {
    /// The fence held.
    Stopped {
        /// What was tried and how it was answered.
        by: String,
    },
    /// The probe got through: the fence is not enforced.
    Crossed {
        /// What it got at.
        how: String,
    },
    /// Nothing is known: the probe could not be run, or could not try.
    Untried {
        /// Why.
        why: String,
    },
    /// The probe looks through a layer that is missing here. That one's own line says so.
    Unseen {
        /// What is missing.
        why: String,
    },
    /// There is no such fence on this machine, and the isolation report of each run says so.
    Absent,
}

/// One fence and what came of trying to cross it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FenceProof {
    /// The fence.
    pub layer: Layer,
    /// What came of it.
    #[serde(flatten)]
    pub crossing: Crossing,
}

impl FenceProof {
    /// What keeps this fence from being relied on; `None` if it held, or if nobody relies on it.
    pub fn problem(&self) -> Option<String> {
        match &self.crossing {
            Crossing::Stopped { .. } | Crossing::Unseen { .. } | Crossing::Absent => None,
            Crossing::Crossed { how } => Some(format!("{} is not enforced: {how}", self.layer)),
            Crossing::Untried { why } => Some(format!("{} could not be tried: {why}", self.layer)),
        }
    }
}

/// What came of trying whether a runtime's interpreter can be forked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForkProof {
    /// The runtime's language.
    pub language: Language,
    /// The interpreter's version by its own account, if it came to that.
    pub version: Option<String>,
    /// How many probes passed in forks.
    pub passed: usize,
    /// Why no program is run in a fork; `None` if forks are as good as starts.
    pub problem: Option<String>,
}

/// A provider that can try its own fences. Most cannot: their walls are somebody else's.
#[async_trait]
pub trait SelfTest: Debug + Send + Sync + 'static {
    /// Tries to cross every fence, each in a sandbox built as any other.
    ///
    /// - No request can start a probe, and none takes the place of a run.
    /// - What was tried once is not tried again as long as the same processes build the sandboxes.
    async fn prove(&self) -> Vec<FenceProof>;

    /// Tries, for each runtime that wants it tried, whether forks of its interpreter are as good as
    /// starts. Until that is known its programs run in interpreters that were started.
    ///
    /// - What was tried once is not tried again.
    async fn prove_forks(&self) -> Vec<ForkProof> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fence_that_held_or_that_nobody_relies_on_is_no_problem() {
        let problem =
            |crossing| FenceProof { layer: Layer::Seccomp, crossing }.problem().unwrap_or_default();
        assert_eq!(problem(Crossing::Stopped { by: "EPERM".to_owned() }), "");
        assert_eq!(problem(Crossing::Absent), "");
        assert_eq!(problem(Crossing::Unseen { why: "no /proc".to_owned() }), "");
        assert_eq!(
            problem(Crossing::Crossed { how: "x".to_owned() }),
            "seccomp is not enforced: x"
        );
        assert_eq!(
            problem(Crossing::Untried { why: "y".to_owned() }),
            "seccomp could not be tried: y"
        );
    }

    #[test]
    fn a_proof_is_one_flat_object() {
        let proof =
            FenceProof { layer: Layer::Proc, crossing: Crossing::Crossed { how: "x".to_owned() } };
        let text = serde_json::to_string(&proof).unwrap();
        assert_eq!(text, r#"{"layer":"proc","verdict":"crossed","how":"x"}"#);
    }
}
