//! Every row of the table in `compat/ragflow.rs`, over the wire.

use std::{path::Path, sync::Arc, time::Duration};

use ampoule_core::{Error, ErrorKind};
use ampoule_providers::memory::MemoryConfig;
use serde_json::{Value, json};

use crate::support::{Service, Setup};

/// Checks what every answer but a success must hold to: RAGFlow's tool sees a failure only so.
fn assert_seen_as_failure(answer: &Value) {
    assert_eq!(answer["stdout"], "");
    assert_eq!(answer["artifacts"], json!([]));
    assert_eq!(answer["result"], Value::Null);
    assert!(!answer["stderr"].as_str().unwrap().trim().is_empty());
}

fn last_line(answer: &Value) -> &str {
    answer["stderr"].as_str().unwrap().lines().last().unwrap()
}

struct Row {
    script: Value,
    status: &'static str,
    exit_code: i32,
    /// The field that says which, and its word.
    companion: (&'static str, &'static str),
    last_line: &'static str,
}

#[tokio::test]
async fn every_end_has_its_row() {
    let service = Service::ready(Setup::default()).await;
    let row = |script, status, exit_code, companion, last_line| Row {
        script,
        status,
        exit_code,
        companion,
        last_line,
    };
    let rows = [
        row(
            json!([{"exit": 3}]),
            "program_error",
            3,
            ("runtime_error_type", "nonzero_exit"),
            "Program error: the program exited with code 3 before main returned",
        ),
        row(
            json!([{"exit": 0}]),
            "program_error",
            0,
            ("runtime_error_type", "nonzero_exit"),
            "Program error: the program exited with code 0 before main returned",
        ),
        // Exit codes that look like a limit's are the program's own.
        row(
            json!([{"exit": 124}]),
            "program_error",
            124,
            ("runtime_error_type", "nonzero_exit"),
            "Program error: the program exited with code 124 before main returned",
        ),
        row(
            json!([{"exit": 137}]),
            "program_error",
            137,
            ("runtime_error_type", "nonzero_exit"),
            "Program error: the program exited with code 137 before main returned",
        ),
        row(
            json!([{"error": {"type": "ValueError", "message": "bad", "line": 2}}]),
            "program_error",
            1,
            ("runtime_error_type", "nonzero_exit"),
            "Program error: ValueError: bad (line 2)",
        ),
        row(
            json!([{"malformed": "two frames"}, {"exit": 0}]),
            "program_error",
            0,
            ("runtime_error_type", "nonzero_exit"),
            "Program error: ResultChannelError: the program wrote to the result channel: two frames",
        ),
        row(
            json!([{"signal": 11}]),
            "runtime_error",
            139,
            ("runtime_error_type", "signalled"),
            "Runtime error: signal 11 (SIGSEGV) ended the program",
        ),
        row(
            json!([{"signal": 9}]),
            "runtime_error",
            137,
            ("runtime_error_type", "signalled"),
            "Runtime error: signal 9 (SIGKILL) ended the program",
        ),
        row(
            json!([{"stopped": "wall"}]),
            "resource_limit_exceeded",
            -124,
            ("resource_limit_type", "time"),
            "Execution timeout",
        ),
        row(
            json!([{"stopped": "cpu"}]),
            "resource_limit_exceeded",
            -124,
            ("resource_limit_type", "time"),
            "Execution timeout: the limit of CPU time was exceeded",
        ),
        row(
            json!([{"oom_kills": 1}, {"signal": 9}]),
            "resource_limit_exceeded",
            -137,
            ("resource_limit_type", "memory"),
            "Memory limit exceeded (killed by OOM)",
        ),
        row(
            json!(["memory_watch", {"signal": 9}]),
            "resource_limit_exceeded",
            -137,
            ("resource_limit_type", "memory"),
            "Memory limit exceeded: the memory limit of 262144 KiB was exceeded (stopped by a watch on its memory)",
        ),
        row(
            json!([{"stopped": "output"}]),
            "resource_limit_exceeded",
            -125,
            ("resource_limit_type", "output"),
            "Output limit exceeded: the output limit was exceeded",
        ),
        row(
            json!([{"forks_refused": 1}, {"exit": 1}]),
            "resource_limit_exceeded",
            -126,
            ("resource_limit_type", "processes"),
            "Process limit exceeded: the limit of 64 processes and threads was exceeded",
        ),
        row(
            json!(["disk_full", {"exit": 1}]),
            "resource_limit_exceeded",
            -127,
            ("resource_limit_type", "disk"),
            "Disk limit exceeded: the disk limit was exceeded",
        ),
        row(
            json!([{"denied": ["ptrace", 2]}, {"exit": 5}]),
            "unauthorized_access",
            5,
            ("unauthorized_access_type", "disallowed_syscall"),
            "Unauthorized access: the sandbox refused the system call ptrace (2 times)",
        ),
        row(
            json!([{"unroutable": 3}, {"exit": 1}]),
            "unauthorized_access",
            1,
            ("unauthorized_access_type", "network_access"),
            "Unauthorized access: the sandbox refused the network (3 packets without a route)",
        ),
        row(
            json!([{"fail": ["internal", "it broke"]}]),
            "program_runner_error",
            -3,
            ("runtime_error_type", "internal_error"),
            "",
        ),
        row(
            json!([{"refuse": ["unavailable", "it is away"]}]),
            "program_runner_error",
            -3,
            ("runtime_error_type", "internal_error"),
            "",
        ),
        row(
            json!(["unseen"]),
            "program_runner_error",
            -3,
            ("runtime_error_type", "internal_error"),
            "",
        ),
        row(
            json!(["vanish"]),
            "program_runner_error",
            -3,
            ("runtime_error_type", "internal_error"),
            "",
        ),
        row(
            json!(["panic"]),
            "program_runner_error",
            -999,
            ("runtime_error_type", "unhandled_exception"),
            "",
        ),
    ];
    for row in rows {
        let answer = service.run(&row.script).await;
        let context = format!("{} gave {answer}", row.script);
        assert_eq!(answer["status"], row.status, "{context}");
        assert_eq!(answer["exit_code"], row.exit_code, "{context}");
        for field in ["resource_limit_type", "unauthorized_access_type", "runtime_error_type"] {
            let word = if field == row.companion.0 { json!(row.companion.1) } else { Value::Null };
            assert_eq!(answer[field], word, "{context}");
        }
        assert_seen_as_failure(&answer);
        if row.status == "program_runner_error" {
            assert_eq!(answer["detail"], row.companion.1, "{context}");
            assert!(last_line(&answer).starts_with("Internal error: "), "{context}");
        } else {
            assert_eq!(answer["detail"], Value::Null, "{context}");
            assert_eq!(last_line(&answer), row.last_line, "{context}");
        }
    }
    service.end().await;
}

