//! The runtimes that this installation knows.
//!
//! They are part of this binary, or folders outside of it. A later one takes the place of an earlier
//! one of the same language: this binary's, then those in the directories that the configuration
//! names, then those that were added to the data directory.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ampoule_core::{Error, ErrorKind, Language, Result};

use super::folder::{MANIFEST, RuntimeFolder, config_error};

/// The runtimes that this installation knows, one for each language.
#[derive(Clone, Debug)]
pub struct Catalogue {
    folders: Vec<RuntimeFolder>,
}

/// The files of a folder that is part of this binary.
macro_rules! embedded {
    ($name:literal, $($file:literal),+ $(,)?) => {
        ($name, &[$(($file, include_str!(concat!("../../../../runtimes/", $name, "/", $file)))),+])
    };
}

/// A folder's name with the names and texts of its files.
type Embedded = (&'static str, &'static [(&'static str, &'static str)]);

const BUILTIN: &[Embedded] = &[
    embedded!("python", "manifest.toml", "runner.py", "requirements.lock"),
    embedded!(
        "nodejs",
        "manifest.toml",
        "runner.js",
        "selftest.js",
        "package.json",
        "package-lock.json"
    ),
];

/// A folder that cannot be used.
#[derive(Debug)]
pub struct BrokenRuntime {
    /// The folder's name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was added to the data directory, so that it can be removed by its name.
    pub is_added: bool,
    /// What is wrong, and the fix.
    pub problem: Error,
}

impl Catalogue {
    /// The runtimes that are part of this binary.
    pub fn builtin() -> Self {
        let folders = BUILTIN
            .iter()
            .map(|(name, files)| {
                let read = |wanted: &str| {
                    let found = files.iter().find(|(file, _)| *file == wanted);
                    Ok(found.map(|(_, text)| Cow::Borrowed(*text)))
                };
                RuntimeFolder::build(name, None, read).expect("a test reads the embedded folders")
            })
            .collect();
        Self { folders }
    }

    /// Every runtime that commands offer: this binary's, those in `directories`, and those that
    /// were added to the data directory. The first broken folder is an error.
    pub fn load(data_dir: &Path, directories: &[PathBuf]) -> Result<Self> {
        let (catalogue, broken) = Self::survey(data_dir, directories);
        match broken.into_iter().next() {
            None => Ok(catalogue),
            Some(BrokenRuntime { name, path, is_added: true, problem })
                if path != added_dir(data_dir) =>
            {
                let message = problem.message();
                let fix = if message.contains("; hint: ") { "" } else { "; hint: mend it" };
                let text = format!("{message}{fix}, or `ampoule runtimes remove {name}`");
                Err(config_error(text))
            }
            Some(broken) => Err(broken.problem),
        }
    }

