//! The commands of pip and npm that fill a directory from a locked list.

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use ampoule_core::{Error, ErrorKind, Result};

use super::OPERATION;
use super::interpreter::{clean_command, on_path};
use super::{Interpreter, PACKAGES_INSIDE, RuntimeFolder};

/// How many of a command's last lines an error shows.
const LINES_SHOWN: usize = 8;

/// Fills `stage` with pip, from files whose digests are in the lock, and compiles them: programs
/// see the directory read-only and could not keep the compiled files themselves.
pub(super) fn pip(
    runtime: &RuntimeFolder,
    interpreter: &Interpreter,
    stage: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let lock = write_package_files(runtime, stage)?;
    let (mut command, options) = pip_command(interpreter)?;
    command
        .arg("install")
        .args(options)
        .args(["--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile"])
        .args(["--progress-bar=off", "--no-input", "--upgrade", "--target"])
        .arg(stage)
        .arg("-r")
        .arg(&lock)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_ROOT_USER_ACTION", "ignore");
    for name in
        ["PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV", "PIP_REQUIREMENT"]
    {
        command.env_remove(name);
    }
    run(command, "pip", &mut |line| {
        // Not the lines about what it looks at or leaves out.
        if line.starts_with("Downloading") || line.starts_with("Installing") {
            progress(line);
        }
    })?;
    remove_files(&lock)?;
    // Scripts of the packages, which begin with a path of this host; programs import, they do not
    // call scripts.
    let scripts = stage.join("bin");
    if scripts.is_dir() {
        fs::remove_dir_all(&scripts).map_err(|error| unwritable(&scripts, error))?;
    }
    progress("compiling the packages");
    let mut compile = clean_command(&interpreter.host_path);
    compile
        .args(["-I", "-S", "-m", "compileall", "-q", "-j", "0"])
        // Never compared with the source: nobody can change it.
        .args(["--invalidation-mode", "unchecked-hash", "-p", PACKAGES_INSIDE, "-s"])
        .arg(stage)
        .arg(stage);
    // A package may hold files of another Python's syntax; they stay as they are.
    let _ = compile.stdout(Stdio::null()).stderr(Stdio::null()).status();
    Ok(())
}

/// Fills `stage` with npm, from files whose digests are in the lock; no script of a package runs.
pub(super) fn npm(
    runtime: &RuntimeFolder,
    interpreter: &Interpreter,
    stage: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    write_package_files(runtime, stage)?;
    let beside = interpreter.host_path.parent().map(|directory| directory.join("npm"));
    let npm = beside.filter(|npm| npm.is_file()).or_else(|| on_path("npm")).ok_or_else(|| {
        Error::new(
            ErrorKind::Unavailable,
            OPERATION,
            "there is no npm; hint: install it with `apt-get install npm`",
        )
    })?;
    let mut command = clean_command(&npm);
    // npm is a script that looks for `node`: this one first.
    let directories = interpreter.host_path.parent().map(Path::to_path_buf).into_iter();
    let path = env::var_os("PATH").unwrap_or_default();
    if let Ok(path) = env::join_paths(directories.chain(env::split_paths(&path))) {
        command.env("PATH", path);
    }
    command
        .args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--no-update-notifier", "--loglevel=error", "--prefix"])
        .arg(stage)
        .current_dir(stage);
    run(command, "npm", progress)
}

