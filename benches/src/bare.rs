//! The bare interpreters, as cheap as they can be had.
//!
//! `std::process::Command` without hooks is one `posix_spawn` (a `vfork` that does not copy our
//! page tables), and that is the fair baseline: a dearer way to start them would make us look fast.
//! The environment is empty but for what the case needs: additional certificates make Node.js three
//! times as slow, files of a version manager make Python so.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use nix::sys::resource::{UsageWho, getrusage};

use crate::{
    failure::{Doing, Failure, Result},
    service::Interpreters,
};

/// Libraries that start a thread per processor only lose here: as in the sandbox, one.
const ONE_THREAD: [&str; 6] = [
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
];

/// A program that is started bare.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) name: &'static str,
    command: Command,
}

impl Bare {
    fn new(name: &'static str, program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self { name, command }
    }

    /// Python that starts as isolated as programs of others should, with `site`.
    pub(crate) fn python(interpreters: &Interpreters) -> Self {
        Self::new("python3 -I -B -c pass", &interpreters.python, &["-I", "-B", "-c", "pass"])
    }

    /// The fastest way to start Python.
    pub(crate) fn python_without_site(interpreters: &Interpreters) -> Self {
        Self::new("python3 -I -S -c pass", &interpreters.python, &["-I", "-S", "-c", "pass"])
    }

    /// Python that runs this text, with the flags that it has in a sandbox.
    pub(crate) fn python_text(name: &'static str, interpreters: &Interpreters, text: &str) -> Self {
        Self::new(name, &interpreters.python, &["-I", "-S", "-B", "-c", text])
    }

    /// Python that imports pandas from the packages that the sandbox has, one thread a library.
    pub(crate) fn pandas(interpreters: &Interpreters) -> Result<Self> {
        let packages = interpreters.python_packages.as_ref().ok_or_else(|| {
            Failure::Broken("pandas is not installed; hint: `ampoule runtimes install`".to_owned())
        })?;
        let text = format!("import sys; sys.path.insert(0, {packages:?}); import pandas");
        let mut bare =
            Self::python_text("python3 -I -S -B -c 'import pandas'", interpreters, &text);
        bare.command.envs(ONE_THREAD.map(|name| (name, "1")));
        Ok(bare)
    }

    /// Node.js.
    pub(crate) fn node(interpreters: &Interpreters) -> Self {
        Self::new("node -e 0", &interpreters.node, &["-e", "0"])
    }

    /// `ampoule run` of a script, which is no baseline but is started the same way.
    pub(crate) fn ampoule(
        name: &'static str,
        binary: &Path,
        script: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut bare = Self::new(name, binary, &["run"]);
        bare.command.arg(script).envs(environment);
        bare
    }

    /// Starts it and waits for its end; the time in milliseconds.
    pub(crate) fn start(&mut self) -> Result<f64> {
        let began = Instant::now();
        let ended = self.command.spawn().and_then(|mut child| child.wait());
        let took = began.elapsed();
        let status = ended.doing(&format!("run `{}`", self.name))?;
        if !status.success() {
            return Err(Failure::Broken(format!("`{}` ended with {status}", self.name)));
        }
        Ok(took.as_secs_f64() * 1000.0)
    }

    /// Starts it and waits for its end; what it printed, and the cpu time in microseconds that the
    /// kernel counts for it. Nothing else that was started here may end meanwhile.
    pub(crate) fn output_and_cpu(&mut self) -> Result<(String, f64)> {
        let before = cpu_of_ended_children()?;
        let child = self.command.stdout(Stdio::piped()).spawn();
        let output = child
            .and_then(std::process::Child::wait_with_output)
            .doing(&format!("run `{}`", self.name))?;
        let used = cpu_of_ended_children()? - before;
        if !output.status.success() {
            return Err(Failure::Broken(format!("`{}` ended with {}", self.name, output.status)));
        }
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), used))
    }
}

/// Microseconds of all children that have ended and were waited for.
fn cpu_of_ended_children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).doing("ask for the cpu time of children")?;
    let (user, system) = (usage.user_time(), usage.system_time());
    #[expect(clippy::cast_precision_loss, reason = "no benchmark takes 2^53 microseconds")]
    let microseconds =
        ((user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec()) as f64;
    Ok(microseconds)
}
