//! The native provider: fresh sandboxes built by the kernel, with nothing to install but the
//! interpreters.
//!
//! ```text
//! Native --(watch)--> Link ---> launcher        one Link per launcher; a dead one is replaced
//!   create            |  Prepare / Prepared + descriptors, then the runner's ready byte
//!   NativeSandbox     |  Lease, Kill, Release
//!     execute         +- pipes and the listener go straight to the sandbox, not over the Link
//! ```
//!
//! What a sandbox is and how it is built is `ampoule_jail`'s matter; here is the asynchronous side
//! of it: descriptors become streams of events, counters become evidence.

mod channels;
mod config;
mod error;
mod frame;
mod groups;
mod link;
mod output;
mod proofs;
mod run;
mod sandbox;
mod selftest;
mod stages;
mod text_frame;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use ampoule_core::{
    CancelGrade, CancellationToken, Capabilities, Collector, DestroyGrade, Error, ErrorKind,
    EvidenceGrade, ExecuteRequest, ExecutionResult, IsolationLevel, IsolationReport, Language,
    Layer, Meters, NetworkPolicy, Provider, ProviderInfo, Result, Sandbox, SandboxSpec,
    TemplateHint, TemplateName, ValueChannel,
};
use ampoule_jail::{CellLimits, Conditions, Keeper, Origin};
use async_trait::async_trait;
use tokio::{sync::watch, task::JoinHandle};

pub use ampoule_jail::{AddressRange, BadRange, Opening, Warm};
use channels::RuntimeTraits;
pub use config::{NativeConfig, NativeRuntime, NetworkConfig, Probes};
use groups::Groups;
use link::{Link, LinkState};
pub use proofs::{METERS, MeterProof};
use sandbox::NativeSandbox;
use selftest::{ForkTests, Zygotes};

/// How long `create` waits for a launcher that is being replaced, and for an interpreter to start.
const PATIENCE: Duration = Duration::from_secs(10);
/// A sandbox that could not be built in less is tried once more.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A template's place in the launcher, and what its programs need.
#[derive(Clone, Debug)]
struct TemplateInfo {
    index: u32,
    traits: RuntimeTraits,
    /// Its warm interpreters, if it has any.
    zygotes: Option<Zygotes>,
}

impl TemplateInfo {
    fn new(runtime: &NativeRuntime, index: u32, warm: &Warm) -> Self {
        let manifest = &runtime.folder.manifest;
        let traits = RuntimeTraits {
            protocol: manifest.protocol,
            heap_aborts: manifest.heap_aborts,
            probes: manifest.probes.clone(),
        };
        let names = runtime.templates().iter();
        let names = names.map(|template| TemplateName::new(&template.name));
        let zygotes = manifest.zygote.as_ref().filter(|_| warm.zygotes).map(|zygote| Zygotes {
            templates: names.collect(),
            memory: zygote.bounds_its_heap().then_some(warm.memory),
            trusted: Arc::new(AtomicBool::new(zygote.selftest.is_none())),
        });
        Self { index, traits, zygotes }
    }
}

/// The native provider.
#[derive(Debug)]
pub struct Native {
    capabilities: Arc<Capabilities>,
    templates: BTreeMap<Language, TemplateInfo>,
    groups: Groups,
    proofs: proofs::Proofs,
    fork_tests: ForkTests,
    link: watch::Receiver<LinkState>,
    tender: std::sync::Mutex<Option<JoinHandle<()>>>,
    closing: CancellationToken,
}

impl Native {
    /// Starts the processes that build sandboxes. To be called before this process has threads.
    ///
    /// They keep what they need of the rights that this process has; the caller may then give its own
    /// up with [`ampoule_jail::give_up_rights`], for the id of [`NativeConfig::manager_id`].
    pub fn spawn(config: &NativeConfig) -> Result<Keeper> {
        Keeper::spawn(&config.launcher()).map_err(error::spawn)
    }