/// The pip of the interpreter itself, or another one with the options that tell it what to install
/// for.
fn pip_command(interpreter: &Interpreter) -> Result<(Command, Vec<String>)> {
    let has_pip = |program: &Path, arguments: &[&str]| {
        let mut command = clean_command(program);
        command.args(arguments).arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if has_pip(&interpreter.host_path, &["-m", "pip"]) {
        let mut command = clean_command(&interpreter.host_path);
        command.args(["-m", "pip"]);
        return Ok((command, Vec::new()));
    }
    let others = ["pip3", "pip"].into_iter().filter_map(on_path);
    let Some(pip) = others.into_iter().find(|pip| has_pip(pip, &[])) else {
        return Err(Error::new(
            ErrorKind::Unavailable,
            OPERATION,
            format!(
                "`{}` has no pip and none is on `PATH`; hint: install it with `apt-get install python3-pip`",
                interpreter.host_path.display()
            ),
        ));
    };
    let (major, minor) = interpreter.minor_version()?;
    Ok((clean_command(&pip), foreign_options(major, minor, env::consts::ARCH)))
}

/// What a pip of another interpreter must be told.
fn foreign_options(major: u32, minor: u32, machine: &str) -> Vec<String> {
    // pip does not know that a newer platform runs the files of an older one.
    let platforms = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_24"]
        .into_iter()
        .chain(["manylinux_2_17", "manylinux2014", "linux"]);
    let platforms = platforms.map(|platform| format!("--platform={platform}_{machine}"));
    let version = format!("--python-version={major}.{minor}");
    let abi = format!("--abi=cp{major}{minor}");
    let named = [version, "--implementation=cp".to_owned(), abi, "--abi=abi3".to_owned()];
    named.into_iter().chain(["--abi=none".to_owned()]).chain(platforms).collect()
}

/// Writes the files that the packages are installed from and gives the path of the lock.
fn write_package_files(runtime: &RuntimeFolder, stage: &Path) -> Result<PathBuf> {
    for (name, text) in &runtime.package_files {
        let path = stage.join(name);
        fs::write(&path, text.as_bytes()).map_err(|error| unwritable(&path, error))?;
    }
    let lock = runtime.manifest.packages.as_ref().map(|packages| packages.lock.as_str());
    Ok(stage.join(lock.unwrap_or_default()))
}

fn remove_files(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|error| unwritable(path, error))
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, OPERATION, format!("cannot write `{}`", path.display()))
        .with_source(error)
}

/// Runs a command, hands its lines on as they come, and shows the last ones if it fails.
fn run(mut command: Command, name: &str, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let failed = |text: String| Error::new(ErrorKind::Unavailable, OPERATION, text);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("`{name}` does not start")).with_source(error))?;
    let errors = child.stderr.take();
    let errors = thread::spawn(move || errors.map(last_lines).unwrap_or_default());
    let mut told = VecDeque::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
            let line = line.trim();
            if !line.is_empty() {
                progress(line);
                keep(&mut told, line);
            }
        }
    }
    let status =
        child.wait().map_err(|error| failed(format!("`{name}` was lost")).with_source(error))?;
    let mut shown = errors.join().unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    if shown.is_empty() {
        shown = told;
    }
    let shown: Vec<String> = shown.into();
    Err(failed(format!(
        "`{name}` ended with {status}: {}; hint: is the package registry reachable, and does the interpreter fit the locked versions?",
        shown.join(" | ")
    )))
}

fn last_lines(stream: impl Read) -> VecDeque<String> {
    let mut lines = VecDeque::new();
    for line in BufReader::new(stream).lines().map_while(std::io::Result::ok) {
        if !line.trim().is_empty() {
            keep(&mut lines, line.trim());
        }
    }
    lines
}

fn keep(lines: &mut VecDeque<String>, line: &str) {
    if lines.len() == LINES_SHOWN {
        lines.pop_front();
    }
    lines.push_back(line.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_shows_its_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo on the way; echo wrong digest >&2; exit 3"]);
        let mut lines = Vec::new();
        let error = run(command, "pip", &mut |line: &str| lines.push(line.to_owned())).unwrap_err();
        assert_eq!(lines, ["on the way"]);
        assert!(
            error.message().contains("`pip` ended with exit status: 3: wrong digest"),
            "{error}"
        );
    }

    #[test]
    fn another_pip_is_told_what_to_install_for() {
        let options = foreign_options(3, 12, "aarch64");
        for wanted in [
            "--python-version=3.12",
            "--implementation=cp",
            "--abi=cp312",
            "--abi=none",
            "--platform=manylinux_2_28_aarch64",
            "--platform=manylinux2014_aarch64",
        ] {
            assert!(options.iter().any(|option| option == wanted), "{wanted}");
        }
    }
}
