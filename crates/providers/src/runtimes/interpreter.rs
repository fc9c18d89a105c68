//! Finds an interpreter on this host, and what of it the sandbox must show.
//!
//! The sandbox always has the host's `/usr/bin`, `/usr/lib`, `/usr/lib64` and `/usr/share`. An
//! interpreter there stays at its path. Any other (of a version manager, `/usr/local`, `/opt`, the
//! base of a virtual environment) has its own tree shown at [`INTERPRETER_INSIDE`]. Nothing is
//! spawned for an interpreter that is a binary: a command that runs one program starts in
//! milliseconds. Only shims, which are scripts or binaries of a version manager, are asked.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ampoule_core::{Error, ErrorKind, Result, RuntimeManifest};

use super::INTERPRETER_INSIDE;
use super::ask::{ask, have_made};

const OPERATION: &str = "find an interpreter";

/// An interpreter of this host.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// The real file on the host.
    pub host_path: PathBuf,
    /// Its path inside the sandbox.
    pub inside_path: String,
    /// The tree that the sandbox must show for it, if it is not under `/usr`.
    pub prefix_tree: Option<PrefixTree>,
    /// The directory inside the sandbox that holds its shared library (`LD_LIBRARY_PATH`), if the
    /// interpreter would look for it at its place on the host.
    pub library_path: Option<String>,
    version_arguments: Vec<String>,
    version: OnceLock<String>,
}

/// A directory of the host and the place where the sandbox shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixTree {
    /// The directory on the host.
    pub host: PathBuf,
    /// Its path inside the sandbox.
    pub inside: String,
}

/// Finds the interpreter that the manifest names, or `over`, the value of its variable, which wins.
pub fn resolve(manifest: &RuntimeManifest, over: Option<&OsStr>) -> Result<Interpreter> {
    Search { manifest, path: env::var_os("PATH").unwrap_or_default(), home: home() }.resolve(over)
}

/// As [`resolve`], with the variable read from the environment.
pub fn resolve_from_environment(manifest: &RuntimeManifest) -> Result<Interpreter> {
    resolve(manifest, env::var_os(&manifest.interpreter_variable).as_deref())
}

fn home() -> Option<PathBuf> {
    env::var_os("HOME").map(PathBuf::from)
}

/// One search, with what it takes from the environment.
struct Search<'a> {
    manifest: &'a RuntimeManifest,
    path: OsString,
    home: Option<PathBuf>,
}