    /// As [`Catalogue::load`], with the folders that are broken beside those that are not.
    pub fn survey(data_dir: &Path, directories: &[PathBuf]) -> (Self, Vec<BrokenRuntime>) {
        let mut catalogue = Self::builtin();
        let mut broken = Vec::new();
        let added = added_dir(data_dir);
        let all = directories.iter().map(|directory| (directory.as_path(), false));
        for (directory, is_added) in all.chain([(added.as_path(), true)]) {
            let mut note = |path: PathBuf, problem: Error| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                broken.push(BrokenRuntime { name, path, is_added, problem });
            };
            let folders = match folders_in(directory, !is_added) {
                Ok(folders) if folders.is_empty() && !is_added => {
                    note(directory.to_owned(), no_runtime(directory));
                    continue;
                }
                Ok(folders) => folders,
                // Nothing was ever added; where no directory can be is for who writes there to say.
                Err(error)
                    if is_added
                        && matches!(
                            error.kind(),
                            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                        ) =>
                {
                    continue;
                }
                Err(error) if is_added => {
                    let hint = "hint: AMPOULE_DATA_DIR or `data_dir` name another data directory";
                    let text = format!("`{}` cannot be read; {hint}", directory.display());
                    note(directory.to_owned(), config_error(text).with_source(error));
                    continue;
                }
                Err(error) => {
                    note(directory.to_owned(), unreadable(directory, &error));
                    continue;
                }
            };
            let mut found = Self { folders: Vec::new() };
            for path in folders {
                let folder = RuntimeFolder::read(&path);
                if let Err(problem) = folder.and_then(|folder| found.add(folder)) {
                    note(path, problem);
                }
            }
            for folder in found.folders {
                let path = folder.path.clone().unwrap_or_default();
                match catalogue.clone().extend(Self { folders: vec![folder] }) {
                    Ok(extended) => catalogue = extended,
                    Err(problem) => note(path, problem),
                }
            }
        }
        (catalogue, broken)
    }

    /// The runtimes under `path`: every folder in it that holds a `manifest.toml`.
    pub fn load_dir(path: &Path) -> Result<Self> {
        let folders = folders_in(path, true).map_err(|error| unreadable(path, &error))?;
        if folders.is_empty() {
            return Err(no_runtime(path));
        }
        let mut catalogue = Self { folders: Vec::new() };
        for folder in folders {
            catalogue.add(RuntimeFolder::read(&folder)?)?;
        }
        Ok(catalogue)
    }

    /// A catalogue of one runtime.
    pub fn only(folder: RuntimeFolder) -> Self {
        Self { folders: vec![folder] }
    }

    /// Adds the runtimes of `other`; one of the same language takes the place of ours.
    pub fn extend(mut self, other: Self) -> Result<Self> {
        for folder in other.folders {
            self.folders.retain(|ours| ours.language() != folder.language());
            self.add(folder)?;
        }
        Ok(self)
    }

    fn add(&mut self, folder: RuntimeFolder) -> Result<()> {
        let names = std::iter::once(folder.language().as_str())
            .chain(folder.manifest.aliases.iter().map(String::as_str));
        for name in names {
            if let Some(other) = self.find(name) {
                return Err(config_error(format!(
                    "runtimes `{}` and `{}` both answer to `{name}`; hint: change `language` or `aliases` in one `{MANIFEST}`",
                    other.name, folder.name
                )));
            }
        }
        for extension in &folder.manifest.extensions {
            if let Some(other) = self.by_extension(extension) {
                return Err(config_error(format!(
                    "runtimes `{}` and `{}` both take files named `.{extension}`; hint: change `extensions` in one `{MANIFEST}`",
                    other.name, folder.name
                )));
            }
        }
        self.folders.push(folder);
        Ok(())
    }

    /// The runtime that a caller means by `name`: a language or an alias, in any case.
    pub fn find(&self, name: &str) -> Option<&RuntimeFolder> {
        self.folders.iter().find(|folder| folder.manifest.answers_to(name))
    }

    /// As [`Catalogue::find`]; an unknown name is an error that lists the known ones.
    pub fn get(&self, name: &str) -> Result<&RuntimeFolder> {
        self.find(name).ok_or_else(|| {
            let known: Vec<String> = self
                .folders
                .iter()
                .flat_map(|folder| {
                    let language = folder.language().as_str();
                    let aliases = folder.manifest.aliases.iter().map(String::as_str);
                    std::iter::once(language).chain(aliases).map(|name| format!("`{name}`"))
                })
                .collect();
            Error::new(
                ErrorKind::InvalidRequest,
                "choose a runtime",
                format!("unknown language `{name}`; hint: one of {}", known.join(", ")),
            )
        })
    }

    /// The runtime for a file extension, without the dot.
    pub fn by_extension(&self, extension: &str) -> Option<&RuntimeFolder> {
        let is_it = |known: &String| known.eq_ignore_ascii_case(extension);
        self.folders.iter().find(|folder| folder.manifest.extensions.iter().any(is_it))
    }

    /// The canonical languages.
    pub fn languages(&self) -> Vec<Language> {
        self.folders.iter().map(|folder| folder.language().clone()).collect()
    }

    /// All runtimes.
    pub fn iter(&self) -> impl Iterator<Item = &RuntimeFolder> {
        self.folders.iter()
    }
}

/// Where the data directory keeps the runtimes that were added.
///
/// Not beside the packages: those stay when a folder is replaced or removed.
pub(super) fn added_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("languages")
}

/// The folders in a directory, by name: all, or only those that hold a manifest. Hidden ones are not
/// finished.
fn folders_in(directory: &Path, with_manifest: bool) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let is_folder = if with_manifest {
            entry.path().join(MANIFEST).symlink_metadata().is_ok()
        } else {
            entry.file_type()?.is_dir()
        };
        if !is_hidden && is_folder {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

/// A directory that somebody named: only the configuration does.
fn unreadable(path: &Path, error: &io::Error) -> Error {
    config_error(format!(
        "`{}` in `runtimes.dirs` cannot be read: {error}; hint: correct the path there or in \
         AMPOULE_RUNTIMES_DIRS, or take it out",
        path.display()
    ))
}

fn no_runtime(path: &Path) -> Error {
    config_error(format!(
        "`{}` holds no runtime; hint: put a folder with a `{MANIFEST}` in it",
        path.display()
    ))
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
