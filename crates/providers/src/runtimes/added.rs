//! Runtimes that are added to the data directory, and removed from it.
//!
//! Layout: `<data_dir>/languages/<language>/`, with the files of the folder and nothing else. A
//! directory of that name is always complete: it is made under another name beside it and renamed
//! into place, and one command at a time holds the lock of `languages`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ampoule_core::{Error, ErrorKind, Result};
use rustix::fs::{CWD, RenameFlags};

use super::RuntimeFolder;
use super::catalogue::added_dir;
use super::folder::{config_error, read_plain, text};
use super::install::{lock, make_dirs, make_readable, remove_leftovers};

const OPERATION: &str = "add a runtime";

/// The most files of a runtime folder.
const MAX_FILES: usize = 64;

/// A runtime folder that is not part of the data directory yet, with all its files in memory: what
/// is checked is what is stored, whatever becomes of the folder meanwhile.
#[derive(Debug)]
pub struct NewRuntime {
    folder: RuntimeFolder,
    files: BTreeMap<String, Vec<u8>>,
}

impl NewRuntime {
    /// Reads a folder and checks what can be checked without running anything.
    ///
    /// - Everything in it must be a plain file: no link, no directory, nothing special.
    pub fn read(directory: &Path) -> Result<Self> {
        let unreadable = |error: std::io::Error| {
            config_error(format!(
                "`{}` cannot be read; hint: name a directory with a `manifest.toml`",
                directory.display()
            ))
            .with_source(error)
        };
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            let name = entry.file_name().into_string().map_err(|_| {
                config_error(format!("`{}` has a name that is not UTF-8", path.display()))
            })?;
            if let Some(content) = read_plain(&path)? {
                files.insert(name, content);
            }
            if files.len() > MAX_FILES {
                return Err(config_error(format!(
                    "`{}` holds more than {MAX_FILES} files; hint: a runtime is a manifest, a runner and a locked list",
                    directory.display()
                )));
            }
        }
        let name = fs::canonicalize(directory).map_err(unreadable)?;
        let name = name.file_name().unwrap_or_default().to_string_lossy();
        let folder = RuntimeFolder::build(&name, Some(directory), |file| {
            let Some(bytes) = files.get(file) else { return Ok(None) };
            text(&directory.join(file), bytes.clone()).map(|text| Some(text.into()))
        })?;
        Ok(Self { folder, files })
    }

    /// The runtime.
    pub fn folder(&self) -> &RuntimeFolder {
        &self.folder
    }

    /// Puts the runtime into the data directory and gives its place.
    ///
    /// - Whatever goes wrong, what was there before is there, and nothing else.
    /// - With `replace`, a runtime of the same language gives way in one step.
    pub fn store(&self, data_dir: &Path, replace: bool) -> Result<PathBuf> {
        let parent = added_dir(data_dir);
        make_dirs(data_dir, &parent, OPERATION)?;
        let _guard = lock(&parent, OPERATION, &mut |_| {})?;
        remove_leftovers(&parent);
        let language = self.folder.language().as_str();
        let place = parent.join(language);
        let is_there = place.symlink_metadata().is_ok();
        if is_there && !replace {
            return Err(failed(&format!("`{language}` is there already; hint: `--replace`")));
        }
        let stage = parent.join(format!(".{language}.partial"));
        let stored = self.write(&stage).and_then(|()| {
            // Swapped rather than renamed over: a directory that is not empty gives way to none.
            let how = if is_there { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
            Ok(rustix::fs::renameat_with(CWD, &stage, CWD, &place, how)?)
        });
        // What is left is the old one, or a part of the new.
        let _ = fs::remove_dir_all(&stage);
        let text = format!("`{}` cannot be written", place.display());
        stored.map_err(|error| failed(&text).with_source(error))?;
        Ok(place)
    }

    fn write(&self, stage: &Path) -> std::io::Result<()> {
        fs::create_dir(stage)?;
        for (name, content) in &self.files {
            fs::write(stage.join(name), content)?;
        }
        make_readable(stage)
    }
}

/// Removes a runtime that was added, whole or broken, and gives the place where it was.
pub fn remove(name: &str, data_dir: &Path) -> Result<PathBuf> {
    let parent = added_dir(data_dir);
    let place = parent.join(name);
    let is_name = Path::new(name).file_name().is_some_and(|file| file == name);
    if !is_name || !place.is_dir() {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            "remove a runtime",
            format!("`{name}` was not added; hint: `ampoule runtimes list` shows what was"),
        ));
    }
    let _guard = lock(&parent, "remove a runtime", &mut |_| {})?;
    let failed = |error: std::io::Error| {
        Error::new(
            ErrorKind::Config,
            "remove a runtime",
            format!("`{}` cannot be removed", place.display()),
        )
        .with_source(error)
    };
    // Out of sight first: half a runtime would be a broken one.
    let away = parent.join(format!(".{name}.partial"));
    remove_leftovers(&parent);
    fs::rename(&place, &away).and_then(|()| fs::remove_dir_all(&away)).map_err(failed)?;
    Ok(place)
}

fn failed(message: &str) -> Error {
    Error::new(ErrorKind::Config, OPERATION, message)
}

#[cfg(test)]
#[path = "added_tests.rs"]
mod tests;
