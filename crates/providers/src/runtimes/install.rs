//! Installs the packages of a runtime, once for each interpreter version and locked list.
//!
//! Layout: `<data_dir>/runtimes/<language>/<tag>/`, where the tag holds what the packages depend on:
//! `cp311-x86_64-<digest of the lock>` or `x86_64-<digest>`. A directory of that name is always
//! complete: it is made under another name beside it and renamed into place, and one installer at a
//! time holds the lock of the language.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ampoule_core::{Error, ErrorKind, Result};

use super::installers;
use super::{Interpreter, OPERATION, RuntimeFolder};

/// Where packages and other state are kept: `AMPOULE_DATA_DIR`, else `/var/lib/ampoule` for root,
/// else `$XDG_DATA_HOME/ampoule`, else `~/.local/share/ampoule`.
pub fn default_data_dir() -> PathBuf {
    data_dir(|name| env::var_os(name), rustix::process::geteuid().is_root())
}

/// [`default_data_dir`] of a process with these variables.
pub fn data_dir(variable: impl Fn(&str) -> Option<OsString>, is_root: bool) -> PathBuf {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) = set("AMPOULE_DATA_DIR") {
        return directory;
    }
    if is_root {
        return PathBuf::from("/var/lib/ampoule");
    }
    if let Some(data) = set("XDG_DATA_HOME").filter(|path| path.is_absolute()) {
        return data.join("ampoule");
    }
    set("HOME").unwrap_or_else(|| PathBuf::from("/tmp")).join(".local/share/ampoule")
}

/// The installed packages of a runtime, if they are there for this interpreter and this lock: the
/// directory that the sandbox shows as [`super::PACKAGES_INSIDE`].
pub fn packages_dir(
    runtime: &RuntimeFolder,
    interpreter: &Interpreter,
    data_dir: &Path,
) -> Option<PathBuf> {
    let directory = language_dir(runtime, data_dir).join(tag(runtime, interpreter).ok()??);
    directory.is_dir().then_some(directory)
}

/// Installs the locked packages of a runtime for an interpreter and gives their directory.
///
/// - What is there already is not touched; an interrupted installation leaves nothing that counts.
/// - A second installer waits for the first and then finds its work.
/// - Everything installed is readable by others whatever the umask: sandboxes run as somebody else.
pub fn install(
    runtime: &RuntimeFolder,
    interpreter: &Interpreter,
    data_dir: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf> {
    let language = runtime.language();
    let Some(packages) = &runtime.manifest.packages else {
        return Err(Error::new(
            ErrorKind::Config,
            OPERATION,
            format!("runtime `{}` names no packages", runtime.name),
        ));
    };
    interpreter.check_version(&runtime.manifest)?;
    let tag = tag(runtime, interpreter)?.ok_or_else(|| {
        Error::new(ErrorKind::Config, OPERATION, format!("runtime `{}` has no lock", runtime.name))
    })?;
    let parent = language_dir(runtime, data_dir);
    make_dirs(data_dir, &parent, OPERATION)?;
    let finished = parent.join(&tag);
    if finished.is_dir() {
        progress(&format!("the packages of {language} are installed already"));
        return Ok(finished);
    }
    let _guard = lock(&parent, OPERATION, progress)?;
    if finished.is_dir() {
        return Ok(finished);
    }
    remove_leftovers(&parent);
    let stage = parent.join(format!(".{tag}.partial"));
    let failed = |what: &str, error: std::io::Error| {
        Error::new(ErrorKind::Config, OPERATION, format!("cannot {what} `{}`", stage.display()))
            .with_source(error)
    };
    fs::create_dir(&stage).map_err(|error| failed("create", error))?;
    progress(&format!("installing {} for {language}", packages.names.join(", ")));
    let result = match packages.installer.as_str() {
        "pip" => installers::pip(runtime, interpreter, &stage, progress),
        _ => installers::npm(runtime, interpreter, &stage, progress),
    }
    .and_then(|()| make_readable(&stage).map_err(|error| failed("open up", error)))
    .and_then(|()| fs::rename(&stage, &finished).map_err(|error| failed("rename", error)));
    if let Err(error) = result {
        // Best effort: the next installer removes what is left.
        let _ = fs::remove_dir_all(&stage);
        return Err(error);
    }
    progress(&format!("installed the packages of {language}"));
    Ok(finished)
}

/// The directory's name: what the installed files depend on.
fn tag(runtime: &RuntimeFolder, interpreter: &Interpreter) -> Result<Option<String>> {
    let (Some(packages), Some(digest)) = (&runtime.manifest.packages, runtime.lock_digest()) else {
        return Ok(None);
    };
    let machine = env::consts::ARCH;
    Ok(Some(if packages.installer == "pip" {
        let (major, minor) = interpreter.minor_version()?;
        format!("cp{major}{minor}-{machine}-{digest}")
    } else {
        format!("{machine}-{digest}")
    }))
}

fn language_dir(runtime: &RuntimeFolder, data_dir: &Path) -> PathBuf {
    data_dir.join("runtimes").join(runtime.language().as_str())
}

/// Makes the directories down to `inner`, each of ours readable by others.
pub(super) fn make_dirs(data_dir: &Path, inner: &Path, operation: &'static str) -> Result<()> {
    let failed = |path: &Path, error: std::io::Error| {
        Error::new(
            ErrorKind::Config,
            operation,
            format!(
                "cannot write to `{}`; hint: set `AMPOULE_DATA_DIR` to a directory of yours",
                path.display()
            ),
        )
        .with_source(error)
    };
    let created = !data_dir.exists();
    fs::create_dir_all(inner).map_err(|error| failed(inner, error))?;
    let ours = inner.ancestors().take_while(|path| *path != data_dir);
    for path in ours.chain(created.then_some(data_dir)) {
        fs::set_permissions(path, Permissions::from_mode(0o755))
            .map_err(|error| failed(path, error))?;
    }
    Ok(())
}

/// Takes the one place of an installer in a directory; given back when the file is closed.
pub(super) fn lock(
    parent: &Path,
    operation: &'static str,
    progress: &mut dyn FnMut(&str),
) -> Result<File> {
    let path = parent.join(".lock");
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Config, operation, format!("cannot lock `{}`", path.display()))
            .with_source(error)
    };
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress("another installation is running; waiting for it");
            file.lock().map_err(failed)?;
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    Ok(file)
}