    /// Connects to the started processes and waits until they can build sandboxes.
    pub async fn connect(keeper: Keeper, config: &NativeConfig) -> Result<Self> {
        let closing = CancellationToken::new();
        let (link, tender) = link::tend(keeper, closing.clone())?;
        let mut capabilities = capabilities(config);
        let templates = config.runtimes.iter().zip(0..).map(|(runtime, index)| {
            (runtime.folder.language().clone(), TemplateInfo::new(runtime, index, &config.warm))
        });
        let templates = templates.collect();
        let mut native = Self {
            capabilities: Arc::new(capabilities.clone()),
            fork_tests: ForkTests::new(config, &templates),
            templates,
            groups: Groups::default(),
            proofs: proofs::Proofs::new(config),
            link,
            tender: std::sync::Mutex::new(Some(tender)),
            closing,
        };
        let link = native.link().await?;
        if link.meters() == Meters::Watch && !config.allow_missing.contains(&Layer::Cgroup) {
            native.shutdown().await?;
            return Err(error::no_meters());
        }
        capabilities.network_hurdle = link.conditions().network_hurdle.clone();
        if capabilities.network_hurdle.is_none() {
            capabilities.networks.push(NetworkPolicy::Open);
        }
        native.capabilities = Arc::new(capabilities);
        Ok(native)
    }

    /// Builds a sandbox of a template.
    async fn build(
        &self,
        template: TemplateInfo,
        origin: Origin,
        spec: SandboxSpec,
    ) -> Result<NativeSandbox> {
        let limits = CellLimits {
            memory: spec.limits.memory,
            disk: spec.limits.disk,
            processes: spec.limits.processes,
            millicpus: spec.limits.millicpus,
        };
        let mut link = self.link().await?;
        let began = Instant::now();
        let mut prepared = link.prepare(template.index, origin, limits, spec.network).await;
        let failed_at_once = matches!(&prepared, Err(error) if error.kind() == ErrorKind::Internal)
            && began.elapsed() < AT_ONCE;
        if failed_at_once || (prepared.is_err() && link.is_closed()) {
            // No program was near it. The next launcher is on its way; or what it was to be built of,
            // a spare cell, was killed a moment ago.
            link = self.link().await?;
            prepared = link.prepare(template.index, origin, limits, spec.network).await;
        }
        let prepared = prepared?;
        let mut isolation = isolation_report(&link, spec.network);
        self.proofs.leave_out(&mut isolation);
        let zygotes = template.zygotes.filter(|_| matches!(origin, Origin::Exec));
        let outdated = zygotes.and_then(|zygotes| zygotes.outdated(&spec));
        let sandbox =
            NativeSandbox::start(prepared, spec, isolation, template.traits, PATIENCE).await?;
        Ok(sandbox.until(outdated))
    }

    /// Where the interpreter of a sandbox comes from.
    fn origin(&self, template: &TemplateInfo, spec: &SandboxSpec) -> Origin {
        match &template.zygotes {
            Some(zygotes) if zygotes.suit(spec) => {
                let is_it = |name: &TemplateName| Some(name) == spec.template.as_ref();
                // The bare one is the first.
                let zygote = zygotes.templates.iter().position(is_it).map_or(0, |place| place + 1);
                let zygote = u32::try_from(zygote).unwrap_or(0);
                Origin::Zygote { zygote, group: self.groups.number(&spec.trust_group) }
            }
            _ => Origin::Exec,
        }
    }

    /// Runs a program of ours as any other, but for the gate and the queue.
    async fn run_as(
        &self,
        template: TemplateInfo,
        origin: Origin,
        request: ExecuteRequest,
    ) -> Result<ExecutionResult> {
        let mut sandbox = self.build(template, origin, request.spec()).await?;
        let collected = match sandbox.execute(request, CancellationToken::new()).await {
            Ok(events) => Collector::collect(events).await,
            Err(error) => Err(error),
        };
        let destroyed = Box::new(sandbox).destroy().await;
        let result = collected?;
        destroyed?;
        Ok(result)
    }

