//! One runner in one empty directory, with pipes for its four descriptors.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ampoule_core::{ProgramError, Protocol};
use ampoule_providers::runtimes::{Catalogue, Placeholders, resolve_from_environment};
use serde_json::value::RawValue;

const NONCE: &str = "5eed";

/// How a program must end.
#[derive(Debug)]
pub(crate) enum Expect {
    /// With this value, as compact JSON.
    Value(&'static str),
    /// With an error frame: the type, a part of the message, the line.
    Error(&'static str, &'static str, Option<u32>),
    /// Without a frame, with this exit code.
    Exit(i32),
    /// Without a frame, with a code that is not zero.
    NoFrame,
}

/// One row: what it shows, the program, its arguments, its end.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) code: &'static str,
    pub(crate) arguments: &'static str,
    pub(crate) expect: Expect,
    /// What stderr must hold.
    pub(crate) stderr: &'static [&'static str],
}

/// A row without arguments and without a word on stderr.
pub(crate) const fn case(name: &'static str, code: &'static str, expect: Expect) -> Case {
    Case { name, code, arguments: "{}", expect, stderr: &[] }
}

impl Case {
    pub(crate) const fn with(self, arguments: &'static str) -> Self {
        Self { arguments, ..self }
    }

    pub(crate) const fn says(self, stderr: &'static [&'static str]) -> Self {
        Self { stderr, ..self }
    }
}

/// A runner and the directory that its program runs in.
pub(crate) struct Runner {
    protocol: Protocol,
    directory: tempfile::TempDir,
    command: Vec<String>,
    environment: Vec<(String, String)>,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The frame as JSON.
    pub(crate) frame: Option<String>,
    /// What came on the result channel and was not one frame.
    pub(crate) garbage: bool,
    /// The exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame {
    nonce: String,
    #[serde(default)]
    value: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<ProgramError>,
}

impl End {
    fn parsed(&self) -> Option<Frame> {
        let frame: Frame = serde_json::from_str(self.frame.as_deref()?).expect("a frame is JSON");
        assert_eq!(frame.nonce, NONCE);
        Some(frame)
    }

    /// The value's JSON, if there is one.
    pub(crate) fn value(&self) -> Option<&str> {
        let frame = self.frame.as_deref()?;
        let body = frame.strip_prefix("{\"nonce\":\"5eed\",\"value\":")?;
        body.strip_suffix('}')
    }
}

impl Runner {
    pub(crate) fn new(language: &str) -> Self {
        let folders = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtimes");
        let catalogue = Catalogue::load_dir(folders.as_ref()).unwrap();
        let runtime = catalogue.get(language).unwrap();
        let interpreter = resolve_from_environment(&runtime.manifest).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let runner = root.join(&runtime.manifest.runner);
        fs::write(&runner, runtime.runner.as_bytes()).unwrap();
        fs::create_dir_all(root.join("workspace/artifacts")).unwrap();
        let placeholders = Placeholders {
            interpreter: interpreter.host_path.to_str().unwrap(),
            runner: runner.to_str().unwrap(),
            packages: "/nonexistent/packages",
            heap_mb: Some(192),
        };
        let command = runtime.command(&placeholders);
        let mut environment = runtime.environment(&placeholders);
        // Outside of a sandbox `/tmp` is everybody's.
        environment.insert("TMPDIR".to_owned(), root.to_str().unwrap().to_owned());
        let environment = environment.into_iter().collect();
        Self { protocol: runtime.manifest.protocol, directory, command, environment }
    }

    fn workspace(&self) -> std::path::PathBuf {
        self.directory.path().join("workspace")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.workspace().join(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.workspace().join(name)).unwrap()
    }

    /// The runner's own source.
    pub(crate) fn source(&self) -> String {
        let runner = self.command.iter().find(|part| part.contains("runner.")).unwrap();
        fs::read_to_string(runner).unwrap()
    }

