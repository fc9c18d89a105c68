//! The command and the service on the fake provider.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

/// A directory that is removed with the test.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
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

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// The command, on the fake.
pub(crate) fn ampoule() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ampoule"));
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("SANDBOX_") || shown.starts_with("AMPOULE_") {
            command.env_remove(&name);
        }
    }
    // A directory and a configuration of its own: none of this machine's, and no other test's.
    let directory = format!("data-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    command
        .env("AMPOULE_PROVIDER", "memory")
        .env("AMPOULE_DATA_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join(directory))
        .env("AMPOULE_CONFIG", "/dev/null")
        .stdin(Stdio::null());
    command
}

#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
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

pub(crate) fn done(command: &mut Command) -> Done {
    command.output().unwrap().into()
}

pub(crate) fn send(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A service that is ended with the test.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) log: BufReader<std::process::ChildStderr>,
    pub(crate) address: String,
}

impl Service {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with(command, &[])
    }

    pub(crate) fn start_with(command: &mut Command, arguments: &[&str]) -> Self {
        Self::start_on(command, "127.0.0.1:0", arguments)
    }

    pub(crate) fn start_on(command: &mut Command, listen: &str, arguments: &[&str]) -> Self {
        let mut child = command
            .args(["serve", "--listen", listen])
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

    pub(crate) fn post(&self, body: &Value) -> TcpStream {
        self.post_with("", body)
    }

    /// Waits until no readiness run takes a place any more.
    pub(crate) fn until_ready(&self) {
        let is_ready = || {
            let mut stream = TcpStream::connect(&self.address).unwrap();
            let request = "GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).unwrap();
            answer(stream)["status"] == "ready"
        };
        while !is_ready() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Waits until so many executions have started since the service has; its log must be at `debug`.
    pub(crate) fn until_started(&mut self, count: usize) {
        let mut started = 0;
        while started < count {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "it ended");
            started += usize::from(line.contains("execution started"));
        }
    }

    /// Posts with further header lines.
    pub(crate) fn post_with(&self, headers: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /run HTTP/1.1\r\nhost: test\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }

    /// Waits for the end; gives the exit code and the rest of the log.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.log.read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

pub(crate) fn answer(mut stream: TcpStream) -> Value {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
}
