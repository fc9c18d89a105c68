//! One native provider for all tests of this program, and short words for running things on it.

use std::time::Duration;

use ampoule_core::{
    Arguments, CancellationToken, Code, ExecuteRequest, ExecutionId, ExecutionResult, Language,
    Layer, Limits, NetworkPolicy, Profile, Provider as _, ProviderExt as _, TrustGroup,
};
use ampoule_providers::{
    native::{Native, NativeConfig, NativeRuntime, NetworkConfig, Probes, Warm},
    runtimes::{Catalogue, RuntimeFolder, default_data_dir},
};
use ampoule_testkit::Failure;
use tokio::runtime::Runtime;

pub(crate) struct Rig {
    pub(crate) runtime: Runtime,
    pub(crate) native: Native,
}

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

impl Rig {
    pub(crate) fn start() -> Self {
        Self::with(24, None)
    }

    /// One with so many slots, that tries fences if it is told how.
    pub(crate) fn with(slots: u32, probes: Option<Probes>) -> Self {
        let folders: Vec<_> = Catalogue::builtin().iter().cloned().collect();
        Self::of(&folders, slots, probes)
    }

    /// One of these runtimes.
    pub(crate) fn of(folders: &[RuntimeFolder], slots: u32, probes: Option<Probes>) -> Self {
        let config = NativeConfig {
            runtimes: folders
                .iter()
                .map(|folder| NativeRuntime::find(folder, &default_data_dir()).unwrap())
                .collect(),
            slots,
            max_wall: Duration::from_secs(60),
            max_memory: 1 << 30,
            id_base: NativeConfig::DEFAULT_ID_BASE,
            // An ordinary user may have none, and then the watch has to do.
            allow_missing: vec![Layer::Cgroup],
            network: NetworkConfig::default(),
            probes,
            warm: Warm { zygotes: true, cells: 1, disk: 100 << 20, memory: 256 << 20 },
        };
        let keeper = Native::spawn(&config).unwrap();
        let runtime = Runtime::new().unwrap();
        let native = runtime.block_on(Native::connect(keeper, &config)).unwrap();
        Self { runtime, native }
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
        let run = self.native.run(request(language, code, limits), CancellationToken::new());
        self.runtime.block_on(run).map_err(|error| Failure::from(error.chain()))
    }

    pub(crate) fn stop(&self) {
        self.runtime.block_on(self.native.shutdown()).unwrap();
        let spec = request("python", "def main(): return 1", limits()).spec();
        let late = self.runtime.block_on(self.native.create(spec));
        assert!(late.is_err(), "a sandbox after the shutdown");
        assert_eq!(ampoule_jail::leaks().unwrap(), []);
    }
}
