//! What a provider can do here and now, graded, because a cloud cannot do what the kernel lets us do.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{Code, Language, Layer, NetworkPolicy, TemplateHint, TemplateName, template::suiting};

/// How strong the wall around a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IsolationLevel {
    /// Nothing but a child process.
    None,
    /// Kernel namespaces, system call filter, no privilege; the kernel is shared.
    Process,
    /// A kernel in user space between the program and the host's.
    UserKernel,
    /// A virtual machine.
    MicroVm,
}

/// Where the facts of a verdict come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceGrade {
    /// Kernel counters and wait statuses that we read ourselves.
    Kernel,
    /// A daemon's word (Docker).
    Daemon,
    /// The remote side's claim.
    Claimed,
}

/// How the value travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueChannel {
    /// A channel of its own.
    Separate,
    /// A marker with a random value per run, on stdout.
    Nonce,
    /// Mixed with the output.
    Shared,
}

/// What cancelling ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelGrade {
    /// The whole process tree, before the answer.
    Tree,
    /// The whole instance.
    Instance,
    /// Nothing.
    None,
}

/// What `destroy` promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DestroyGrade {
    /// When it returns, nothing is left.
    Confirmed,
    /// The removal was asked for.
    Requested,
}

/// What a provider can do, after probing.
#[derive(Clone, Debug, Serialize)]
pub struct Capabilities {
    /// The languages that have an interpreter and a runner here.
    pub languages: Vec<Language>,
    /// What sandboxes can be made from beside the bare template of each language, and when that
    /// would suit.
    pub templates: Vec<TemplateHint>,
    /// The wall around a run.
    pub isolation: IsolationLevel,
    /// Where the facts of a verdict come from.
    pub evidence: EvidenceGrade,
    /// How the value travels.
    pub value_channel: ValueChannel,
    /// What cancelling ends.
    pub cancel: CancelGrade,
    /// What `destroy` promises.
    pub destroy: DestroyGrade,
    /// Whether the output of a failed program is kept.
    pub output_on_failure: bool,
    /// Whether output arrives while the program runs.
    pub stream_output: bool,
    /// Whether artifacts come back.
    pub artifacts: bool,
    /// The network policies that can be held here.
    pub networks: Vec<NetworkPolicy>,
    /// Why [`NetworkPolicy::Open`] cannot be held here, with the fix.
    pub network_hurdle: Option<String>,
    /// The longest wall clock that can be asked for.
    pub max_wall: Duration,
    /// The most memory that can be asked for, in bytes.
    pub max_memory: u64,
    /// The least memory that the interpreter of a language starts with, in bytes.
    pub min_memory: BTreeMap<Language, u64>,
}

impl Capabilities {
    /// The template that suits a source, by the modules that it imports: the first that has any of
    /// them ready. None is the bare one.
    pub fn template_for(&self, language: &Language, code: &Code) -> Option<TemplateName> {
        suiting(&self.templates, language, code).cloned()
    }

    /// The least memory that a run of `language` can be given, in bytes.
    pub fn least_memory(&self, language: &Language) -> u64 {
        self.min_memory.get(language).copied().unwrap_or(0)
    }
}

/// Which provider this is; never secrets.
#[derive(Clone, Debug, Serialize)]
pub struct ProviderInfo {
    /// The provider type: `native`, `local`, `docker`, …
    pub provider_type: &'static str,
    /// The name that the operator gave it.
    pub name: String,
}

/// Who counts and limits a run's memory, processes and CPU time: the rung of the ladder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Meters {
    /// Nobody.
    #[default]
    None,
    /// The launcher looks every few milliseconds, and the kernel's limits per process and user hold
    /// in between.
    Watch,
    /// The kernel, by control groups v1.
    CgroupV1,
    /// The kernel, by control groups v2.
    CgroupV2,
}

impl Meters {
    /// The rung as a stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Watch => "watch",
            Self::CgroupV1 => "cgroup_v1",
            Self::CgroupV2 => "cgroup_v2",
        }
    }
}

/// What is enforced around one sandbox.
#[derive(Clone, Debug, Serialize)]
pub struct IsolationReport {
    /// The level that the enforced layers add up to.
    pub level: IsolationLevel,
    /// Layers that were put up and read back.
    pub enforced: Vec<Layer>,
    /// Layers that are missing here, because this machine has none or the operator gave them up.
    pub missing: Vec<Layer>,
    /// Who counts and limits memory and processes.
    pub meters: Meters,
    /// The network policy in force.
    pub network: NetworkPolicy,
}