impl Search<'_> {
    fn resolve(&self, over: Option<&OsStr>) -> Result<Interpreter> {
        let variable = &self.manifest.interpreter_variable;
        let language = &self.manifest.language;
        let fail = |text: String| Err(Error::new(ErrorKind::Unavailable, OPERATION, text));
        if let Some(over) = over.filter(|value| !value.is_empty()) {
            return match self.locate(over) {
                Ok(interpreter) => Ok(interpreter),
                Err(problem) => fail(format!(
                    "`{variable}` is `{}`: {problem}; hint: set it to the path of an interpreter for {language}",
                    over.display()
                )),
            };
        }
        let mut problems = Vec::new();
        for candidate in &self.manifest.interpreter {
            match self.locate(OsStr::new(candidate)) {
                Ok(interpreter) => return Ok(interpreter),
                Err(problem) => problems.push(format!("`{candidate}`: {problem}")),
            }
        }
        fail(format!(
            "there is none for {language} ({}); hint: {}, or set `{variable}` to the path of one",
            problems.join("; "),
            match language.as_str() {
                "python" => "install it with `apt-get install python3`",
                "javascript" => "install Node.js with `apt-get install nodejs`",
                _ => "install one",
            }
        ))
    }

    /// Takes one candidate, or says what is wrong with it.
    fn locate(&self, candidate: &OsStr) -> Result<Interpreter, String> {
        let found = self.find_file(candidate)?;
        let real = match fs::canonicalize(&found) {
            Ok(real) if is_binary(&real) && self.is_named_like_it(&real) => real,
            Ok(_) => self.ask_shim(&found)?,
            Err(error) => return Err(error.to_string()),
        };
        self.place(base_of_environment(&real).unwrap_or(real))
    }

    fn find_file(&self, candidate: &OsStr) -> Result<PathBuf, String> {
        let path = Path::new(candidate);
        if path.is_absolute() {
            return if is_executable(path) {
                Ok(path.to_owned())
            } else if path.exists() {
                Err("it is not executable".to_owned())
            } else {
                Err("there is no such file".to_owned())
            };
        }
        if path.components().count() != 1 {
            return Err("it is a relative path".to_owned());
        }
        env::split_paths(&self.path)
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(path))
            .find(|file| is_executable(file))
            .ok_or_else(|| "it is not on `PATH`".to_owned())
    }

    /// Whether a binary's name is an interpreter's: the shims of some version managers are links to
    /// the manager itself.
    fn is_named_like_it(&self, real: &Path) -> bool {
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        match self.manifest.language.as_str() {
            "python" => name.starts_with("python"),
            "javascript" => name.starts_with("node"),
            _ => true,
        }
    }

    /// Asks a version manager's shim which interpreter it would start.
    fn ask_shim(&self, shim: &Path) -> Result<PathBuf, String> {
        let question: &[&str] = match self.manifest.language.as_str() {
            "python" => {
                &["-I", "-S", "-c", "import os, sys; print(os.path.realpath(sys.executable))"]
            }
            "javascript" => &["-p", "process.execPath"],
            _ => return Err("it is not a binary".to_owned()),
        };
        let answer = ask(clean_command(shim).args(question))
            .map_err(|error| format!("it is a shim that gives no answer: {error}"))?;
        if !answer.status.success() {
            let text = String::from_utf8_lossy(&answer.stderr);
            let first = text.lines().next().unwrap_or("it says nothing").trim();
            return Err(format!("it is a shim that finds no interpreter: {first}"));
        }
        let path = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim());
        match fs::canonicalize(&path) {
            Ok(real) if is_binary(&real) => Ok(real),
            _ => Err(format!("it is a shim for `{}`, which is no binary", path.display())),
        }
    }

    /// Says where the sandbox shows an interpreter.
    fn place(&self, real: PathBuf) -> Result<Interpreter, String> {
        let mut interpreter = Interpreter {
            inside_path: utf8(&real)?.to_owned(),
            host_path: real,
            prefix_tree: None,
            library_path: None,
            version_arguments: self.manifest.version_arguments.clone(),
            version: OnceLock::new(),
        };
        let real = &interpreter.host_path;
        if real.starts_with("/usr") && !real.starts_with("/usr/local") {
            return Ok(interpreter);
        }
        let directory = real.parent().ok_or("it has no directory")?;
        let name = utf8(Path::new(real.file_name().unwrap_or_default()))?;
        let prefix = directory.parent().filter(|_| directory.ends_with("bin"));
        let (host, inside) = match prefix.filter(|prefix| self.needs_prefix(prefix)) {
            Some(prefix) => {
                if has_shared_library(&prefix.join("lib"), self.library_stem()) {
                    interpreter.library_path = Some(format!("{INTERPRETER_INSIDE}/lib"));
                }
                (prefix, INTERPRETER_INSIDE.to_owned())
            }
            None if self.manifest.language.as_str() == "python" => {
                return Err(format!("`{}` has no standard library beside it", real.display()));
            }
            // A single binary needs nothing else of its prefix.
            None => (directory, format!("{INTERPRETER_INSIDE}/bin")),
        };
        if host.components().count() < 3 || self.home.as_deref() == Some(host) {
            return Err(format!(
                "the sandbox would show all of `{}`: move it to a directory of its own",
                host.display()
            ));
        }
        interpreter.inside_path = format!("{INTERPRETER_INSIDE}/bin/{name}");
        interpreter.prefix_tree = Some(PrefixTree { host: host.to_owned(), inside });
        Ok(interpreter)
    }

    /// Whether an interpreter does not work without what is beside its `bin`.
    fn needs_prefix(&self, prefix: &Path) -> bool {
        match self.manifest.language.as_str() {
            "python" => directory_names(&prefix.join("lib")).iter().any(|name| {
                name.starts_with("python3.")
                    && prefix.join("lib").join(name).join("os.py").is_file()
            }),
            _ => {
                self.manifest.needs_prefix
                    || has_shared_library(&prefix.join("lib"), self.library_stem())
                    || prefix.join("conda-meta").is_dir()
            }
        }
    }

    fn library_stem(&self) -> &'static str {
        if self.manifest.language.as_str() == "python" { "libpython3." } else { "libnode." }
    }
}