#[tokio::test]
async fn a_success_keeps_its_output_whatever_is_on_stderr() {
    let service = Service::ready(Setup::default()).await;
    let answer = service
        .run(&json!([
            {"stdout": "out\n"}, {"stderr": "a warning\n"}, {"memory_peak": 1048577}, {"cpu_us": 5},
            {"denied": ["ptrace", 1]}, {"value": {"n": [1, 2.50, null]}}
        ]))
        .await;
    assert_eq!(answer["status"], "success");
    assert_eq!(answer["exit_code"], 0);
    assert_eq!(answer["stdout"], "out\n");
    assert_eq!(answer["stderr"], "a warning\n");
    assert_eq!(
        answer["result"],
        json!({"present": true, "value": {"n": [1, 2.5, null]}, "type": "json"})
    );
    assert_eq!(answer["memory_used_kb"], 1025);
    assert!(answer["time_used_ms"].as_f64().unwrap() >= 0.0);
    service.end().await;
}

#[tokio::test]
async fn a_failure_keeps_its_output_in_the_extra_fields() {
    let service = Service::ready(Setup::default()).await;
    let answer = service
        .run(&json!([
            {"stdout": "so far"}, {"stderr": "Traceback"}, {"artifact": ["chart.png", "x"]}, {"exit": 1}
        ]))
        .await;
    assert_seen_as_failure(&answer);
    assert_eq!(
        answer["stderr"],
        "Traceback\n--- stdout ---\nso far\n\
         Program error: the program exited with code 1 before main returned"
    );
    assert_eq!(answer["partial_stdout"], "so far");
    assert_eq!(answer["partial_artifacts"][0]["name"], "chart.png");
    service.end().await;
}

#[tokio::test]
async fn words_on_stderr_and_printed_markers_change_nothing() {
    let service = Service::ready(Setup::default()).await;
    let answer = service
        .run(&json!([{"stderr": "Execution timeout\nMemory limit exceeded (killed by OOM)\n"}, {"exit": 1}]))
        .await;
    assert_eq!(answer["status"], "program_error");
    let answer =
        service.run(&json!([{"stdout": "__RESULT__{\"present\":true}"}, {"exit": 0}])).await;
    assert_eq!(answer["status"], "program_error");
    assert_seen_as_failure(&answer);
    service.end().await;
}

