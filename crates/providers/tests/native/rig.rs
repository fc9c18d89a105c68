//! One native provider for all tests of this program, and short words for running things on it.

use std::time::Duration;

use ampoule_core::{
    Arguments, CancellationToken, Code, Collector, ExecuteRequest, ExecutionId, ExecutionResult,
    Language, Layer, Limits, NetworkPolicy, Profile, Provider as _, SandboxSpec, TemplateName,
    TrustGroup,
};
use ampoule_providers::{
    native::{Native, NativeConfig, NativeRuntime, NetworkConfig, Probes, Warm},
    runtimes::{Catalogue, RuntimeFolder, default_data_dir},
};
use ampoule_testkit::{Failure, children_of};
use tokio::runtime::Runtime;

pub(crate) struct Rig {
    pub(crate) runtime: Runtime,
    pub(crate) native: Native,
    /// The keeper's pid.
    keeper: u32,
}

/// What most tests run with.
pub(crate) const WARM: Warm = Warm {
    zygotes: true,
    cells: 1,
    disk: 100 << 20,
    memory: 256 << 20,
    most_forks: 5000,
    most_age: Duration::from_secs(900),
};

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Limits that make a misbehaving program end soon.
pub(crate) fn limits() -> Limits {
    Limits { wall: Duration::from_secs(20), ..Limits::default() }
}

pub(crate) fn request(language: &str, code: &str, limits: Limits) -> ExecuteRequest {
    ExecuteRequest {
        id: ExecutionId::new("test"),
        language: Language::new(language),
        code: Code::new(code).unwrap(),
        arguments: Arguments::none(),
        limits,
        network: NetworkPolicy::None,
        profile: Profile::Fast,
        trust_group: TrustGroup::default(),
    }
}

/// Every runtime of the binary, with what is installed.
pub(crate) fn runtimes() -> Vec<NativeRuntime> {
    found(&Catalogue::builtin().iter().cloned().collect::<Vec<_>>())
}

/// Runtimes of these folders, with what is installed, as a service has them.
pub(crate) fn found(folders: &[RuntimeFolder]) -> Vec<NativeRuntime> {
    let find = |folder| {
        let mut runtime = NativeRuntime::find(folder, &default_data_dir()).unwrap();
        runtime.compile().unwrap();
        runtime
    };
    folders.iter().map(find).collect()
}

impl Rig {
    pub(crate) fn start() -> Self {
        Self::with(24, WARM, None)
    }

    /// One with so many slots, that tries fences if it is told how.
    pub(crate) fn with(slots: u32, warm: Warm, probes: Option<Probes>) -> Self {
        Self::of(runtimes(), slots, warm, probes)
    }

    /// One with runtimes of its own.
    pub(crate) fn of(
        runtimes: Vec<NativeRuntime>,
        slots: u32,
        warm: Warm,
        probes: Option<Probes>,
    ) -> Self {
        let config = NativeConfig {
            runtimes,
            slots,
            max_wall: Duration::from_secs(60),
            max_memory: 1 << 30,
            id_base: NativeConfig::DEFAULT_ID_BASE,
            // An ordinary user may have none, and then the watch has to do.
            allow_missing: vec![Layer::Cgroup],
            network: NetworkConfig::default(),
            probes,
            warm,
        };
        let before = children_of(std::process::id());
        let keeper = Native::spawn(&config).unwrap();
        let mut children = children_of(std::process::id()).into_iter();
        let pid = children.find(|pid| !before.contains(pid)).unwrap();
        let runtime = Runtime::new().unwrap();
        let native = runtime.block_on(Native::connect(keeper, &config)).unwrap();
        Self { runtime, native, keeper: pid }
    }

    /// The launcher's pid, if there is one now.
    pub(crate) fn launcher(&self) -> Option<u32> {
        children_of(self.keeper).first().copied()
    }

    pub(crate) fn run(&self, language: &str, code: &str) -> Result<ExecutionResult, Failure> {
        self.run_within(language, code, limits())
    }

    pub(crate) fn run_within(
        &self,
        language: &str,
        code: &str,
        limits: Limits,
    ) -> Result<ExecutionResult, Failure> {
        self.carry_out(request(language, code, limits), None)
    }

    /// Runs a request in a sandbox of a template.
    pub(crate) fn carry_out(
        &self,
        request: ExecuteRequest,
        template: Option<&str>,
    ) -> Result<ExecutionResult, Failure> {
        let spec = SandboxSpec { template: template.map(TemplateName::new), ..request.spec() };
        let run = async {
            let mut sandbox = self.native.create(spec).await?;
            let events = sandbox.execute(request, CancellationToken::new()).await?;
            let result = Collector::collect(events).await;
            sandbox.destroy().await?;
            result
        };
        let result: ampoule_core::Result<_> = self.runtime.block_on(run);
        result.map_err(|error| Failure::from(error.chain()))
    }

    pub(crate) fn close(&self) {
        self.runtime.block_on(self.native.shutdown()).unwrap();
    }

    pub(crate) fn stop(&self) {
        self.close();
        let spec = request("python", "def main(): return 1", limits()).spec();
        let late = self.runtime.block_on(self.native.create(spec));
        assert!(late.is_err(), "a sandbox after the shutdown");
        assert_eq!(ampoule_jail::leaks().unwrap(), []);
    }
}