impl Interpreter {
    /// The version, such as `3.11.2`. The first call runs the interpreter: some 10 ms or more.
    pub fn version(&self) -> Result<&str> {
        if let Some(version) = self.version.get() {
            return Ok(version);
        }
        let fail = |why: &str| {
            let (path, arguments) = (self.host_path.display(), self.version_arguments.join(" "));
            let text = format!("`{path} {arguments}` tells no version{why}; hint: run it by hand");
            Error::new(ErrorKind::Unavailable, OPERATION, text)
        };
        let output = ask(clean_command(&self.host_path).args(&self.version_arguments))
            .map_err(|error| fail(&format!(": {error}")))?;
        let text = [output.stdout, output.stderr].concat();
        let version = first_version(&String::from_utf8_lossy(&text)).ok_or_else(|| fail(""))?;
        Ok(self.version.get_or_init(|| version))
    }

    /// The first two numbers of the version, from the file's name (`python3.11`) where it says so.
    pub fn minor_version(&self) -> Result<(u32, u32)> {
        let name = self.host_path.file_name().unwrap_or_default().to_string_lossy();
        let from_name = first_version(&name).map(|version| numbers(&version));
        if let Some([major, minor, ..]) = from_name.as_deref() {
            return Ok((*major, *minor));
        }
        let version = numbers(self.version()?);
        Ok((version.first().copied().unwrap_or(0), version.get(1).copied().unwrap_or(0)))
    }

    /// Compiles a source by a command line of its manifest, in which it is called `name`.
    pub fn compile(&self, command: &[String], name: &str, source: &str) -> Result<Vec<u8>> {
        let fail = |why: &str| {
            let path = self.host_path.display();
            let text = format!(
                "`{path}` does not{why}; hint: mend `compiled.command` of its manifest, or leave it out"
            );
            Error::new(ErrorKind::Unavailable, "compile a runner", text)
        };
        let arguments = command.iter().skip(1).map(|part| part.replace("{runner}", name));
        let output = have_made(clean_command(&self.host_path).args(arguments), source.as_bytes())
            .map_err(|error| fail(&format!(": {error}")))?;
        if !output.status.success() || output.stdout.is_empty() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(fail(&format!(": {}", text.lines().last().unwrap_or("it says nothing"))));
        }
        Ok(output.stdout)
    }

    /// Refuses an interpreter that is older than its runtime needs.
    pub fn check_version(&self, manifest: &RuntimeManifest) -> Result<()> {
        let found = self.version()?;
        if numbers(found) >= numbers(&manifest.minimum_version) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            OPERATION,
            format!(
                "found {} {found} at `{}`, need {} or newer; hint: set `{}` to a newer one",
                manifest.language,
                self.host_path.display(),
                manifest.minimum_version,
                manifest.interpreter_variable
            ),
        ))
    }
}

/// A command without the variables that make an interpreter behave otherwise, and without those
/// that hold the token of the service or of another: that is no program's business.
pub(super) fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "NODE_OPTIONS", "NODE_PATH"] {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        let text = name.as_encoded_bytes();
        if text.ends_with(b"_API_TOKEN") || text.starts_with(b"AMPOULE_AUTH_") {
            command.env_remove(&name);
        }
    }
    command.stdin(std::process::Stdio::null());
    command
}

/// Finds an executable by its name on `PATH`.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

/// The names in a directory; none if it cannot be read.
pub(super) fn directory_names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn utf8(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("`{}` is not UTF-8", path.display()))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
}

fn is_binary(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

fn has_shared_library(directory: &Path, stem: &str) -> bool {
    directory_names(directory).iter().any(|name| name.starts_with(stem) && name.contains(".so"))
}

/// The interpreter that a virtual environment with copied binaries was made from.
fn base_of_environment(real: &Path) -> Option<PathBuf> {
    let settings = fs::read_to_string(real.parent()?.parent()?.join("pyvenv.cfg")).ok()?;
    let home = settings.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == "home").then(|| value.trim())
    })?;
    fs::canonicalize(Path::new(home).join(real.file_name()?)).ok().filter(|base| is_binary(base))
}

/// The first run of numbers with dots in a text.
fn first_version(text: &str) -> Option<String> {
    let start = text.find(|letter: char| letter.is_ascii_digit())?;
    let rest = &text[start..];
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    Some(rest[..end.unwrap_or(rest.len())].trim_end_matches('.').to_owned())
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
#[path = "interpreter_tests.rs"]
mod tests;