/// Removes what interrupted installers left; only called with the lock held.
pub(super) fn remove_leftovers(parent: &Path) {
    for name in super::interpreter::directory_names(parent) {
        if name.starts_with('.') && name.ends_with(".partial") {
            let _ = fs::remove_dir_all(parent.join(name));
        }
    }
}

/// Gives directories 0755 and files 0644, or 0755 where they were executable.
pub(super) fn make_readable(path: &Path) -> std::io::Result<()> {
    let status = fs::symlink_metadata(path)?;
    if status.is_dir() {
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(path)? {
            make_readable(&entry?.path())?;
        }
    } else if status.is_file() {
        let executable = status.permissions().mode() & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtimes::{Catalogue, resolve};

    #[test]
    fn the_data_directory_follows_the_environment() {
        let with = |pairs: &'static [(&str, &str)], is_root| {
            data_dir(
                |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()),
                is_root,
            )
        };
        let home = &[("HOME", "/home/u")];
        assert_eq!(with(home, false), Path::new("/home/u/.local/share/ampoule"));
        assert_eq!(with(home, true), Path::new("/var/lib/ampoule"));
        let xdg = &[("HOME", "/home/u"), ("XDG_DATA_HOME", "/data")];
        assert_eq!(with(xdg, false), Path::new("/data/ampoule"));
        assert_eq!(with(&[("AMPOULE_DATA_DIR", "/a")], true), Path::new("/a"));
        assert_eq!(with(&[("AMPOULE_DATA_DIR", "")], true), Path::new("/var/lib/ampoule"));
    }

    #[test]
    fn modes_do_not_depend_on_the_umask() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sub/file");
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(file.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
        make_readable(directory.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o644);
        assert_eq!(mode(file.parent().unwrap()), 0o755);
    }

    #[test]
    fn nothing_counts_as_installed_before_it_is() {
        let catalogue = Catalogue::builtin();
        let runtime = catalogue.get("python").unwrap();
        let Ok(interpreter) = resolve(&runtime.manifest, Some("/usr/bin/python3".as_ref())) else {
            return; // A machine without it cannot install for it.
        };
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let tag = tag(runtime, &interpreter).unwrap().unwrap();
        let (major, minor) = interpreter.minor_version().unwrap();
        assert!(tag.starts_with(&format!("cp{major}{minor}-")), "{tag}");
        let parent = data.join("runtimes/python");
        fs::create_dir_all(parent.join(format!(".{tag}.partial"))).unwrap();
        assert_eq!(packages_dir(runtime, &interpreter, data), None);
        remove_leftovers(&parent);
        assert!(super::super::interpreter::directory_names(&parent).is_empty());

        fs::create_dir(parent.join(&tag)).unwrap();
        assert_eq!(packages_dir(runtime, &interpreter, data), Some(parent.join(&tag)));
        let mut lines = Vec::new();
        let found =
            install(runtime, &interpreter, data, &mut |line: &str| lines.push(line.to_owned()));
        assert_eq!(found.unwrap(), parent.join(&tag));
        assert_eq!(lines, ["the packages of python are installed already"]);
    }
}
