//! The native provider against the laws of the contract.

use std::{process::ExitCode, sync::Arc, time::Duration};

use ampoule_core::{Layer, SelfTest as _};
use ampoule_providers::{
    native::{Native, NativeConfig, NativeRuntime, NetworkConfig, Warm},
    runtimes::{Catalogue, default_data_dir},
};
use ampoule_testkit::conformance::{self, Oracle, Subject};
use tokio::runtime::Runtime;

/// The host: its processes, and the jail's own list of what nobody owns.
#[derive(Debug)]
struct Host;

impl Oracle for Host {
    fn processes_with(&self, word: &str) -> Option<Vec<String>> {
        Some(ampoule_testkit::processes_with(word))
    }

    fn left_over(&self) -> Vec<String> {
        match ampoule_jail::leaks() {
            Ok(leaks) => leaks.iter().map(|leak| format!("{leak:?}")).collect(),
            Err(error) => vec![error.to_string()],
        }
    }
}

fn main() -> ExitCode {
    // Launcher processes are this very program, started again.
    ampoule_jail::entry();
    let config = NativeConfig {
        runtimes: Catalogue::builtin()
            .iter()
            .map(|folder| NativeRuntime::find(folder, &default_data_dir()).unwrap())
            .collect(),
        slots: 16,
        max_wall: Duration::from_secs(60),
        max_memory: 1 << 30,
        id_base: NativeConfig::DEFAULT_ID_BASE,
        // An ordinary user may have none, and then the watch has to do.
        allow_missing: vec![Layer::Cgroup],
        network: NetworkConfig::default(),
        probes: None,
        warm: Warm {
            zygotes: true,
            cells: 2,
            disk: 100 << 20,
            memory: 256 << 20,
            ..Warm::default()
        },
    };
    let keeper = Native::spawn(&config).unwrap();
    let runtime = Runtime::new().unwrap();
    let native = runtime.block_on(Native::connect(keeper, &config)).unwrap();
    // So that programs in JavaScript run as a service runs them.
    runtime.block_on(native.prove_forks());
    conformance::run(
        Subject::new(runtime.handle(), Arc::new(native))
            .oracle(Arc::new(Host))
            // Its platform cannot be made to fail by a program.
            .leaves_out(&["one_finished_last::a_failure_of_the_platform_is_an_err"]),
    )
}
