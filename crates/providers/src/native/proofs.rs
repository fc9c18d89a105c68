//! Fences and meters proved by trying: probes of our own in sandboxes built as any other.

use std::{
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};

use ampoule_core::{
    Arguments, Code, Crossing, Error, ErrorKind, ExecuteRequest, ExecutionId, ExecutionResult,
    FenceProof, ForkProof, IsolationReport, Language, Layer, LimitKind, Limits, Meters,
    NetworkPolicy, Outcome, Profile, Protocol, Result, SelfTest, StopReason, TrustGroup, Usage,
};
use ampoule_jail::{MeterProbe, Origin, ProbeRequest, probed_fences};
use async_trait::async_trait;
use tokio::{net::TcpListener, sync::Mutex};

use super::{
    Native, NativeConfig, TemplateInfo, channels::RuntimeTraits, isolation_report, link::Link,
};

/// What hosts have and no sandbox shows.
const HOST_PATHS: [&str; 7] =
    ["/etc/shadow", "/etc/hostname", "/var", "/root", "/home", "/boot", "/sys"];
const MIB: u64 = 1 << 20;
/// A working directory that a probe fills soon.
const DISK: u64 = 52 * MIB;

/// The meters that can be tried.
pub const METERS: [LimitKind; 4] =
    [LimitKind::Memory, LimitKind::Processes, LimitKind::Cpu, LimitKind::Time];

/// What came of using more than a limit allows.
#[derive(Clone, Debug)]
pub struct MeterProof {
    /// The limit.
    pub limit: LimitKind,
    /// How the probe ended.
    pub outcome: Outcome,
    /// Who ended it: `kernel`, `watch`, `clock`; `nobody` if it was not stopped.
    pub by: &'static str,
    /// The rung of meters in force.
    pub meters: Meters,
    /// What it has used.
    pub usage: Usage,
}

impl MeterProof {
    /// Whether the limit held.
    pub fn holds(&self) -> bool {
        matches!(self.outcome, Outcome::LimitExceeded { limit } if limit == self.limit)
    }
}

/// What is known of the fences so far.
#[derive(Debug)]
pub(super) struct Proofs {
    /// The template of the probes, if there is one.
    template: Option<TemplateInfo>,
    /// The layers that a test leaves out.
    without: Vec<Layer>,
    /// The proofs, and the launcher that they are about.
    proved: Mutex<(Weak<Link>, Vec<FenceProof>)>,
}

impl Proofs {
    pub(super) fn new(config: &NativeConfig) -> Self {
        // The launcher's templates are the runtimes, and this one behind them.
        let index = u32::try_from(config.runtimes.len()).unwrap_or(u32::MAX);
        let traits =
            RuntimeTraits { protocol: Protocol::Frames, heap_aborts: false, probes: Vec::new() };
        let template =
            config.probes.as_ref().map(|_| TemplateInfo { index, traits, zygotes: None });
        let without = config.probes.iter().flat_map(|probes| probes.without.clone()).collect();
        Self { template, without, proved: Mutex::default() }
    }

    /// Says of a sandbox what a test leaves out.
    pub(super) fn leave_out(&self, isolation: &mut IsolationReport) {
        isolation.enforced.retain(|layer| !self.without.contains(layer));
        isolation.missing.extend(&self.without);
    }
}

#[async_trait]
impl SelfTest for Native {
    async fn prove(&self) -> Vec<FenceProof> {
        let untried = |error: &Error| {
            let why = error.chain();
            let all = probed_fences().map(|layer| FenceProof {
                layer,
                crossing: Crossing::Untried { why: why.clone() },
            });
            all.collect::<Vec<_>>()
        };
        // Whoever else asks meanwhile gets the same proofs.
        let mut proved = self.proofs.proved.lock().await;
        let link = match self.link().await {
            Ok(link) => link,
            Err(error) => return untried(&error),
        };
        if proved.0.ptr_eq(&Arc::downgrade(&link)) {
            return proved.1.clone();
        }
        let missing = isolation_report(&link, NetworkPolicy::None).missing;
        // Nobody accepts: a connection that waits is one.
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.ok();
        let port = listener.as_ref().and_then(|listener| Some(listener.local_addr().ok()?.port()));
        let paths: Vec<String> = HOST_PATHS
            .into_iter()
            .filter(|path| Path::new(path).exists())
            .map(str::to_owned)
            .collect();
        let mut proofs = Vec::new();
        for layer in probed_fences() {
            let crossing = if missing.contains(&layer) {
                Crossing::Absent
            } else {
                let asked = ProbeRequest::Fence { layer, port, paths: paths.clone() };
                self.try_fence(&asked)
                    .await
                    .unwrap_or_else(|error| Crossing::Untried { why: error.chain() })
            };
            proofs.push(FenceProof { layer, crossing });
        }
        // What could not be tried may be possible the next time.
        if !proofs.iter().any(|proof| matches!(proof.crossing, Crossing::Untried { .. })) {
            *proved = (Arc::downgrade(&link), proofs.clone());
        }
        proofs
    }

