//! Forks of a warm Node.js, which nobody promises: they are used when the self-test has passed, and
//! only then.

use std::sync::Arc;

use ampoule_core::{
    CancellationToken, ExecuteRequest, ExecutionResult, LimitKind, Limits, Outcome, Profile,
    Provider as _, ProviderExt as _, SelfTest as _,
};
use ampoule_providers::runtimes::Catalogue;
use ampoule_testkit::{Failure, Suite};

use crate::rig::{Rig, WARM, found, limits, request};

/// Two self-tests that do not pass: one finds what forks alone do wrong, one a number that repeats.
const REFUSALS: [(&str, &str, &str); 2] = [
    (
        "a_probe_that_fails_in_forks",
        "const main = () => ({ passed: FORKED ? [] : ['it'], wrong: FORKED ? { it: 'on purpose' } : {}, fresh: {} });",
        "the probe `it` fails in a fork: on purpose",
    ),
    (
        "a_value_that_repeats",
        "const main = () => ({ passed: ['it'], wrong: {}, fresh: { it: 4 } });",
        "`it` is the same in two forks",
    ),
];

/// What only a fork sees: its interpreter was started before the process was.
const FORKED: &str =
    "const FORKED = /--zygote/.test(require('fs').readFileSync('/proc/self/cmdline', 'utf8'));\n";

fn forked(result: &ExecutionResult) -> bool {
    result.finished.evidence.memory.inherited.is_some()
}

pub(crate) fn add(suite: &mut Suite, rig: &Arc<Rig>) {
    let shared = Arc::clone(rig);
    suite.test("node_forks::the_self_test_has_passed_and_forks_differ", move || {
        let proofs = shared.runtime.block_on(shared.native.prove_forks());
        let node = proofs.iter().find(|proof| proof.language.as_str() == "javascript");
        let node = node.ok_or("nothing was tried")?;
        assert_eq!(node.problem, None);
        assert!(node.passed >= 25, "{node:?}");
        let code = "function main() { return [process.pid, process.version, Math.random(), require('crypto').randomUUID()] }";
        let mut values = Vec::new();
        for _ in 0..2 {
            let result = shared.run("javascript", code)?;
            assert!(forked(&result), "{result:?}");
            let value = result.value.ok_or("no value")?;
            values.push(serde_json::from_str::<(u32, String, f64, String)>(value.get())?);
        }
        let [one, other] = &values[..] else { unreachable!() };
        assert_eq!((one.0, other.0), (2, 2));
        assert_eq!(Some(&one.1), node.version.as_ref());
        assert!(one.2.to_bits() != other.2.to_bits() && one.3 != other.3, "{values:?}");
        Ok(())
    });

    let shared = Arc::clone(rig);
    suite.test("node_forks::threads_children_and_wasm_work_in_a_fork", move || {
        let code = "
            const { Worker } = require('worker_threads');
            const { execFileSync } = require('child_process');
            const WASM = new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7f, 3, 2, 1, 0,
                7, 5, 1, 1, 0x66, 0, 0, 10, 6, 1, 4, 0, 0x41, 42, 11]);
            async function main() {
                const worker = new Worker('require(\"worker_threads\").parentPort.postMessage(6 * 7)', { eval: true });
                const fromWorker = await new Promise((done) => worker.on('message', done));
                const child = Number(execFileSync(process.execPath, ['-p', '6 * 7']));
                const { instance } = await WebAssembly.instantiate(WASM);
                return [fromWorker, child, instance.exports.f()];
            }";
        shared.runtime.block_on(shared.native.prove_forks());
        let result = shared.run("javascript", code)?;
        assert!(forked(&result), "{result:?}");
        assert_eq!(result.value.ok_or("no value")?.get(), "[42,42,42]");
        Ok(())
    });

    let shared = Arc::clone(rig);
    suite.test("node_forks::another_memory_limit_or_strict_starts_one", move || {
        let code = "function main() { return require('v8').getHeapStatistics().heap_size_limit }";
        let bound = |limits: Limits, profile, is_fork| -> Result<u64, Failure> {
            let asked = ExecuteRequest { profile, ..request("javascript", code, limits) };
            let run = shared.native.run(asked, CancellationToken::new());
            let result = shared.runtime.block_on(run)?;
            assert_eq!(forked(&result), is_fork, "{result:?}");
            Ok(result.value.ok_or("no value")?.get().parse()?)
        };
        shared.runtime.block_on(shared.native.prove_forks());
        let usual = bound(limits(), Profile::Fast, true)?;
        let less = Limits { memory: limits().memory / 2, ..limits() };
        assert!(bound(less, Profile::Fast, false)? < usual);
        assert_eq!(bound(limits(), Profile::Strict, false)?, usual);
        Ok(())
    });

    let shared = Arc::clone(rig);
    suite.test("node_forks::a_full_heap_is_the_limit_of_memory", move || {
        let code = "function main() { const kept = []; for (;;) kept.push(new Array(1e4).fill(kept.length)) }";
        shared.runtime.block_on(shared.native.prove_forks());
        let result = shared.run("javascript", code)?;
        assert!(forked(&result), "{result:?}");
        let memory = Outcome::LimitExceeded { limit: LimitKind::Memory };
        assert_eq!(result.finished.outcome, memory, "{:?}", result.finished.evidence);
        Ok(())
    });

    suite.test("node_forks::what_was_started_before_gives_way_to_forks", || {
        let folder = Catalogue::builtin().get("javascript")?.clone();
        let rig = Rig::of(found(&[folder]), 3, WARM, None);
        let make = |limits: Limits| {
            let spec = request("javascript", "function main() { return 1 }", limits).spec();
            rig.runtime.block_on(rig.native.create(spec))
        };
        let usual = make(limits())?;
        let less = make(Limits { memory: limits().memory / 2, ..limits() })?;
        assert!(usual.is_ready() && less.is_ready());
        let proofs = rig.runtime.block_on(rig.native.prove_forks());
        assert_eq!(proofs[0].problem, None);
        assert!(!usual.is_ready() && less.is_ready());
        let next = make(limits());
        drop((usual, less));
        assert!(next?.is_ready());
        rig.runtime.block_on(rig.native.shutdown())?;
        Ok::<(), Failure>(())
    });

    for (name, test, problem) in REFUSALS {
        suite.test(format!("node_forks::{name}_keeps_programs_out_of_forks"), move || {
            let folders = Catalogue::builtin();
            let mut folder = folders.get("javascript")?.clone();
            folder.selftest = Some(format!("{FORKED}{test}").into());
            let rig = Rig::of(found(&[folder]), 2, WARM, None);
            let proofs = rig.runtime.block_on(rig.native.prove_forks());
            assert_eq!(proofs[0].problem.as_deref(), Some(problem));
            let result = rig.run("javascript", "function main() { return 1 }")?;
            assert_eq!(result.finished.outcome, Outcome::Succeeded);
            assert!(!forked(&result), "{result:?}");
            rig.runtime.block_on(rig.native.shutdown())?;
            Ok::<(), Failure>(())
        });
    }
}