    /// The launcher that is there now, or the next one.
    async fn link(&self) -> Result<Arc<Link>> {
        let mut watched = self.link.clone();
        let found = tokio::time::timeout(
            PATIENCE,
            watched.wait_for(|state| match state {
                LinkState::Starting => false,
                LinkState::Up(link) => !link.is_closed(),
                LinkState::Down(_) => true,
            }),
        )
        .await;
        match found {
            Ok(Ok(state)) => match &*state {
                LinkState::Up(link) => Ok(Arc::clone(link)),
                LinkState::Down(reason) => Err(error::launcher_down(reason)),
                LinkState::Starting => Err(error::launcher_down("it is still starting")),
            },
            Ok(Err(_)) => Err(error::launcher_down("it has been shut down")),
            Err(_) => Err(error::launcher_down("it did not start in time")),
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // Whoever forgot to shut down leaves nothing either.
        self.closing.cancel();
    }
}

fn capabilities(config: &NativeConfig) -> Capabilities {
    let min_memory = config
        .runtimes
        .iter()
        .map(|runtime| (runtime.folder.language().clone(), runtime.folder.manifest.least_memory()))
        .collect();
    Capabilities {
        languages: config
            .runtimes
            .iter()
            .map(|runtime| runtime.folder.language().clone())
            .collect(),
        templates: templates(config),
        isolation: IsolationLevel::Process,
        evidence: EvidenceGrade::Kernel,
        value_channel: ValueChannel::Separate,
        cancel: CancelGrade::Tree,
        destroy: DestroyGrade::Confirmed,
        output_on_failure: true,
        stream_output: true,
        artifacts: true,
        networks: vec![NetworkPolicy::None],
        network_hurdle: None,
        max_wall: config.max_wall,
        max_memory: config.max_memory,
        min_memory,
    }
}

/// The templates beside the bare ones, in the manifests' order.
fn templates(config: &NativeConfig) -> Vec<TemplateHint> {
    let of_runtime = |runtime: &NativeRuntime| -> Vec<_> {
        let hint = |template: &ampoule_core::ManifestTemplate| TemplateHint {
            language: runtime.folder.language().clone(),
            template: TemplateName::new(&template.name),
            imports: template.imports.clone(),
        };
        runtime.templates().iter().map(hint).collect()
    };
    config.runtimes.iter().flat_map(of_runtime).collect()
}

#[async_trait]
impl Provider for Native {
    fn info(&self) -> ProviderInfo {
        ProviderInfo { provider_type: "native", name: "native".to_owned() }
    }

    fn capabilities(&self) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn health(&self) -> Result<()> {
        self.link().await.map(drop)
    }

    async fn create(&self, spec: SandboxSpec) -> Result<Box<dyn Sandbox>> {
        crate::gate::check(&self.capabilities, &spec)?;
        let template = self.templates.get(&spec.language).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "create a sandbox", "no such template")
        })?;
        let origin = self.origin(&template, &spec);
        Ok(Box::new(self.build(template, origin, spec).await?))
    }

    async fn shutdown(&self) -> Result<()> {
        self.closing.cancel();
        let tender = self.tender.lock().ok().and_then(|mut tender| tender.take());
        if let Some(tender) = tender {
            tender.await.map_err(|error| {
                Error::new(ErrorKind::Internal, "shut down the native provider", "its task died")
                    .with_source(error)
            })?;
        }
        Ok(())
    }
}

/// What the jail put up and read back for every sandbox of this launcher.
fn isolation_report(link: &Link, network: NetworkPolicy) -> IsolationReport {
    const ALWAYS: [Layer; 13] = [
        Layer::UserNamespace,
        Layer::PidNamespace,
        Layer::MountNamespace,
        Layer::NetworkNamespace,
        Layer::IpcNamespace,
        Layer::UtsNamespace,
        Layer::CgroupNamespace,
        Layer::ReadOnlyRoot,
        Layer::ScratchQuota,
        Layer::NoLinuxCaps,
        Layer::NoNewPrivs,
        Layer::Seccomp,
        Layer::Rlimits,
    ];
    let Conditions { landlock_abi, meters, two_ids, own_devices, proc, .. } = *link.conditions();
    let depends = [
        (landlock_abi > 0, Layer::Landlock),
        (proc, Layer::Proc),
        // They are set through a `/proc` of our own.
        (proc, Layer::KernelQuotas),
        (link.meters() != Meters::Watch, Layer::Cgroup),
        (meters.cpu, Layer::CpuMeter),
        (meters.swap, Layer::SwapMeter),
        (two_ids, Layer::OwnIds),
        (own_devices, Layer::OwnDevices),
    ];
    let mut enforced = ALWAYS.to_vec();
    let mut missing = Vec::new();
    for (there, layer) in depends {
        if there { &mut enforced } else { &mut missing }.push(layer);
    }
    IsolationReport {
        level: IsolationLevel::Process,
        enforced,
        missing,
        meters: link.meters(),
        network,
    }
}
