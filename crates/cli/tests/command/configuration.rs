//! `ampoule config`, and configurations that a service refuses to start with.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Done, Scratch, Service, ampoule, answer, done, send};

/// Fails unless nobody listens there.
fn assert_nobody_listens(address: &str) {
    assert!(std::net::TcpStream::connect(address).is_err(), "{address}");
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_configuration_is_as_golden() {
    let scratch = Scratch::new("golden");
    let text = "[limits]\ntimeout = 20\nmax.memory = \"2g\"\n\n[network]\nmost = \"open\"\n";
    let file = scratch.file("ampoule.toml", text);
    let mut command = ampoule();
    command
        .args(["config", "--memory", "1g", "--config", file.to_str().unwrap()])
        .env("AMPOULE_DATA_DIR", "/var/lib/ampoule")
        .env("AMPOULE_PROVIDER", "native")
        .env("AMPOULE_NETWORK_ALLOW", "10.1.0.0/16,192.168.1.5:5432")
        .env("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE", "5")
        .env("SANDBOX_EXECUTOR_MANAGER_API_TOKEN", "secret-token")
        .env("AMPOULE_POOL_BOOTS", "3")
        .env("SANDBOX_RUN_RATE_LIMIT", "60/minute")
        .env("SANDBOX_PROVIDER_TYPE", "self_managed")
        .env("SANDBOX_ENABLE_SECCOMP", "nonsense")
        .env("AMPOULE_LISTN", "x");
    let shown = done(&mut command);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert_eq!(
        shown.stderr,
        "ampoule: AMPOULE_LISTN is no variable of ours; hint: perhaps AMPOULE_LISTEN\n"
    );
    let stdout = shown.stdout.replace(file.to_str().unwrap(), "FILE");
    assert!(!stdout.contains("secret"), "{stdout}");
    assert_eq!(stdout, golden("config.txt"), "{stdout}");

    let shown = done(command.arg("--json"));
    assert!(!shown.stdout.contains("secret"), "{}", shown.stdout);
    let report: Value = serde_json::from_str(&shown.stdout).unwrap();
    let setting = |key: &str| {
        let settings = report["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    let timeout = setting("limits.timeout");
    assert_eq!(timeout["value"], "20s");
    assert_eq!(timeout["source"], json!({"kind": "file", "path": file, "line": 2}));
    assert_eq!(timeout["variables"], json!(["SANDBOX_TIMEOUT", "AMPOULE_LIMITS_TIMEOUT"]));
    assert_eq!(setting("limits.memory")["source"], json!({"kind": "flag", "name": "--memory"}));
    assert_eq!(setting("auth.api_token")["value"], "(set)");
    assert_eq!(report["file"], json!(file));
    assert_eq!(report["not_applied"][0]["name"], "SANDBOX_ENABLE_SECCOMP");
}

#[test]
fn a_broken_file_stops_every_command_that_reads_it() {
    let scratch = Scratch::new("broken");
    let file = scratch.file("ampoule.toml", "[limits]\ntimeot = 5\n");
    let program = scratch.file("program.py", "x");
    let program = program.to_str().unwrap();
    for arguments in [
        &["run", program][..],
        &["serve"],
        &["config"],
        &["runtimes", "list"],
        &["serve", "--listen", "127.0.0.1:0"],
    ] {
        for by_flag in [true, false] {
            let mut command = ampoule();
            if by_flag {
                command.arg("--config").arg(&file);
            } else {
                command.env("AMPOULE_CONFIG", &file);
            }
            let refused = done(command.args(arguments));
            assert_eq!(refused.code, 2, "{refused:?}");
            let said = format!(
                "{}:2:1: unknown key `limits.timeot`; hint: perhaps `limits.timeout`",
                file.display()
            );
            assert!(refused.stderr.contains(&said), "{refused:?}");
        }
    }
}

#[test]
fn a_run_takes_its_limits_from_every_layer() {
    let scratch = Scratch::new("run-limits");
    let file = scratch
        .file("ampoule.toml", "[limits]\nmemory = \"64m\"\nmax.memory = \"128m\"\nprocesses = 9\n");
    let program = scratch.file("program.py", &json!([{"value": 1}]).to_string());
    let run = |flags: &[&str]| {
        done(ampoule().arg("run").arg(&program).args(["--json", "--config"]).arg(&file).args(flags))
    };
    let report: Value = serde_json::from_str(&run(&[]).stdout).unwrap();
    assert_eq!(report["evidence"]["memory"]["limit"], 64 << 20);
    assert_eq!(report["evidence"]["processes"]["limit"], 9);
    let report: Value =
        serde_json::from_str(&run(&["--memory", "100m", "--processes", "7"]).stdout).unwrap();
    assert_eq!(report["evidence"]["memory"]["limit"], 100 << 20);
    assert_eq!(report["evidence"]["processes"]["limit"], 7);
    let refused = run(&["--memory", "256m"]);
    assert_eq!(refused.code, 2);
    let said = format!(
        "`limits.memory` is 256m (flag --memory), and at most 128m is allowed by `limits.max.memory` ({}:3)",
        file.display()
    );
    assert!(refused.stderr.contains(&said), "{refused:?}");
}

#[test]
fn beyond_this_machine_a_token_or_the_opt_in_is_needed() {
    let port = free_port();
    for listen in [format!("0.0.0.0:{port}"), format!("[::]:{port}")] {
        let refused = done(ampoule().args(["serve", "--listen", &listen]));
        assert_eq!(refused.code, 2, "{refused:?}");
        for words in [
            listen.as_str(),
            "needs a token; hint: set SANDBOX_EXECUTOR_MANAGER_API_TOKEN",
            "SANDBOX_EXECUTOR_MANAGER_ALLOW_UNAUTHENTICATED=true",
        ] {
            assert!(refused.stderr.contains(words), "{refused:?}");
        }
        assert_nobody_listens(&format!("127.0.0.1:{port}"));
    }
    let refused = done(
        ampoule()
            .args(["serve", "--listen", &format!("0.0.0.0:{port}")])
            .env("SANDBOX_EXECUTOR_MANAGER_ALLOW_UNAUTHENTICATED", "false")
            .env("SANDBOX_EXECUTOR_MANAGER_API_TOKEN", " "),
    );
    assert_eq!(refused.code, 2, "nothing but blanks is no token: {refused:?}");
    for (name, value) in [
        ("SANDBOX_EXECUTOR_MANAGER_API_TOKEN", "a-token"),
        ("SANDBOX_EXECUTOR_MANAGER_ALLOW_UNAUTHENTICATED", "true"),
    ] {
        let service = Service::start_on(ampoule().env(name, value), "0.0.0.0:0", &[]);
        send(&service.child, Signal::TERM);
        assert_eq!(service.end().0, Some(0), "{name}");
    }
}

#[test]
fn the_services_token_is_asked_for_and_never_logged() {
    let mut command = ampoule();
    command.env("SANDBOX_EXECUTOR_MANAGER_API_TOKEN", "secret-token").env("AMPOULE_LOG", "trace");
    let service = Service::start(&mut command);
    let body = json!({"code_b64": "W3sidmFsdWUiOiAxfV0="});
    assert_eq!(
        answer(service.post(&body)),
        json!({"detail": "Missing or invalid sandbox executor API token"})
    );
    let shown = answer(service.post_with("Authorization: Bearer secret-token\r\n", &body));
    assert_eq!(shown["result"]["value"], 1, "{shown}");
    let wrong = answer(service.post_with("X-Sandbox-Token: secret-guess\r\n", &body));
    assert!(wrong["detail"].is_string(), "{wrong}");
    send(&service.child, Signal::TERM);
    let (code, log) = service.end();
    assert_eq!(code, Some(0));
    assert!(log.contains("did not show the token") && !log.contains("secret"), "{log}");
}

#[test]
fn the_services_rate_limit_is_the_configured_one() {
    let service = Service::start(ampoule().env("SANDBOX_RUN_RATE_LIMIT", "2/day"));
    let body = json!({"code_b64": "W3sidmFsdWUiOiAxfV0="});
    let codes: Vec<Value> =
        (0..3).map(|_| answer(service.post(&body))["exit_code"].clone()).collect();
    assert_eq!(codes, [0, 0, -429]);
    send(&service.child, Signal::TERM);
    assert_eq!(service.end().0, Some(0));
}

#[test]
fn a_request_asks_within_the_operators_bounds() {
    let mut command = ampoule();
    command.env("AMPOULE_LIMITS_MAX_MEMORY", "512m").env("SANDBOX_MAX_MEMORY", "128m");
    let service = Service::start(&mut command);
    let body =
        |memory: &str| json!({"code_b64": "W3sidmFsdWUiOiAxfV0=", "limits": {"memory": memory}});
    let within = answer(service.post(&body("512m")));
    assert_eq!(within["evidence"]["memory"]["limit"], 512 << 20);
    let beyond = answer(service.post(&body("513m")));
    assert_eq!(beyond["detail"][0]["loc"], json!(["body", "limits", "memory"]), "{beyond}");
    send(&service.child, Signal::TERM);
    assert_eq!(service.end().0, Some(0));
}

#[test]
fn a_request_asks_for_no_more_than_the_operator_gives() {
    let mut command = ampoule();
    command.env("SANDBOX_MAX_MEMORY", "128m").env("SANDBOX_TIMEOUT", "20s");
    let service = Service::start(&mut command);
    let body = |limits: Value| json!({"code_b64": "W3sidmFsdWUiOiAxfV0=", "limits": limits});
    let within = answer(service.post(&body(json!({"memory": "64m", "timeout": "20s"}))));
    assert_eq!(within["evidence"]["memory"]["limit"], 64 << 20, "{within}");
    let beyond = answer(service.post(&body(json!({"memory": "129m", "timeout": "21s"}))));
    for (place, field, said) in [
        (0, "timeout", "`timeout` is 21s, and at most 20s is allowed"),
        (1, "memory", "`memory` is 129m, and at most 128m is allowed"),
    ] {
        let problem = &beyond["detail"][place];
        assert_eq!(problem["loc"], json!(["body", "limits", field]), "{beyond}");
        assert!(problem["msg"].as_str().unwrap().contains(said), "{beyond}");
    }
    assert_eq!(beyond["detail"].as_array().unwrap().len(), 2, "{beyond}");
    send(&service.child, Signal::TERM);
    assert_eq!(service.end().0, Some(0));
}

#[test]
fn the_interpreters_of_added_languages_are_listed() {
    let scratch = Scratch::new("added-interpreter");
    let manifest = include_str!("../../../../runtimes/python/manifest.toml")
        .replace("\"python\"", "\"snake\"")
        .replace("AMPOULE_PYTHON_BIN", "AMPOULE_SNAKE_BIN");
    let manifest: String = manifest
        .lines()
        .filter(|line| !line.starts_with("aliases") && !line.starts_with("extensions"))
        .flat_map(|line| [line, "\n"])
        .collect();
    scratch.file("manifest.toml", &manifest);
    for name in ["runner.py", "requirements.lock"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtimes/python").join(name);
        scratch.file(name, &fs::read_to_string(from).unwrap());
    }
    let data = scratch.0.join("data");
    let added = data.join("languages/snake");
    fs::create_dir_all(&added).unwrap();
    for name in ["manifest.toml", "runner.py", "requirements.lock"] {
        fs::rename(scratch.0.join(name), added.join(name)).unwrap();
    }
    let mut command = ampoule();
    command.env("AMPOULE_DATA_DIR", &data).env("AMPOULE_SNAKE_BIN", "/opt/snake");
    let shown = done(command.arg("config").env("AMPOULE_SNAK_BIN", "x"));
    assert_eq!(shown.code, 0, "{shown:?}");
    let row = shown.stdout.lines().find(|line| line.starts_with("AMPOULE_SNAKE_BIN"));
    assert!(row.is_some_and(|row| row.contains("/opt/snake")), "{shown:?}");
    assert_eq!(
        shown.stderr,
        "ampoule: AMPOULE_SNAK_BIN is no variable of ours; hint: perhaps AMPOULE_SNAKE_BIN\n"
    );
}

#[test]
fn two_services_do_not_share_a_data_directory() {
    let scratch = Scratch::new("shared-data");
    let data = scratch.0.join("data");
    let service = Service::start(ampoule().env("AMPOULE_DATA_DIR", &data));
    let refused =
        done(ampoule().args(["serve", "--listen", "127.0.0.1:0"]).env("AMPOULE_DATA_DIR", &data));
    assert_eq!(refused.code, 2, "{refused:?}");
    let pid =
        format!("another `ampoule serve` (process {}) uses the data directory", service.child.id());
    for words in [
        pid.as_str(),
        data.to_str().unwrap(),
        "hint: `data_dir` in ampoule.toml or AMPOULE_DATA_DIR",
    ] {
        assert!(refused.stderr.contains(words), "{refused:?}");
    }
    let program = scratch.file("program.py", &json!([{"value": 1}]).to_string());
    let beside: Done = done(ampoule().arg("run").arg(program).env("AMPOULE_DATA_DIR", &data));
    assert_eq!(beside.code, 0, "a run beside it claims nothing: {beside:?}");
    // However it ends, its claim ends with it.
    send(&service.child, Signal::KILL);
    service.end();
    let again = Service::start(ampoule().env("AMPOULE_DATA_DIR", &data));
    send(&again.child, Signal::TERM);
    assert_eq!(again.end().0, Some(0));
}

#[test]
fn a_data_directory_that_cannot_be_written_to_is_told() {
    let scratch = Scratch::new("unwritable");
    let file = scratch.file("file", "");
    // A file stands in the way, and a file system that takes nothing: neither asks who we are.
    for data in [file.join("data"), "/proc/ampoule".into()] {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let refused =
            done(ampoule().args(["serve", "--listen", &address]).env("AMPOULE_DATA_DIR", &data));
        assert_eq!(refused.code, 2, "{refused:?}");
        let said = format!("the data directory `{}` cannot be written to", data.display());
        assert!(
            refused.stderr.contains(&said) && refused.stderr.contains("AMPOULE_DATA_DIR"),
            "{refused:?}"
        );
        assert_nobody_listens(&address);
    }
}

#[test]
fn the_queue_is_as_configured() {
    let mut command = ampoule();
    command.env("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE", "1").env("AMPOULE_QUEUE_SIZE", "1");
    command.env("AMPOULE_QUEUE_DEADLINE", "200ms").env("SANDBOX_TIMEOUT", "30m");
    command.env("AMPOULE_LOG", "debug");
    let mut service = Service::start_with(&mut command, &["--grace", "0"]);
    service.until_ready();
    // ["hang"] takes the only place, one more waits for its deadline, and a third finds the queue full.
    let hang = json!({"code_b64": "WyJoYW5nIl0="});
    let running = service.post(&hang);
    // Two readiness runs and this one.
    service.until_started(3);
    let began = std::time::Instant::now();
    let codes: Vec<Value> = [service.post(&hang), service.post(&hang)]
        .map(|stream| answer(stream)["exit_code"].clone())
        .into();
    assert_eq!(codes, [-10, -10]);
    assert!(
        began.elapsed() >= std::time::Duration::from_millis(200),
        "the deadline was waited for"
    );
    send(&service.child, Signal::TERM);
    assert_eq!(answer(running)["exit_code"], -3);
    assert_eq!(service.end().0, Some(0));
}
