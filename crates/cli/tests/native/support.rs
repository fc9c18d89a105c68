//! A service per test.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use ampoule_providers::runtimes::default_data_dir;
use ampoule_testkit::{children_of, eventually, unique_word};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A trivial program in each language.
pub(crate) const HELLO: [(&str, &str); 2] = [
    ("hello.py", "def main(n):\n    print('hello', n)\n    return {'n': n + 1}\n"),
    ("hello.js", "function main({ n }) { console.log('hello', n); return { n: n + 1 }; }\n"),
];

/// Writes a file of its own directory.
pub(crate) fn write(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_word());
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    path
}

/// The command with none of this process's settings.
pub(crate) fn ampoule() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ampoule"));
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("SANDBOX_")
            || (shown.starts_with("AMPOULE_") && shown != "AMPOULE_DATA_DIR")
        {
            command.env_remove(&name);
        }
    }
    if !rustix::process::geteuid().is_root() {
        // An ordinary user may have no control group to divide.
        command.env("AMPOULE_NATIVE_ALLOW_MISSING", "cgroup");
    }
    command.stdin(Stdio::null());
    command
}

/// A path at which there is nothing.
pub(crate) fn unused_data_dir() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_word());
    // An earlier run of the tests may have had the same process id.
    let _ = fs::remove_dir_all(&directory);
    directory
}

/// A data directory of one service alone, with the packages that all of them share.
pub(crate) fn own_data_dir() -> PathBuf {
    let directory = unused_data_dir();
    fs::create_dir_all(&directory).unwrap();
    symlink(default_data_dir().join("runtimes"), directory.join("runtimes")).unwrap();
    directory
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn done(command: &mut Command) -> Done {
    let output = command.output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Fails unless every manager of this program has left nothing.
pub(crate) fn nothing_is_left() {
    let shown = done(ampoule().args(["doctor", "--leaks"]));
    assert_eq!((shown.code, shown.stdout.as_str()), (0, "no leaks\n"), "{shown:?}");
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // Gone already is as good.
    let _ = kill_process(pid, signal);
}

/// Base64, as the contract wants it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            text.push(if place <= chunk.len() {
                char::from(ALPHABET[word >> (18 - 6 * place) & 63])
            } else {
                '='
            });
        }
    }
    text
}

/// A running service, ended with the test.
pub(crate) struct Service {
    pub(crate) child: Child,
    pub(crate) data_dir: PathBuf,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Service {
    /// Starts one that is ready.
    pub(crate) fn start() -> Self {
        Self::start_with(&mut ampoule())
    }

    pub(crate) fn start_with(command: &mut Command) -> Self {
        let service = Self::start_unready(command);
        eventually("the service is ready", || {
            service.get("/readyz").is_ok_and(|(status, _)| status == 200)
        })
        .unwrap();
        service
    }

    pub(crate) fn start_unready(command: &mut Command) -> Self {
        // A test may have its own reasons for one.
        let chosen = command.get_envs().find_map(|(name, value)| {
            (name == "AMPOULE_DATA_DIR").then(|| value.map(PathBuf::from)).flatten()
        });
        let data_dir = chosen.unwrap_or_else(own_data_dir);
        let mut child = command
            .env("AMPOULE_DATA_DIR", &data_dir)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended");
            match serde_json::from_str::<Value>(&line) {
                Ok(entry) if entry["message"] == "listening" => {
                    break entry["address"].as_str().unwrap().to_owned();
                }
                _ => {}
            }
        };
        let log = Arc::new(Mutex::new(String::new()));
        follow(lines, Arc::clone(&log));
        Self { child, address, data_dir, log }
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn keeper(&self) -> u32 {
        children_of(self.child.id())[0]
    }

    pub(crate) fn launcher(&self) -> Option<u32> {
        children_of(self.keeper()).first().copied()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn request(&self, head: &str, body: &[u8]) -> io::Result<(u16, Value)> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(
            stream,
            "{head} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        // A server may answer and stop listening before it has read everything.
        let _ = stream.write_all(body);
        let mut text = Vec::new();
        let read = stream.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let parsed = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let status = head.split(' ').nth(1)?.parse().ok()?;
            Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
        });
        match (parsed, read) {
            (Some(parsed), _) => Ok(parsed),
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(crate) fn get(&self, path: &str) -> io::Result<(u16, Value)> {
        self.request(&format!("GET {path}"), b"")
    }

    pub(crate) fn post(&self, body: &[u8]) -> io::Result<(u16, Value)> {
        self.request("POST /run", body)
    }

    /// A run that must be answered with 200.
    pub(crate) fn run(&self, language: &str, code: impl AsRef<[u8]>, arguments: &Value) -> Value {
        let body = json!({"code_b64": base64(code.as_ref()), "language": language, "arguments": arguments});
        let (status, answer) = self.post(body.to_string().as_bytes()).unwrap();
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Sends a run and keeps the connection open, without waiting.
    pub(crate) fn start_run(&self, code: &str) -> TcpStream {
        let body = json!({"code_b64": base64(code.as_bytes())}).to_string();
        let mut stream = self.connect();
        write!(stream, "POST /run HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        stream
    }

    /// Asks it to stop and gives its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill(self.child.id(), Signal::TERM);
        self.child.wait().unwrap().code()
    }
}

fn follow(mut lines: BufReader<ChildStderr>, log: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let mut line = String::new();
        while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
            log.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
}

/// Reads the answer of [`Service::start_run`]; `None` if the service went away instead.
pub(crate) fn answer(mut stream: TcpStream) -> Option<Value> {
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let _ = stream.shutdown(Shutdown::Both);
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}

impl Drop for Service {
    fn drop(&mut self) {
        kill(self.child.id(), Signal::TERM);
        let _ = self.child.wait();
    }
}
