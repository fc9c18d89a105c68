//! Providers inside the world, and short words for running things on them.

use std::{path::PathBuf, time::Duration};

use ampoule_core::{
    Arguments, CancellationToken, Code, ExecuteRequest, ExecutionId, ExecutionResult, Language,
    Layer, Limits, NetworkPolicy, Outcome, Profile, Provider as _, ProviderExt as _, TrustGroup,
};
use ampoule_providers::{
    native::{Native, NativeConfig, NativeRuntime, NetworkConfig, Opening, Warm},
    runtimes::{Catalogue, default_data_dir},
};
use ampoule_testkit::Failure;
use tokio::runtime::Runtime;

use crate::world;

pub(crate) const SLOTS: u32 = 8;

pub(crate) struct Rig {
    pub(crate) runtime: Runtime,
    /// Nothing is listed.
    pub(crate) strict: Native,
    /// One private address is listed, one of the host, and one port.
    pub(crate) listing: Native,
    directory: PathBuf,
}

fn config(allow: &[&str]) -> NativeConfig {
    NativeConfig {
        probes: None,
        warm: Warm::default(),
        runtimes: Catalogue::builtin()
            .iter()
            .map(|folder| NativeRuntime::find(folder, &default_data_dir()).unwrap())
            .collect(),
        slots: SLOTS,
        cells: 0,
        max_wall: Duration::from_secs(60),
        max_memory: 1 << 30,
        id_base: NativeConfig::DEFAULT_ID_BASE,
        // An ordinary user has none on most machines.
        allow_missing: vec![Layer::Cgroup],
        network: NetworkConfig {
            allow: allow.iter().map(|text| text.parse::<Opening>().unwrap()).collect(),
        },
    }
}

pub(crate) fn request(language: &str, code: &str, network: NetworkPolicy) -> ExecuteRequest {
    ExecuteRequest {
        id: ExecutionId::new("test"),
        language: Language::new(language),
        code: Code::new(code).unwrap(),
        arguments: Arguments::none(),
        limits: Limits { wall: Duration::from_secs(20), ..Limits::default() },
        network,
        profile: Profile::Fast,
        trust_group: TrustGroup::default(),
    }
}

impl Rig {
    pub(crate) fn start(directory: PathBuf) -> Self {
        let configs = [config(&[]), config(&[world::PRIVATE, world::HOST[0], world::LISTED_PORT])];
        // Both before there are threads.
        let keepers = configs.each_ref().map(|config| Native::spawn(config).unwrap());
        let runtime = Runtime::new().unwrap();
        let [strict, listing] = keepers;
        let connect = |keeper, config| runtime.block_on(Native::connect(keeper, config)).unwrap();
        let (strict, listing) = (connect(strict, &configs[0]), connect(listing, &configs[1]));
        Self { runtime, strict, listing, directory }
    }

    /// What a provider without a helper says of a request that wants one.
    pub(crate) fn refusal() -> String {
        let config = config(&[]);
        let keeper = Native::spawn(&config).unwrap();
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let native = Native::connect(keeper, &config).await.unwrap();
            let open = request("python", "def main(): return 1", NetworkPolicy::Open);
            let refused = native.create(open.spec()).await.unwrap_err();
            let none = request("python", "def main(): return 1", NetworkPolicy::None);
            let result = native.run(none, CancellationToken::new()).await.unwrap();
            assert_eq!(result.finished.outcome, Outcome::Succeeded);
            native.shutdown().await.unwrap();
            format!("{:?}: {}", refused.kind(), refused.message())
        })
    }

    /// Runs a program with a way out.
    pub(crate) fn open(&self, language: &str, code: &str) -> Result<ExecutionResult, Failure> {
        self.run_on(&self.strict, language, code, NetworkPolicy::Open)
    }

    pub(crate) fn run_on(
        &self,
        native: &Native,
        language: &str,
        code: &str,
        network: NetworkPolicy,
    ) -> Result<ExecutionResult, Failure> {
        let run = native.run(request(language, code, network), CancellationToken::new());
        self.runtime.block_on(run).map_err(|error| Failure::from(error.chain()))
    }

    /// Who has come to the servers at `address`.
    pub(crate) fn visits(&self, address: &str) -> Result<Vec<String>, Failure> {
        Ok(world::visits(&self.directory, address)?)
    }

    pub(crate) fn stop(&self) {
        for native in [&self.strict, &self.listing] {
            self.runtime.block_on(native.shutdown()).unwrap();
        }
        assert_eq!(ampoule_jail::leaks().unwrap(), []);
    }
}

/// The value of a successful run, without spaces.
pub(crate) fn value(result: ExecutionResult) -> Result<String, Failure> {
    assert_eq!(result.finished.outcome, Outcome::Succeeded, "{result:?}");
    Ok(result.value.ok_or("no value")?.get().replace(' ', ""))
}
