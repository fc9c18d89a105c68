//! The fake provider against the laws of the contract: what it can be asked of, a fake that the
//! tests of other layers rest on must get right.

use std::{process::ExitCode, sync::Arc};

use ampoule_core::{Language, RawValue};
use ampoule_providers::memory::{Memory, MemoryConfig};
use ampoule_testkit::conformance::{self, Act, Oracle, Programs, Subject};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Scripts of the fake: a JSON list of steps.
#[derive(Debug)]
struct Scripts;

impl Programs for Scripts {
    fn knows(&self, language: &Language) -> bool {
        language.as_str() == "script"
    }

    fn statements(&self, _: &Language, act: &Act) -> Option<String> {
        let steps: Value = match act {
            Act::Stdout(text) => json!([{ "stdout": text }]),
            Act::Stderr(text) => json!([{ "stderr": text }]),
            Act::Pause(milliseconds) => json!([{ "sleep_ms": milliseconds }]),
            Act::Hang => json!(["hang"]),
            Act::Return(value) => {
                let value: Box<RawValue> = serde_json::from_str(value).ok()?;
                return Some(format!(r#"{{"value":{value}}}"#));
            }
            Act::ReturnArguments => json!(["arguments"]),
            Act::Raise(message) => json!([{ "error": { "type": "Error", "message": message } }]),
            Act::Exit(code) => json!([{ "exit": code }]),
            Act::Kill(signal) => json!([{ "signal": signal }]),
            Act::Artifact(name, text) => json!([{ "artifact": [name, text] }]),
            Act::FailPlatform => json!([{ "fail": ["internal", "as the script says"] }]),
            // Nothing runs, so nothing has bytes, memory, descriptors, handlers, children, traces.
            Act::Bytes(_)
            | Act::Allocate
            | Act::AtExit(_)
            | Act::Descriptors(_)
            | Act::Child(_)
            | Act::LeaveTraces(_)
            | Act::ReturnTraces(_) => return None,
        };
        Some(steps[0].to_string())
    }

    fn program(&self, _: &Language, statements: &[String]) -> String {
        format!("[{}]", statements.join(","))
    }
}

/// What the fake counts is all there is of it.
#[derive(Debug)]
struct Census(Arc<Memory>);

impl Oracle for Census {
    fn processes_with(&self, _: &str) -> Option<Vec<String>> {
        None
    }

    fn left_over(&self) -> Vec<String> {
        let census = self.0.census();
        let left = census.live + census.running;
        if left == 0 { Vec::new() } else { vec![format!("{census:?}")] }
    }
}

fn main() -> ExitCode {
    let mut config = MemoryConfig::default();
    config.capabilities.languages = vec![Language::new("script")];
    let memory = Arc::new(Memory::new(config));
    let runtime = Runtime::new().unwrap();
    conformance::run(
        Subject::new(runtime.handle(), Arc::<Memory>::clone(&memory))
            .programs(Scripts)
            .oracle(Arc::new(Census(memory)))
            .leaves_out(&[
                "text_is_utf8::split_characters_survive",
                "text_is_utf8::other_bytes_become_replacement_characters",
                "cancel::a_cancelled_run_is_gone_before_it_says_so",
                "cancel::a_dropped_stream_ends_its_run",
                "verdict_from_evidence::a_forged_frame_is_no_success",
                "verdict_from_evidence::memory_is_the_kernels_word",
                "value_channel::a_handler_at_exit_makes_no_value",
                "value_channel::writing_to_other_descriptors_makes_no_value",
                "nothing_is_left::no_process_outlives_the_answer",
                "nothing_is_left::a_run_that_was_stopped_leaves_no_process",
                "nothing_is_left::a_dropped_sandbox_leaves_nothing",
                "nothing_is_left::destroying_ends_a_run",
                "no_execution_sees_another::a_later_run_sees_nothing_of_an_earlier_one",
                "no_execution_sees_another::runs_at_once_see_nothing_of_each_other",
            ]),
    )
}
