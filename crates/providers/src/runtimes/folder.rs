//! One runtime folder: what is read of it, and what is wrong with it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ampoule_core::{Error, ErrorKind, Language, ManifestError, Result, RuntimeManifest};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};

/// What an error of a folder happened during.
pub(super) const OPERATION: &str = "read the runtimes";

/// The manifest's file name in a runtime folder.
pub(super) const MANIFEST: &str = "manifest.toml";

/// The largest file of a folder, in bytes: a locked list of packages may be long.
const MAX_FILE: u64 = 4 << 20;

/// The largest manifest and runner, in bytes.
const MAX_SOURCE: usize = 1 << 20;

/// One runtime: its manifest and the files beside it.
#[derive(Clone, Debug)]
pub struct RuntimeFolder {
    /// The folder's name, for messages.
    pub name: String,
    /// Where it is, unless it is part of this binary.
    pub path: Option<PathBuf>,
    /// What the folder says of itself.
    pub manifest: RuntimeManifest,
    /// The runner's source.
    pub runner: Cow<'static, str>,
    /// The program that says whether a fork is as good as a start, if the manifest names one.
    pub selftest: Option<Cow<'static, str>>,
    /// The files that the packages are installed from, the lock among them, by their names.
    pub package_files: BTreeMap<String, Cow<'static, str>>,
}

/// What stands for the names in braces in a manifest's command and environment.
#[derive(Clone, Debug)]
pub struct Placeholders<'a> {
    /// `{interpreter}`: the interpreter's path inside the sandbox.
    pub interpreter: &'a str,
    /// `{runner}`: the runner's path inside the sandbox.
    pub runner: &'a str,
    /// `{packages}`: the directory of the packages inside the sandbox, installed or not.
    pub packages: &'a str,
    /// `{heap_mb}`: the bound for an interpreter's own heap, in MiB. `None` leaves the word for
    /// whoever knows the limit of the run.
    pub heap_mb: Option<u64>,
}

impl Placeholders<'_> {
    /// Puts the values into one text.
    pub fn fill(&self, text: &str) -> String {
        let text = text
            .replace("{interpreter}", self.interpreter)
            .replace("{runner}", self.runner)
            .replace("{packages}", self.packages);
        match self.heap_mb {
            Some(heap_mb) => text.replace("{heap_mb}", &heap_mb.to_string()),
            None => text,
        }
    }
}

impl RuntimeFolder {
    /// The command line inside the sandbox.
    pub fn command(&self, placeholders: &Placeholders<'_>) -> Vec<String> {
        self.manifest.command.iter().map(|part| placeholders.fill(part)).collect()
    }

    /// The command line of the warm interpreter, if there is one, still without the library.
    pub fn zygote_command(&self, placeholders: &Placeholders<'_>) -> Option<Vec<String>> {
        let zygote = self.manifest.zygote.as_ref()?;
        Some(zygote.command.iter().map(|part| placeholders.fill(part)).collect())
    }

    /// The whole environment inside the sandbox.
    pub fn environment(&self, placeholders: &Placeholders<'_>) -> BTreeMap<String, String> {
        let filled = |(name, value): (&String, &String)| (name.clone(), placeholders.fill(value));
        self.manifest.environment.iter().map(filled).collect()
    }

    /// The canonical language.
    pub fn language(&self) -> &Language {
        &self.manifest.language
    }

    /// The locked list of packages, if the runtime has packages.
    pub fn lock(&self) -> Option<&str> {
        let packages = self.manifest.packages.as_ref()?;
        self.package_files.get(&packages.lock).map(AsRef::as_ref)
    }

    /// A short digest of the locked list: two lists never share a directory.
    pub fn lock_digest(&self) -> Option<String> {
        let digest = Sha256::digest(self.lock()?.as_bytes());
        Some(digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Reads the folder at `path` and checks it.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Self::build(&name, Some(path), |file| match read_plain(&path.join(file))? {
            Some(bytes) => text(&path.join(file), bytes).map(|text| Some(Cow::Owned(text))),
            None => Ok(None),
        })
    }

    /// Puts a folder together and checks it; `read` gives a file of the folder, if it is there.
    pub(super) fn build(
        name: &str,
        path: Option<&Path>,
        read: impl Fn(&str) -> Result<Option<Cow<'static, str>>>,
    ) -> Result<Self> {
        let place = path.map_or_else(|| name.to_owned(), |path| path.display().to_string());
        let bad = |problem: String| config_error(format!("runtime `{place}`: {problem}"));
        let required = |file: &str| {
            read(file)?
                .ok_or_else(|| bad(format!("`{file}` is missing; hint: put it in the folder")))
        };
        let source = |file: &str| {
            let text = required(file)?;
            if text.len() > MAX_SOURCE {
                return Err(bad(format!("`{file}` is larger than {MAX_SOURCE} bytes")));
            }
            Ok(text)
        };
        let text = source(MANIFEST)?;
        let manifest: RuntimeManifest = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(&text, span.start));
            bad(format!("`{MANIFEST}`, line {line}: {}", one_line(error.message())))
        })?;
        manifest.validate().map_err(|error| {
            let ManifestError::Field { field, .. } = &error;
            let line = line_of(&text, field).map(|line| format!(", line {line}"));
            bad(format!("`{MANIFEST}`{}: {error}", line.unwrap_or_default()))
        })?;
        let runner = source(&manifest.runner)?;
        let selftest = manifest.zygote.as_ref().and_then(|zygote| zygote.selftest.as_deref());
        let selftest = selftest.map(source).transpose()?;
        let mut package_files = BTreeMap::new();
        if let Some(packages) = &manifest.packages {
            let mut files = vec![packages.lock.as_str()];
            if packages.installer == "npm" {
                files.push("package.json");
            }
            for file in files {
                package_files.insert(file.to_owned(), required(file)?);
            }
        }
        let path = path.map(Path::to_owned);
        Ok(Self { name: name.to_owned(), path, manifest, runner, selftest, package_files })
    }
}

/// The content of a plain file that is not too large; `None` if there is none of that name.
///
/// - What is no plain file is refused and never opened for good: a link could lead anywhere, and a
///   pipe would keep us waiting.
pub(super) fn read_plain(path: &Path) -> Result<Option<Vec<u8>>> {
    let bad = |problem: &str| config_error(format!("`{}` {problem}", path.display()));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => {
            return Err(bad("is a symbolic link; hint: put the file itself into the folder"));
        }
        Err(error) => return Err(bad("cannot be read").with_source(error)),
    };
    let status = file.metadata().map_err(|error| bad("cannot be read").with_source(error))?;
    if !status.is_file() {
        return Err(bad("is no plain file; hint: a runtime folder holds plain files only"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| bad("cannot be read").with_source(error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(bad(&format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(Some(bytes))
}

/// A file's content as text.
pub(super) fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| config_error(format!("`{}` is not UTF-8", path.display())))
}

pub(super) fn config_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, OPERATION, message)
}

/// A report of several lines on one, for an error's text.
fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ")
}

/// The line, from 1, of an offset in a text.
fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// The line, from 1, on which a manifest gives a field: `runner`, or `example.value` in its table.
fn line_of(text: &str, field: &str) -> Option<usize> {
    let (wanted, key) = field.rsplit_once('.').unwrap_or(("", field));
    let mut table = "";
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            table = name.trim();
            // A field may be a table itself.
            if wanted.is_empty() && table == key {
                return Some(number);
            }
        }
        let found = line.split_once('=').map(|(key, _)| key.trim());
        if table == wanted && found == Some(key) {
            return Some(number);
        }
    }
    None
}
