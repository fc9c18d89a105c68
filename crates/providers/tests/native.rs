//! The native provider against the real kernel: what programs do, and what is said of it.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use ampoule_core::{
    Arguments, CancellationToken, Code, ExecuteRequest, ExecutionId, ExecutionResult, Language,
    LimitKind, Limits, NetworkPolicy, Outcome, Provider, ProviderExt,
};
use ampoule_providers::native::{Native, NativeConfig, NativeRuntime};
use ampoule_testkit::{Failure, Suite};
use tokio::runtime::Runtime;

struct Rig {
    runtime: Runtime,
    native: Native,
}

impl Rig {
    fn run(&self, language: &str, code: &str, limits: Limits) -> Result<ExecutionResult, Failure> {
        let request = ExecuteRequest {
            id: ExecutionId::new("test"),
            language: Language::new(language),
            code: Code::new(code)?,
            arguments: Arguments::none(),
            limits,
            network: NetworkPolicy::None,
        };
        let run = self.native.run(request, CancellationToken::new());
        self.runtime.block_on(run).map_err(|error| Failure::from(error.chain()))
    }
}

fn main() -> ExitCode {
    ampoule_jail::entry();
    let read = |path: &str| std::fs::read_to_string(format!("{}/../../runtimes/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let runtime = |folder: &str, interpreter: &str| {
        let manifest: ampoule_core::RuntimeManifest = toml::from_str(&read(&format!("{folder}/manifest.toml"))).unwrap();
        NativeRuntime {
            runner: read(&format!("{folder}/{}", manifest.runner)),
            manifest,
            interpreter: interpreter.into(),
            prefix: None,
            library_path: None,
            packages: None,
        }
    };
    let config = NativeConfig {
        runtimes: vec![runtime("python", "/usr/bin/python3"), runtime("nodejs", "/usr/bin/node")],
        slots: 16,
        max_wall: Duration::from_secs(60),
        max_memory: 1 << 30,
        id_base: NativeConfig::DEFAULT_ID_BASE,
    };
    let keeper = Native::spawn(&config).unwrap();
    let runtime = Runtime::new().unwrap();
    let native = runtime.block_on(Native::connect(keeper, &config)).unwrap();
    let rig = Arc::new(Rig { runtime, native });
    let mut suite = Suite::new();
    for (language, code) in [
        ("python", "def main():\n  print('hi')\n  return {'a': [1, None]}"),
        ("javascript", "function main() { console.log('hi'); return {a: [1, null]} }"),
    ] {
        let rig = Arc::clone(&rig);
        suite.control(format!("{language}_hello"), move || {
            let result = rig.run(language, code, Limits::default())?;
            assert_eq!(result.finished.outcome, Outcome::Succeeded, "{result:?}");
            assert_eq!(result.value.unwrap().get().replace(' ', ""), r#"{"a":[1,null]}"#);
            assert_eq!(result.stdout, "hi\n");
            println!("{:?}", result.finished);
            Ok(())
        });
    }
    let shut = Arc::clone(&rig);
    suite.run(move || {
        shut.runtime.block_on(shut.native.shutdown()).unwrap();
        println!("{:?}", ampoule_jail::leaks());
    })
}