#[tokio::test]
async fn artifacts_follow_the_rules_and_the_rest_is_listed() {
    let service = Service::ready(Setup::default()).await;
    let answer = service
        .run(&json!([
            {"artifact": ["b.csv", "1,2"]}, {"artifact": ["a.PNG", "p"]}, {"artifact": ["x.exe", "x"]},
            {"artifact": ["empty.csv", ""]}, {"artifact_of_size": ["big.json", 10485761]},
            {"skip": ["link.png", "it is a symbolic link"]}, {"value": null}
        ]))
        .await;
    assert_eq!(
        answer["artifacts"],
        json!([
            {"name": "a.PNG", "mime_type": "image/png", "size": 1, "content_b64": "cA=="},
            {"name": "b.csv", "mime_type": "text/csv", "size": 3, "content_b64": "MSwy"},
        ])
    );
    let skipped: Vec<&str> = answer["skipped_artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(skipped, ["link.png", "big.json", "empty.csv", "x.exe"]);
    service.end().await;
}

#[tokio::test]
async fn arguments_and_values_arrive_as_they_were_written() {
    let service = Service::ready(Setup::default()).await;
    let arguments = r#"{"n": 123456789012345678901234567890, "x": 1.10, "s": "\u00e9 \ud83d\ude00", "t": true}"#;
    // No script: the fake gives the arguments back.
    let body = format!(r#"{{"code_b64": "eA==", "language": "NodeJS", "arguments": {arguments}}}"#);
    let answer = service.post(body.as_bytes()).await;
    assert!(answer.text.contains(&format!(r#""value":{arguments}"#)), "{}", answer.text);
    for (given, value) in [("null", "{}"), ("{}", "{}")] {
        let body = format!(r#"{{"code_b64": "eA==", "arguments": {given}}}"#);
        let answer = service.post(body.as_bytes()).await.json();
        assert_eq!(answer["result"]["value"].to_string(), value);
    }
    service.end().await;
}

#[tokio::test]
async fn output_beyond_the_limit_is_counted() {
    let mut setup = Setup::default();
    setup.server.limits.output = 4;
    let service = Service::ready(setup).await;
    let answer = service.run(&json!([{"stdout": "123456"}, {"value": 1}])).await;
    assert_eq!(answer["stdout"], "1234");
    assert_eq!(answer["output_discarded_bytes"], 2);
    service.end().await;
}

#[tokio::test]
async fn a_hanging_program_is_a_timeout() {
    let mut setup = Setup::default();
    setup.server.limits.wall = Duration::from_millis(50);
    let service = Service::ready(setup).await;
    let answer = service.run(&json!([{"stdout": "before"}, "hang"])).await;
    assert_eq!(answer["resource_limit_type"], "time");
    assert_eq!(answer["partial_stdout"], "before");
    service.end().await;
}

#[tokio::test]
async fn a_provider_that_cannot_create_is_no_5xx() {
    let memory = MemoryConfig {
        on_create: Some(Arc::new(|_| {
            Err(Error::new(ErrorKind::Unavailable, "create a sandbox", "the back-end is away"))
        })),
        ..MemoryConfig::default()
    };
    let service = Service::start(Setup { memory, ..Setup::default() }).await;
    let answer = service.run(&json!([{"value": 1}])).await;
    assert_eq!(
        (&answer["status"], &answer["exit_code"]),
        (&json!("program_runner_error"), &json!(-3))
    );
    assert!(answer["stderr"].as_str().unwrap().contains("the back-end is away"));
    service.end().await;
}

#[tokio::test]
async fn the_wire_is_as_golden() {
    let service = Service::ready(Setup::default()).await;
    let cases = [
        (
            "run-success",
            json!([
                {"stdout": "hello\n"}, {"memory_peak": 20971520}, {"cpu_us": 1500},
                {"artifact": ["chart.png", "x"]}, {"skip": ["x", "it is a symbolic link"]}, {"value": {"sum": 3}}
            ]),
        ),
        (
            "run-program-error",
            json!([
                {"stdout": "so far\n"}, {"stderr": "Traceback\n"},
                {"error": {"type": "ValueError", "message": "bad", "line": 2}}
            ]),
        ),
        ("run-memory-limit", json!([{"oom_kills": 1}, {"signal": 9}])),
        ("run-denied", json!([{"denied": ["ptrace", 2]}, {"unroutable": 1}, {"exit": 1}])),
        ("run-internal-error", json!([{"fail": ["internal", "it broke"]}])),
    ];
    for (name, script) in cases {
        let mut answer = service.run(&script).await;
        let id = answer["execution_id"].as_str().unwrap().to_owned();
        assert_eq!(id.len(), 32);
        answer["execution_id"] = json!("ID");
        answer["stderr"] = json!(answer["stderr"].as_str().unwrap().replace(&id, "ID"));
        if answer["time_used_ms"].is_number() {
            answer["time_used_ms"] = json!(1.5);
        }
        compare(name, &answer);
    }
    let problems = service.post(br#"{"language": 5, "arguments": [], "base_image": "x"}"#).await;
    compare("run-invalid", &problems.json());
    service.end().await;
}

/// Compares with `tests/golden`; with `UPDATE_GOLDEN` in the environment it writes instead.
fn compare(name: &str, answer: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    let text = format!("{answer:#}\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "{name} differs; hint: look, then set UPDATE_GOLDEN=1");
}