    async fn prove_forks(&self) -> Vec<ForkProof> {
        self.try_forks().await
    }
}

impl Native {
    /// Says which layers no sandbox has on this machine.
    pub async fn missing(&self) -> Result<Vec<Layer>> {
        Ok(isolation_report(&*self.link().await?, NetworkPolicy::None).missing)
    }

    /// Tries to use more than `limit` allows, in a sandbox with small limits.
    ///
    /// Of [`METERS`]; others are [`ErrorKind::Unsupported`].
    pub async fn try_meter(&self, limit: LimitKind) -> Result<MeterProof> {
        let wall = Duration::from_secs(10);
        let roomy = Limits { wall, memory: 64 * MIB, disk: DISK, ..Limits::default() };
        let (probe, limits) = match limit {
            LimitKind::Memory => (MeterProbe::Memory(2 * roomy.memory), roomy),
            LimitKind::Processes => {
                (MeterProbe::Processes(64), Limits { processes: 8, memory: 256 * MIB, ..roomy })
            }
            LimitKind::Cpu => {
                let cpu = Some(Duration::from_millis(100));
                (MeterProbe::Time, Limits { cpu, ..roomy })
            }
            LimitKind::Time => {
                (MeterProbe::Time, Limits { wall: Duration::from_millis(200), ..roomy })
            }
            LimitKind::Output | LimitKind::Disk => {
                return Err(Error::new(ErrorKind::Unsupported, "try a meter", "it has no probe"));
            }
        };
        let result = self.run_probe(&ProbeRequest::Meter(probe), limits).await?;
        let finished = result.finished;
        let held = matches!(finished.outcome, Outcome::LimitExceeded { .. });
        let by = match finished.evidence.stopped {
            _ if !held => "nobody",
            Some(StopReason::Memory | StopReason::Processes) => "watch",
            Some(StopReason::Wall | StopReason::Cpu) => "clock",
            _ => "kernel",
        };
        let meters = finished.evidence.meters;
        Ok(MeterProof { limit, outcome: finished.outcome, by, meters, usage: finished.usage })
    }

    async fn try_fence(&self, asked: &ProbeRequest) -> Result<Crossing> {
        let limits = Limits { wall: Duration::from_secs(10), disk: DISK, ..Limits::default() };
        let result = self.run_probe(asked, limits).await?;
        let crossing = result.value.as_deref().map(|value| serde_json::from_str(value.get()));
        match crossing {
            Some(Ok(crossing)) => Ok(crossing),
            _ => {
                let said = format!("{:?} {}", result.finished.outcome, result.stderr.trim());
                Err(Error::new(ErrorKind::Internal, "run a probe", said))
            }
        }
    }

    /// Runs a probe.
    async fn run_probe(&self, asked: &ProbeRequest, limits: Limits) -> Result<ExecutionResult> {
        let invalid = |what: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Internal, "ask a probe", what.to_string())
        };
        let template = self.proofs.template.clone().ok_or_else(|| invalid(&"there is none"))?;
        let arguments = serde_json::to_string(asked).map_err(|error| invalid(&error))?;
        let request = ExecuteRequest {
            id: ExecutionId::new("probe"),
            language: Language::new("probe"),
            // What is asked is in the arguments.
            code: Code::new("probe").map_err(|error| invalid(&error))?,
            arguments: Arguments::parse(&arguments).map_err(|error| invalid(&error))?,
            limits,
            network: NetworkPolicy::None,
            profile: Profile::Fast,
            trust_group: TrustGroup::default(),
        };
        self.run_as(template, Origin::Exec, request).await
    }
}
