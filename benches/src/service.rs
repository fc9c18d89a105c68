//! The service that is measured: started here, with the configuration that a case needs, and stopped.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    io::Read as _,
    io::{Seek as _, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::{
    client::Client,
    failure::{Doing, Failure, Result},
    pool,
    processes::Tree,
};

const READY: Duration = Duration::from_secs(90);
/// How long the service may try whether an interpreter can be forked.
const FORKS: Duration = Duration::from_secs(30);
/// The grace of a shutdown, what cancelling takes, and some more.
const STOP: Duration = Duration::from_secs(45);

/// Variables of the caller that say where things are and what this machine lacks; all else about the
/// service is the case's to say, so that two people measure the same.
const KEPT: [&str; 9] = [
    "AMPOULE_NATIVE_ALLOW_MISSING",
    "AMPOULE_NATIVE_ID_BASE",
    "AMPOULE_NODE_BIN",
    "AMPOULE_PYTHON_BIN",
    "DBUS_SESSION_BUS_ADDRESS",
    "HOME",
    "LANG",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
];

/// What every service here is started with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    pub(crate) data_dir: PathBuf,
    /// Further variables, after those of a case.
    pub(crate) variables: Vec<(String, String)>,
}

impl Setup {
    /// The environment of `ampoule` for a case.
    pub(crate) fn environment(&self, of_case: &[(&str, &str)]) -> BTreeMap<String, String> {
        let kept = KEPT.iter().filter_map(|name| Some(((*name).to_owned(), env::var(name).ok()?)));
        let mut all: BTreeMap<String, String> = kept.collect();
        all.insert("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned());
        all.insert("AMPOULE_DATA_DIR".to_owned(), self.data_dir.display().to_string());
        // No file of the machine's.
        all.insert("AMPOULE_CONFIG".to_owned(), "/dev/null".to_owned());
        if !geteuid().is_root() {
            // Where no control group can be had, a watch counts instead.
            all.entry("AMPOULE_NATIVE_ALLOW_MISSING".to_owned()).or_insert("cgroup".to_owned());
        }
        let of_case = of_case.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        all.extend(of_case);
        all.extend(self.variables.iter().cloned());
        all
    }
}

/// A running service. It is stopped when it is dropped; [`Service::stop`] says whether that went well.
#[derive(Debug)]
pub(crate) struct Service {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Service {
    /// Starts the service and waits until it is ready and its pool is full.
    pub(crate) fn start(setup: &Setup, of_case: &[(&str, &str)]) -> Result<Self> {
        let scratch = tempfile::tempdir().doing("make a directory for the log")?;
        let log = scratch.path().join("log");
        let written = File::create(&log).doing("make the log")?;
        let child = Command::new(&setup.binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "text"])
            .env_clear()
            .envs(setup.environment(of_case))
            .stdin(Stdio::null())
            .stdout(written.try_clone().doing("use the log")?)
            .stderr(written)
            .spawn()
            .doing("start the service")?;
        let mut service = Self {
            child,
            // Told by the log below.
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
            _scratch: scratch,
        };
        service.wait_until_ready()?;
        service.wait_for_forks();
        pool::settle(&service)?;
        Ok(service)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().doing("look at the service")? {
                return Err(self.failed(&format!("ended with {status}")));
            }
            if began.elapsed() > READY {
                return Err(self.failed("is not ready"));
            }
            if self.address.port() == 0 {
                self.address = listening(&self.log_text()).unwrap_or(self.address);
            } else if self.is_ready() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the service has said of forks whether it uses them. One that never does says
    /// nothing.
    fn wait_for_forks(&self) {
        let began = Instant::now();
        while began.elapsed() < FORKS && !self.log_text().contains("of a warm interpreter") {
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_ready(&self) -> bool {
        let ask = b"GET /readyz HTTP/1.1\r\nHost: ampoule\r\n\r\n";
        Client::connect(self.address)
            .and_then(|mut client| Ok(client.exchange(ask)?.1.status == 200))
            .unwrap_or(false)
    }

    fn failed(&self, what: &str) -> Failure {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n  ");
        Failure::Broken(format!("the service {what}; the end of its log:\n  {end}"))
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Result<Client> {
        Client::connect(self.address).doing("connect to the service")
    }

    /// Its processes now.
    pub(crate) fn tree(&self) -> Result<Tree> {
        Tree::read(self.child.id())
    }

    /// Where the log ends now.
    pub(crate) fn log_end(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |file| file.len())
    }

    /// What was logged between two places.
    pub(crate) fn log_between(&self, from: u64, to: u64) -> Result<String> {
        let mut file = File::open(&self.log).doing("read the log")?;
        file.seek(SeekFrom::Start(from)).doing("read the log")?;
        let mut text = Vec::new();
        file.take(to.saturating_sub(from)).read_to_end(&mut text).doing("read the log")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn log_text(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Stops it in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        if self.end() { Ok(()) } else { Err(self.failed("did not stop and was killed")) }
    }

    /// Whether it ended in time, by itself, and with success.
    fn end(&mut self) -> bool {
        if let Ok(Some(status)) = self.child.try_wait() {
            return status.success();
        }
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            // Only if it has ended meanwhile, and then the next look says so.
            let _ = kill_process(pid, Signal::TERM);
        }
        let began = Instant::now();
        while began.elapsed() < STOP {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.success();
            }
            thread::sleep(Duration::from_millis(10));
        }
        // The keeper sees its end, and takes everything along.
        let _ = self.child.kill();
        let _ = self.child.wait();
        false
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

/// The address that the log says.
fn listening(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains(" listening "))?;
    line.split_once("address=")?.1.split_whitespace().next()?.parse().ok()
}

/// The interpreters that a service of this set-up uses.
#[derive(Clone, Debug)]
pub(crate) struct Interpreters {
    pub(crate) python: PathBuf,
    pub(crate) node: PathBuf,
    /// Where numpy, pandas and so on are, if they are installed.
    pub(crate) python_packages: Option<PathBuf>,
}

impl Interpreters {
    /// Asks `ampoule`.
    pub(crate) fn of(setup: &Setup) -> Result<Self> {
        let output = Command::new(&setup.binary)
            .args(["runtimes", "list", "--json"])
            .env_clear()
            .envs(setup.environment(&[]))
            .stdin(Stdio::null())
            .output()
            .doing("run `ampoule runtimes list`")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::Broken(format!("`ampoule runtimes list`: {}", said.trim())));
        }
        let listed = serde_json::from_slice(&output.stdout).doing("read the list of runtimes")?;
        Self::from_list(&listed)
    }

