//! The command as a user meets it, with the fake provider behind it.

mod configuration;
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use serde_json::{Value, json};

use support::{Done, Scratch, Service, ampoule, answer, done, send};

/// Runs a script of the fake.
fn run(name: &str, script: &Value, arguments: &[&str]) -> Done {
    let scratch = Scratch::new(name);
    let file = scratch.file("program.py", &script.to_string());
    done(ampoule().arg("run").arg(file).args(arguments))
}

#[test]
fn help_lists_the_exit_codes() {
    for arguments in [&["--help"][..], &["run", "--help"]] {
        let help = done(ampoule().args(arguments));
        assert_eq!(help.code, 0);
        for line in [
            "    0  main returned",
            "    1  the program failed",
            "    2  bad usage, input or configuration",
            "    3  a limit ended the program",
            "    4  the sandbox refused an act",
            "    5  the platform failed",
            "  130  cancelled",
        ] {
            assert!(help.stdout.contains(line), "{line}: {}", help.stdout);
        }
        assert!(!help.stdout.contains("AMPOULE_PROVIDER"), "it is for tests only");
    }
    let version = done(ampoule().arg("--version"));
    assert_eq!(
        (version.code, version.stdout.trim_end()),
        (0, concat!("ampoule ", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn bad_usage_exits_with_2_and_a_hint() {
    let scratch = Scratch::new("usage");
    let good = scratch.file("good.py", "x");
    let good = good.to_str().unwrap();
    let odd = scratch.file("odd.txt", "x");
    let empty = scratch.file("empty.py", " \n");
    let binary = scratch.0.join("binary.py");
    fs::write(&binary, b"x = '\xff'").unwrap();
    let array = scratch.file("array.json", "[1]");
    let array = format!("@{}", array.display());
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["walk"], "unrecognized subcommand"),
        (&["run"], "<FILE>"),
        (&["run", "no-such-file.py"], "no-such-file.py"),
        (&["run", odd.to_str().unwrap()], "--lang, one of python"),
        (&["run", good, "--lang", "ruby"], "unknown language `ruby`; hint: one of `python`"),
        (&["run", good, "--args", "[1]"], "--args: the arguments are an array"),
        (&["run", good, "--args", "{"], "--args: the arguments are not JSON"),
        (&["run", good, "--args", &array], "--args: the arguments are an array"),
        (&["run", good, "--args", "@no-such-file"], "no-such-file"),
        (&["run", good, "--timeout", "soon"], "--timeout is `soon`; hint: a duration"),
        (&["run", good, "--timeout", "0"], "--timeout is `0`; hint: a duration"),
        (&["run", good, "--memory", "much"], "--memory is `much`; hint: a size"),
        (&["run", good, "--memory", "1m"], "`memory` is 1m, and at least 16m is allowed"),
        (&["run", good, "--timeout", "2h"], "`timeout` is 2h, and at most 1h is allowed"),
        (&["run", empty.to_str().unwrap()], "the code is empty; hint:"),
        (&["run", binary.to_str().unwrap()], "not UTF-8 (first bad byte at offset 5)"),
        (&["serve", "--listen", "9385"], "--listen is `9385`; hint: an address with a port"),
        (&["run", good, "--cpus", "many"], "--cpus is `many`; hint: a number of CPUs"),
        (&["run", good, "--processes", "0"], "--processes is `0`; hint: a whole number"),
        (&["run", good, "--output", "1x"], "--output is `1x`; hint: a size"),
        (&["run", good, "--network", "all"], "--network is `all`; hint: `none` or `open`"),
        (&["run", good, "--network", "open"], "`network` is open, and only none is allowed"),
        (&["serve", "--grace", "x"], "--grace is `x`; hint: a duration"),
        (&["serve", "--max-body", "x"], "--max-body is `x`; hint: a size"),
        (&["serve", "--log-format", "xml"], "`text` or `json`"),
        (&["doctor", "--without", "cpu_meter"], "no layer with a probe; hint: user_namespace,"),
    ];
    for (arguments, words) in cases {
        let done = done(ampoule().args(*arguments));
        assert_eq!(done.code, 2, "{arguments:?}: {done:?}");
        assert!(done.stderr.contains(words), "{arguments:?}: {done:?}");
        assert_eq!(done.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_bad_environment_exits_with_2_and_names_the_variable() {
    for (name, value) in [
        ("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE", "many"),
        ("SANDBOX_MAX_MEMORY", "256x"),
        ("SANDBOX_MAX_MEMORY", "1m"),
        ("SANDBOX_TIMEOUT", "soon"),
        ("AMPOULE_PROVIDER", "cloud"),
        ("AMPOULE_LISTEN", "nowhere"),
        ("AMPOULE_LOG", "=="),
    ] {
        let done =
            done(ampoule().args(["serve"]).env("AMPOULE_LISTEN", "127.0.0.1:0").env(name, value));
        assert_eq!(done.code, 2, "{name}={value}: {done:?}");
        assert!(done.stderr.contains(name) && done.stderr.contains(value), "{done:?}");
    }
}

#[test]
fn each_end_has_its_exit_code_and_one_line() {
    let rows = [
        (json!([{"value": 1}]), 0, ""),
        (json!([{"exit": 3}]), 1, "ampoule: the program exited with code 3 before main returned\n"),
        (json!([{"exit": 0}]), 1, "ampoule: the program exited with code 0 before main returned\n"),
        (
            json!([{"error": {"type": "ValueError", "message": "bad", "line": 2}}]),
            1,
            "ampoule: ValueError: bad (line 2)\n",
        ),
        (json!([{"signal": 11}]), 1, "ampoule: signal 11 (SIGSEGV) ended the program\n"),
        (json!([{"stopped": "wall"}]), 3, "ampoule: the time limit was exceeded\n"),
        (
            json!([{"oom_kills": 1}]),
            3,
            "ampoule: the memory limit of 262144 KiB was exceeded (killed by the kernel)\n",
        ),
        (
            json!([{"denied": ["ptrace", 1]}, {"exit": 1}]),
            4,
            "ampoule: the sandbox refused the system call ptrace\n",
        ),
        (
            json!([{"fail": ["internal", "it broke"]}]),
            5,
            "ampoule: failed to follow the script: it broke\n",
        ),
        (
            json!([{"refuse": ["unavailable", "it is away"]}]),
            5,
            "ampoule: failed to follow the script: it is away\n",
        ),
    ];
    for (script, code, stderr) in rows {
        let done = run("ends", &script, &[]);
        assert_eq!((done.code, done.stderr.as_str()), (code, stderr), "{script}");
    }
}

#[test]
fn output_comes_first_and_the_value_on_a_line_of_its_own() {
    let script =
        json!([{"stdout": "no newline"}, {"stderr": "a warning\n"}, {"value": {"a": [1, 2]}}]);
    let done = run("value", &script, &[]);
    assert_eq!(done.stdout, "no newline\n{\"a\":[1,2]}\n");
    assert_eq!(done.stderr, "a warning\n");
    let failed = run("value", &json!([{"stdout": "so far"}, {"exit": 1}]), &[]);
    assert_eq!(failed.stdout, "so far");
}

#[test]
fn stdin_arguments_and_languages_are_taken() {
    let mut child = ampoule()
        .args(["run", "-", "--lang", "JS", "--args", r#"{"n": 12345678901234567890123}"#])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"module.exports = {}").unwrap();
    let done: Done = child.wait_with_output().unwrap().into();
    assert_eq!((done.code, done.stdout.as_str()), (0, "{\"n\":12345678901234567890123}\n"));
    let scratch = Scratch::new("stdin");
    let values = scratch.file("values.json", "{\n\"s\": \"é\"}\n");
    let program = scratch.file("program.cjs", "x");
    let at = format!("@{}", values.display());
    let done = self::done(ampoule().arg("run").arg(program).args(["--args", &at]));
    assert_eq!((done.code, done.stdout.as_str()), (0, "{\"s\":\"é\"}\n"));
}

#[test]
fn json_holds_everything() {
    let script = json!([
        {"stdout": "out"}, {"stderr": "err"}, {"artifact": ["a.csv", "1"]}, {"skip": ["b", "it is a link"]},
        {"memory_peak": 5}, {"value": [1]}
    ]);
    let done = run("json", &script, &["--json"]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(done.stdout.lines().count(), 1);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["outcome"], json!({"kind": "succeeded"}));
    assert_eq!(report["culprit"], "program");
    assert_eq!(report["value"], json!([1]));
    assert_eq!((&report["stdout"], &report["stderr"]), (&json!("out"), &json!("err")));
    assert_eq!(report["artifacts"], json!([{"name": "a.csv", "size": 1}]));
    assert_eq!(report["skipped_artifacts"][0]["reason"], "it is a link");
    assert_eq!(report["usage"]["memory_peak"], 5);
    assert_eq!(report["isolation"]["level"], "none");
    assert_eq!(report["error"], Value::Null);
    assert_eq!(report["execution_id"].as_str().unwrap().len(), 32);

    let failed =
        run("json", &json!([{"stdout": "x"}, {"fail": ["internal", "it broke"]}]), &["--json"]);
    assert_eq!((failed.code, failed.stderr.as_str()), (5, ""));
    let report: Value = serde_json::from_str(&failed.stdout).unwrap();
    assert_eq!(report["outcome"], Value::Null);
    assert_eq!(report["culprit"], "platform");
    assert_eq!(report["error"], json!({"kind": "internal", "message": "it broke"}));
    assert_eq!(report["stdout"], "x");

    let limited = run("json", &json!([{"stopped": "wall"}]), &["--json"]);
    assert_eq!(limited.code, 3);
    let report: Value = serde_json::from_str(&limited.stdout).unwrap();
    assert_eq!(report["outcome"], json!({"kind": "limit_exceeded", "limit": "time"}));
}

#[test]
fn artifacts_are_written_and_never_through_links() {
    let scratch = Scratch::new("artifacts");
    let outside = scratch.file("outside", "untouched");
    let directory = scratch.0.join("new/artifacts");
    fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::symlink(&outside, directory.join("link.csv")).unwrap();
    fs::create_dir(directory.join("taken.csv")).unwrap();
    let script = json!([
        {"artifact": ["a.csv", "1,2"]}, {"artifact": ["link.csv", "new"]}, {"artifact": ["../escape.csv", "x"]},
        {"artifact": [".hidden", "x"]}, {"value": 1}
    ]);
    let program = scratch.file("program.py", &script.to_string());
    let written = done(ampoule().arg("run").arg(&program).arg("--artifacts").arg(&directory));
    assert_eq!(written.code, 0, "{written:?}");
    assert_eq!(fs::read_to_string(directory.join("a.csv")).unwrap(), "1,2");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
    assert!(directory.join("link.csv").symlink_metadata().unwrap().is_file());
    assert!(!scratch.0.join("new/escape.csv").exists());
    assert_eq!(
        written.stderr,
        "ampoule: artifact `../escape.csv` left out: the name is not allowed\n\
         ampoule: artifact `.hidden` left out: the name is not allowed\n"
    );
    let mut names: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.csv", "link.csv", "taken.csv"]);

    let program = scratch
        .file("program.py", &json!([{"artifact": ["taken.csv", "x"]}, {"value": 1}]).to_string());
    let failed = done(ampoule().arg("run").arg(&program).arg("--artifacts").arg(&directory));
    assert_eq!(failed.code, 5);
    assert!(failed.stderr.contains("failed to write the artifact `taken.csv`"), "{failed:?}");
}

#[test]
fn artifacts_without_a_place_to_go_are_said() {
    let scratch = Scratch::new("dropped");
    for (count, said) in [
        (0, ""),
        (1, "ampoule: 1 artifact was dropped; --artifacts DIR keeps it\n"),
        (2, "ampoule: 2 artifacts were dropped; --artifacts DIR keeps them\n"),
    ] {
        let acts = (0..count).map(|number| json!({"artifact": [format!("{number}.csv"), "x"]}));
        let script: Vec<Value> = acts.chain([json!({"value": 1})]).collect();
        let program = scratch.file("program.py", &json!(script).to_string());
        let shown = done(ampoule().arg("run").arg(&program));
        assert_eq!((shown.code, shown.stderr.as_str()), (0, said), "{shown:?}");
        let json = done(ampoule().arg("run").arg(&program).arg("--json"));
        assert_eq!((json.code, json.stderr.as_str()), (0, ""), "{json:?}");
    }
}

#[test]
fn ctrl_c_cancels_the_run() {
    let scratch = Scratch::new("cancel");
    let file = scratch.file("program.py", &json!([{"stdout": "began\n"}, "hang"]).to_string());
    let mut child = ampoule()
        .arg("run")
        .arg(file)
        .args(["--timeout", "50m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "began\n", "output is live");
    send(&child, rustix::process::Signal::INT);
    let done: Done = child.wait_with_output().unwrap().into();
    assert_eq!((done.code, done.stderr.as_str()), (130, "ampoule: the run was cancelled\n"));
}

#[test]
fn a_reader_that_goes_away_cancels_the_run() {
    let scratch = Scratch::new("pipe");
    let script = json!([{"stdout": "began\n"}, {"sleep_ms": 100}, {"stdout": "more\n"}, "hang"]);
    let file = scratch.file("program.py", &script.to_string());
    let mut child = ampoule()
        .arg("run")
        .arg(file)
        .args(["--timeout", "50m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done: Done = child.wait_with_output().unwrap().into();
    assert_eq!(done.code, 130, "{done:?}");
}

#[test]
fn serve_answers_logs_no_content_and_ends_on_sigterm() {
    let mut command = ampoule();
    command
        .env("SANDBOX_EXECUTOR_MANAGER_PORT", "1")
        .env("SANDBOX_PROVIDER_TYPE", "self_managed")
        .env("SANDBOX_MAX_MEMORY", "128m")
        .env("SANDBOX_BASE_PYTHON_IMAGE", "mine:1");
    let service = Service::start(&mut command);
    // [{"stdout": "secret-output"}, {"value": "secret-value"}]
    let code = "W3sic3Rkb3V0IjogInNlY3JldC1vdXRwdXQifSwgeyJ2YWx1ZSI6ICJzZWNyZXQtdmFsdWUifV0=";
    let body = json!({"code_b64": code, "arguments": {"secret-key": 1}, "base_image": "mine:1"});
    let result = answer(service.post(&body));
    assert_eq!(result["result"]["value"], "secret-value");
    assert_eq!(result["evidence"]["memory"]["limit"], 128 << 20);
    let id = result["execution_id"].as_str().unwrap().to_owned();
    send(&service.child, rustix::process::Signal::TERM);
    let (code, log) = service.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("secret"), "{log}");
    let of_run: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|entry: &Value| entry["execution_id"] == id.as_str())
        .collect();
    assert!(of_run.iter().any(|entry| entry["path"] == "/run" && entry["status"] == 200), "{log}");
    assert!(of_run.iter().any(|entry| entry["outcome"] == "succeeded"), "{log}");
}

#[test]
fn serve_stops_what_outlasts_the_grace() {
    let mut command = ampoule();
    command.env("SANDBOX_TIMEOUT", "30m").env("AMPOULE_LOG", "debug");
    let mut service = Service::start_with(&mut command, &["--grace", "0"]);
    // ["hang"]
    let stream = service.post(&json!({"code_b64": "WyJoYW5nIl0="}));
    // Two readiness runs and this one.
    service.until_started(3);
    send(&service.child, rustix::process::Signal::TERM);
    assert_eq!(answer(stream)["exit_code"], -3);
    assert_eq!(service.end().0, Some(0));
}

#[test]
fn serve_says_when_the_address_is_taken() {
    let service = Service::start(&mut ampoule());
    let taken = done(ampoule().args(["serve", "--listen", &service.address]));
    assert_eq!(taken.code, 2);
    assert!(taken.stderr.contains(&service.address) && taken.stderr.contains("hint: `--listen`"));
    send(&service.child, rustix::process::Signal::INT);
    assert_eq!(service.end().0, Some(0));
}
