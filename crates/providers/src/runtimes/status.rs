//! What is there of a runtime, and what is missing, for people.

use std::fs;
use std::path::{Path, PathBuf};

use ampoule_core::Language;

use super::interpreter::directory_names;
use super::{Interpreter, RuntimeFolder, packages_dir, resolve_from_environment};

/// The state of one runtime on this host.
#[derive(Clone, Debug)]
pub struct RuntimeStatus {
    /// The canonical language.
    pub language: Language,
    /// The other names that it answers to.
    pub aliases: Vec<String>,
    /// The interpreter, or what is wrong and the next step.
    pub interpreter: Result<InterpreterStatus, String>,
    /// Where the packages are, if they are installed for this interpreter.
    pub packages_dir: Option<PathBuf>,
    /// The packages that programs should find.
    pub packages: Vec<PackageStatus>,
}

/// An interpreter that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpreterStatus {
    /// Its path on this host.
    pub path: PathBuf,
    /// Its version.
    pub version: String,
}

/// A package of the locked list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageStatus {
    /// The name that programs import.
    pub name: String,
    /// The installed version; `None` if it is missing.
    pub version: Option<String>,
}

impl RuntimeStatus {
    /// Whether programs run and find all packages.
    pub fn is_complete(&self) -> bool {
        self.interpreter.is_ok() && self.packages.iter().all(|package| package.version.is_some())
    }
}

/// Looks at a runtime on this host; runs its interpreter once, for the version.
pub fn status(runtime: &RuntimeFolder, data_dir: &Path) -> RuntimeStatus {
    let resolved = resolve_from_environment(&runtime.manifest).and_then(|interpreter| {
        interpreter.check_version(&runtime.manifest)?;
        Ok(interpreter)
    });
    let packages_dir =
        resolved.as_ref().ok().and_then(|interpreter| packages_dir(runtime, interpreter, data_dir));
    let packages = runtime.manifest.packages.as_ref().map_or_else(Vec::new, |packages| {
        let version = |name: &String| match (&packages_dir, packages.installer.as_str()) {
            (Some(directory), "pip") => python_version(directory, name),
            (Some(directory), _) => node_version(directory, name),
            (None, _) => None,
        };
        let status = |name: &String| PackageStatus { name: name.clone(), version: version(name) };
        packages.names.iter().map(status).collect()
    });
    let found = |interpreter: Interpreter| {
        let version = interpreter.version().map_err(|error| error.message().to_owned())?.to_owned();
        Ok(InterpreterStatus { path: interpreter.host_path, version })
    };
    RuntimeStatus {
        language: runtime.language().clone(),
        aliases: runtime.manifest.aliases.clone(),
        interpreter: resolved.map_err(|error| error.message().to_owned()).and_then(found),
        packages_dir,
        packages,
    }
}

/// The version in the name of a package's `NAME-VERSION.dist-info`.
fn python_version(directory: &Path, name: &str) -> Option<String> {
    let wanted = name.replace('-', "_").to_ascii_lowercase();
    directory_names(directory).into_iter().find_map(|entry| {
        let (found, version) = entry.strip_suffix(".dist-info")?.split_once('-')?;
        (found.replace('-', "_").to_ascii_lowercase() == wanted).then(|| version.to_owned())
    })
}

/// The version in a package's own `package.json`.
fn node_version(directory: &Path, name: &str) -> Option<String> {
    let manifest = directory.join("node_modules").join(name).join("package.json");
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(manifest).ok()?).ok()?;
    Some(manifest.get("version")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtimes::Catalogue;

    #[test]
    fn versions_are_read_from_what_is_installed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir(root.join("Python_Dateutil-4.0.0.dist-info")).unwrap();
        fs::create_dir_all(root.join("node_modules/axios")).unwrap();
        let manifest = "{\"name\":\"axios\",\"version\":\"1.2.3\"}";
        fs::write(root.join("node_modules/axios/package.json"), manifest).unwrap();
        assert_eq!(python_version(root, "python-dateutil").as_deref(), Some("4.0.0"));
        assert_eq!(python_version(root, "numpy"), None);
        assert_eq!(node_version(root, "axios").as_deref(), Some("1.2.3"));
        assert_eq!(node_version(root, "lodash"), None);
    }

    #[test]
    fn a_runtime_without_packages_installed_names_each() {
        let directory = tempfile::tempdir().unwrap();
        for runtime in Catalogue::builtin().iter() {
            let status = status(runtime, directory.path());
            assert_eq!(status.packages_dir, None);
            assert!(!status.is_complete());
            let wanted = &runtime.manifest.packages.as_ref().unwrap().names;
            let named: Vec<&String> = status.packages.iter().map(|package| &package.name).collect();
            assert_eq!(named, wanted.iter().collect::<Vec<_>>());
            if let Err(problem) = &status.interpreter {
                assert!(problem.contains("hint:"), "{problem}");
            }
        }
    }
}
