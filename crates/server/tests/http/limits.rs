//! Limits and network that a request asks for, within what the operator allows.

use std::time::Duration;

use ampoule_core::{Language, NetworkPolicy, Profile};
use ampoule_manager::PoolConfig;
use serde_json::{Value, json};

use crate::support::{Service, Setup, run_body};

fn body(fields: Value) -> Vec<u8> {
    let mut body = run_body(&json!([{"value": 1}]));
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string().into()
}

fn narrow() -> Setup {
    let mut setup = Setup::default();
    let bounds = &mut setup.manager.bounds;
    (bounds.wall, bounds.memory) = (Duration::from_secs(60), 1 << 30);
    (bounds.millicpus, bounds.processes) = (2000, 100);
    (bounds.output, bounds.disk) = (2 << 20, 200 << 20);
    bounds.cpu = Some(Duration::from_secs(30));
    setup
}

#[tokio::test]
async fn a_request_may_set_its_limits() {
    let service = Service::ready(narrow()).await;
    for memory in [json!("512m"), json!(512 << 20)] {
        let asked = json!({"limits": {
            "memory": memory, "timeout": 59.5, "cpus": 0.5, "processes": 100, "output": 1024,
            "disk": "1m", "cpu_time": "7s"
        }, "network": "none"});
        let answer = service.post(&body(asked)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let evidence = &answer.json()["evidence"];
        assert_eq!(evidence["memory"]["limit"], 512 << 20);
        assert_eq!(evidence["processes"]["limit"], 100);
        assert_eq!(evidence["cpu"]["limit_us"], 7_000_000);
    }
    for nothing in [json!({"limits": null, "network": null}), json!({"limits": {"memory": null}})] {
        let answer = service.post(&body(nothing)).await;
        assert_eq!(answer.json()["evidence"]["memory"]["limit"], 256 << 20, "{}", answer.text);
    }
    service.end().await;
}

#[tokio::test]
async fn a_short_timeout_of_a_request_ends_its_run() {
    let service = Service::ready(narrow()).await;
    let mut body = run_body(&json!(["hang"]));
    body["limits"] = json!({"timeout": "50ms"});
    let answer = service.post(body.to_string().as_bytes()).await.json();
    assert_eq!(
        (&answer["status"], &answer["exit_code"]),
        (&json!("resource_limit_exceeded"), &json!(-124))
    );
    service.end().await;
}

#[tokio::test]
async fn what_is_not_allowed_is_named_with_what_was_asked_and_what_is_allowed() {
    let service = Service::ready(narrow()).await;
    let rows = [
        ("timeout", json!("2m"), "`timeout` is 2m, and at most 1m is allowed"),
        ("timeout", json!(0), "not a duration; hint: seconds, or as in `90s`"),
        ("timeout", json!("soon"), "not a duration"),
        ("timeout", json!(1e300), "not a duration"),
        ("memory", json!("2g"), "`memory` is 2g, and at most 1g is allowed"),
        ("memory", json!("1m"), "`memory` is 1m, and at least 16m is allowed"),
        ("memory", json!(-1), "not a size; hint: bytes, or `256m`"),
        ("memory", json!(1.5), "not a size"),
        ("memory", json!(true), "a number or a string is needed"),
        ("memory", json!({}), "a number or a string is needed"),
        ("cpus", json!(2.5), "`cpus` is 2.5, and at most 2 is allowed"),
        ("cpus", json!("0.001"), "`cpus` is 0.001, and at least 0.01 is allowed"),
        ("cpus", json!("all"), "not a number of CPUs"),
        ("processes", json!(101), "`processes` is 101, and at most 100 is allowed"),
        ("processes", json!(0), "`processes` is 0, and at least 1 is allowed"),
        ("processes", json!(1.5), "not a whole number"),
        ("output", json!("1g"), "`output` is 1g, and at most 2m is allowed"),
        ("disk", json!("1g"), "`disk` is 1g, and at most 200m is allowed"),
        ("cpu_time", json!(31), "`cpu_time` is 31s, and at most 30s is allowed"),
    ];
    for (name, value, words) in rows {
        let answer = service.post(&body(json!({"limits": {name: value}}))).await;
        assert_eq!(answer.status, 422, "{name} {value}: {}", answer.text);
        let detail = &answer.json()["detail"];
        assert_eq!(detail.as_array().unwrap().len(), 1, "{detail}");
        assert_eq!(detail[0]["loc"], json!(["body", "limits", name]), "{detail}");
        assert_eq!(detail[0]["type"], "value_error");
        let message = detail[0]["msg"].as_str().unwrap();
        assert!(message.contains(words), "{name} {value}: {message}");
        assert!(!message.contains("soon"), "{message}");
    }
    assert_eq!(service.memory.census().created, 2, "only the readiness runs");
    service.end().await;
}

#[tokio::test]
async fn a_language_that_needs_more_than_the_default_is_ready_if_that_may_be_asked_for() {
    let mut setup = narrow();
    setup.memory.capabilities.min_memory.insert(Language::new("javascript"), 512 << 20);
    let service = Service::ready(setup).await;
    for (language, memory, status) in
        [("python", "256m", 200), ("nodejs", "256m", 422), ("nodejs", "512m", 200)]
    {
        let asked = json!({"language": language, "limits": {"memory": memory}});
        let answer = service.post(&body(asked)).await;
        assert_eq!(answer.status, status, "{language} {memory}: {}", answer.text);
    }
    service.end().await;
}

#[tokio::test]
async fn a_network_that_cannot_be_held_here_says_why_and_the_fix() {
    let mut setup = narrow();
    setup.manager.bounds.network = NetworkPolicy::Open;
    let hurdle = "no network helper is installed; hint: install `slirp4netns`";
    setup.memory.capabilities.network_hurdle = Some(hurdle.to_owned());
    let service = Service::ready(setup).await;
    let answer = service.post(&body(json!({"network": "open"}))).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let problem = &answer.json()["detail"][0];
    assert_eq!(problem["loc"], json!(["body", "network"]), "{problem}");
    assert_eq!(
        problem["msg"],
        format!("Value error, `network` is open, and only none is allowed; {hurdle}")
    );
    service.end().await;
}

#[tokio::test]
async fn other_mistakes_in_limits_and_network_are_named() {
    let service = Service::ready(narrow()).await;
    let cut = format!("unknown limit '{}'; hint", "x".repeat(40));
    let rows: [(_, _, _, &str); 11] = [
        (json!({"limits": 5}), "limits", "dict_type", "valid dictionary"),
        (json!({"limits": [1]}), "limits", "dict_type", "valid dictionary"),
        (
            json!({"limits": {"wall": 5, "zeit": 5, "cpus": 1}}),
            "limits",
            "value_error",
            "unknown limit 'wall'; hint: 'timeout', 'memory'",
        ),
        (json!({"limits": {"x".repeat(1000): 5}}), "limits", "value_error", &cut),
        (json!({"network": "all"}), "network", "enum", "'none', 'open'"),
        (json!({"network": 5}), "network", "string_type", "valid string"),
        (json!({"profile": "slow"}), "profile", "enum", "'fast', 'strict'"),
        (json!({"profile": 5}), "profile", "string_type", "valid string"),
        (json!({"trust_group": "A b"}), "trust_group", "value_error", "no name of a trust group"),
        (json!({"trust_group": 5}), "trust_group", "string_type", "valid string"),
        (
            json!({"network": "open"}),
            "network",
            "value_error",
            "`network` is open, and at most none is allowed",
        ),
    ];
    for (fields, field, kind, words) in rows {
        let answer = service.post(&body(fields.clone())).await;
        assert_eq!(answer.status, 422, "{fields}: {}", answer.text);
        let problem = &answer.json()["detail"][0];
        assert_eq!(problem["loc"], json!(["body", field]), "{problem}");
        assert_eq!(problem["type"], kind, "{problem}");
        assert!(problem["msg"].as_str().unwrap().contains(words), "{problem}");
    }
    let answer = service.post(&body(json!({"limits": {"memory": "2g", "cpus": 9}}))).await;
    assert_eq!(answer.json()["detail"].as_array().unwrap().len(), 2, "all are told at once");
    service.end().await;
}

#[tokio::test]
async fn where_the_operator_is_strict_nobody_may_ask_for_less() {
    let mut setup = Setup::default();
    setup.server.profile = Profile::Strict;
    setup.manager.bounds.profile = Profile::Strict;
    let service = Service::ready(setup).await;
    let answer = service.post(&body(json!({"profile": "fast"}))).await;
    assert_eq!(answer.status, 422);
    let problem = answer.json()["detail"][0].clone();
    assert_eq!(problem["loc"], json!(["body", "profile"]), "{problem}");
    assert_eq!(problem["msg"], "Value error, `profile` is fast, and only strict is allowed");
    for allowed in [json!({}), json!({"profile": null}), json!({"profile": "strict"})] {
        assert_eq!(service.post(&body(allowed)).await.status, 200);
    }
    service.end().await;
}

#[tokio::test]
async fn an_answer_says_whether_its_sandbox_was_ready() {
    let mut setup = Setup::default();
    setup.manager.pool = PoolConfig { ready: 1, ..PoolConfig::default() };
    let service = Service::ready(setup).await;
    let other = json!({"trust_group": "tenant-1", "profile": "strict"});
    let answer = service.post(&body(other.clone())).await.json();
    assert_eq!(answer["pool"], "miss");
    while service.manager.pool_load().kinds.iter().any(|kind| kind.ready == 0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for asked in [other, json!({})] {
        assert_eq!(service.post(&body(asked)).await.json()["pool"], "hit");
    }
    service.end().await;
}
