//! The command as a user meets it, with the fake provider behind it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};

/// A directory that is removed with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ampoule() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ampoule"));
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("SANDBOX_") || shown.starts_with("AMPOULE_") {
            command.env_remove(&name);
        }
    }
    command.env("AMPOULE_PROVIDER", "memory").stdin(Stdio::null());
    command
}

#[derive(Debug)]
struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it exits"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn done(command: &mut Command) -> Done {
    command.output().unwrap().into()
}

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
        (&["run", good, "--timeout", "soon"], "`soon` is not a duration"),
        (&["run", good, "--timeout", "0"], "is not a duration"),
        (&["run", good, "--memory", "much"], "`much` is not a size"),
        (&["run", good, "--memory", "1m"], "`memory` is 1m, and at least 16m is allowed"),
        (&["run", good, "--timeout", "2h"], "`wall` is 7200s, and at most 3600s is allowed"),
        (&["run", empty.to_str().unwrap()], "the code is empty; hint:"),
        (&["run", binary.to_str().unwrap()], "not UTF-8 (first bad byte at offset 5)"),
        (&["serve", "--listen", "9385"], "no address with a port"),
        (&["serve", "--grace", "x"], "is not a duration"),
        (&["serve", "--max-body", "x"], "is not a size"),
        (&["serve", "--log-format", "xml"], "text, json"),
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
        let shown = if name == "AMPOULE_LISTEN" { "--listen" } else { name };
        assert!(done.stderr.contains(shown) && done.stderr.contains(value), "{done:?}");
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

fn send(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
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

/// A service that is ended with the test.
struct Service {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    address: String,
}

impl Service {
    fn start(command: &mut Command) -> Self {
        Self::start_with(command, &[])
    }

    fn start_with(command: &mut Command, arguments: &[&str]) -> Self {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
            let entry: Value =
                serde_json::from_str(&line).expect("the log is JSON without a terminal");
            if entry["message"] == "listening" {
                break entry["address"].as_str().unwrap().to_owned();
            }
        };
        Self { child, log, address }
    }

    fn post(&self, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /run HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    /// Waits for the end; gives the exit code and the rest of the log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

fn answer(mut stream: TcpStream) -> Value {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
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
    let mut started = 0;
    while started < 3 {
        let mut line = String::new();
        assert_ne!(service.log.read_line(&mut line).unwrap(), 0, "it ended");
        started += usize::from(line.contains("execution started"));
    }
    send(&service.child, rustix::process::Signal::TERM);
    assert_eq!(answer(stream)["exit_code"], -3);
    assert_eq!(service.end().0, Some(0));
}

#[test]
fn serve_says_when_the_address_is_taken() {
    let service = Service::start(&mut ampoule());
    let taken = done(ampoule().args(["serve", "--listen", &service.address]));
    assert_eq!(taken.code, 5);
    assert!(taken.stderr.contains(&service.address) && taken.stderr.contains("hint: `--listen`"));
    send(&service.child, rustix::process::Signal::INT);
    assert_eq!(service.end().0, Some(0));
}