    fn from_list(listed: &serde_json::Value) -> Result<Self> {
        let of = |language: &str, path: &str| {
            let each = listed.as_array()?.iter().find(|each| each["language"] == language)?;
            each.pointer(path)?.as_str().map(|path| Path::new(path).to_owned())
        };
        let interpreter = |language: &str| {
            of(language, "/interpreter/path")
                .ok_or_else(|| Failure::Broken(format!("there is no interpreter for `{language}`")))
        };
        Ok(Self {
            python: interpreter("python")?,
            node: interpreter("javascript")?,
            python_packages: of("python", "/packages_dir"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_in_the_log() {
        let log = "2026-11-22T02:57:24Z  WARN ampoule_cli: unknown variable\n\
                   2026-11-22T02:57:24Z  INFO ampoule_server::serve: listening address=127.0.0.1:45821\n";
        assert_eq!(listening(log), Some(SocketAddr::from(([127, 0, 0, 1], 45821))));
        assert_eq!(listening("2026 INFO ampoule: starting\n"), None);
    }

    #[test]
    fn interpreters_are_those_of_the_list() {
        let listed = serde_json::json!([
            {"language": "python", "interpreter": {"path": "/usr/bin/python3.11"}, "packages_dir": null},
            {"language": "javascript", "interpreter": {"path": "/usr/bin/node"}, "packages_dir": "/d"},
        ]);
        let found = Interpreters::from_list(&listed).unwrap();
        assert_eq!(found.python, Path::new("/usr/bin/python3.11"));
        assert_eq!(
            (found.node.as_path(), found.python_packages),
            (Path::new("/usr/bin/node"), None)
        );
        assert!(Interpreters::from_list(&serde_json::json!([])).is_err());
    }
}