    /// Runs one program. The shell makes descriptor 3 of what we know as stderr, so that no test
    /// handles descriptors by hand; the real stderr goes to a file. What the tests themselves were
    /// given (a build tool's pipes) is closed.
    pub(crate) fn run(&self, code: &str, arguments: &str) -> End {
        let stderr = self.directory.path().join("stderr");
        let mut child = Command::new("sh")
            .args([
                "-c",
                "f=$1; shift; exec \"$@\" 3>&2 2>>\"$f\" 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-",
                "sh",
            ])
            .arg(&stderr)
            .args(&self.command)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.workspace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut result = child.stderr.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut ready = [0];
        result.read_exact(&mut ready).expect("the runner says that it is ready");
        assert_eq!(ready, [1]);
        let request = match self.protocol {
            Protocol::Frames => request(code, arguments),
            Protocol::Text => text_request(code, arguments),
        };
        let mut input = child.stdin.take().unwrap();
        input.write_all(&request).unwrap();
        drop(input);
        let output = thread::spawn(move || {
            let mut bytes = Vec::new();
            output.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let mut bytes = Vec::new();
        result.read_to_end(&mut bytes).unwrap();
        let status = child.wait().unwrap();
        let frame = match self.protocol {
            Protocol::Frames => frame(&bytes),
            Protocol::Text => text_frame(&bytes),
        };
        End {
            stdout: output.join().unwrap(),
            stderr: fs::read_to_string(&stderr).unwrap_or_default(),
            garbage: frame.is_none() && !bytes.is_empty(),
            frame,
            code: status.code().filter(|_| status.signal().is_none()),
        }
    }
}

fn request(code: &str, arguments: &str) -> Vec<u8> {
    let code = serde_json::to_string(code).unwrap();
    let json = format!(
        "{{\"nonce\":\"{NONCE}\",\"code\":{code},\"arguments\":{arguments},\"max_value_bytes\":100000,\"max_depth\":100}}"
    );
    let length = u32::try_from(json.len()).unwrap().to_le_bytes();
    [length.as_slice(), json.as_bytes()].concat()
}

fn frame(bytes: &[u8]) -> Option<String> {
    let (length, body) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap();
    (body.len() == length).then(|| String::from_utf8(body.to_vec()).unwrap())
}

/// The request of the protocol `text`, as its page in the documents has it.
fn text_request(code: &str, arguments: &str) -> Vec<u8> {
    let mut text = String::new();
    let mut item = |name: &str, line: &str| {
        let line = line.replace('\\', r"\\").replace('\n', r"\n").replace('\0', r"\0");
        write!(text, "{name} {}\n{line}\n", line.len()).unwrap();
    };
    item("nonce", NONCE);
    item("max_value_bytes", "100000");
    item("max_depth", "100");
    item("code", code);
    item("arguments", arguments);
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(arguments).unwrap();
    for (key, value) in &object {
        item("key", key);
        match value {
            serde_json::Value::String(text) => item("string", text),
            other => item("json", &other.to_string()),
        }
    }
    item("end", "");
    text.into_bytes()
}

/// A result of the protocol `text`, told as the JSON frame that means the same.
fn text_frame(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (header, body) = text.split_once('\n')?;
    let mut words = header.split(' ');
    let (nonce, kind, length) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || length != body.len().to_string() {
        return None;
    }
    let body = if kind == "error" {
        let (kind, rest) = body.split_once('\n')?;
        let (line, message) = rest.split_once('\n')?;
        let line = line.parse().ok();
        let error = ProgramError { kind: kind.to_owned(), message: message.to_owned(), line };
        serde_json::to_string(&error).unwrap()
    } else {
        body.to_owned()
    };
    Some(format!("{{\"nonce\":\"{nonce}\",\"{kind}\":{body}}}"))
}

/// Runs a table, two programs at a time, and tells of all rows that fail.
pub(crate) fn check(language: &str, cases: &[Case]) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut failures = String::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let runner = Runner::new(language);
            let end = runner.run(case.code, case.arguments);
            if let Err(problem) = judge(case, &end, runner.directory.path().to_str().unwrap()) {
                writeln!(failures, "{}: {problem}\n{end:#?}\n", case.name).unwrap();
            }
        }
        failures
    };
    let failures = thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.map(|worker| worker.join().unwrap()).concat()
    });
    assert!(failures.is_empty(), "{failures}");
}

fn judge(case: &Case, end: &End, directory: &str) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("expected {:?}: {what}", case.expect));
    if end.garbage {
        return wrong("garbage on the result channel");
    }
    let frame = end.parsed();
    match case.expect {
        Expect::Value(value) => {
            let found = frame.as_ref().and_then(|frame| frame.value.as_ref());
            if end.value() != Some(value) || (found.is_none() && value != "null") {
                return wrong("another value");
            }
            if end.code != Some(0) {
                return wrong("another exit code");
            }
        }
        Expect::Error(kind, message, line) => {
            let Some(error) = frame.and_then(|frame| frame.error) else {
                return wrong("no error frame");
            };
            if error.kind != kind || !error.message.contains(message) || error.line != line {
                return wrong("another error");
            }
            if end.code != Some(1) {
                return wrong("another exit code");
            }
        }
        Expect::Exit(code) if frame.is_some() || end.code != Some(code) => {
            return wrong("another end");
        }
        Expect::NoFrame if frame.is_some() || end.code == Some(0) => return wrong("another end"),
        Expect::Exit(_) | Expect::NoFrame => {}
    }
    for text in case.stderr {
        if !end.stderr.contains(text) {
            return wrong(&format!("stderr lacks {text:?}"));
        }
    }
    // Node names the file that asked for a missing module; in a sandbox that is `/workspace/main.js`.
    let own_file = |line: &str| line.contains("workspace/main.");
    let tells = |line: &str| line.contains("runner.") || line.contains(directory);
    if end.stderr.lines().any(|line| tells(line) && !own_file(line)) {
        return wrong("stderr shows the runner or a path of the host");
    }
    Ok(())
}
