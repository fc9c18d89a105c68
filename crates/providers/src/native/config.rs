//! What the native provider is set up with.

use std::{path::PathBuf, time::Duration};

use ampoule_core::RuntimeManifest;
use ampoule_jail::{LauncherConfig, SkeletonFile, Template, Tree, seccomp::DEFAULT_POLICY};

/// Where things are inside a sandbox.
const RUNNER_DIRECTORY: &str = "/opt/ampoule/runner";
const PACKAGES_DIRECTORY: &str = "/opt/ampoule/packages";

/// The native provider's configuration.
#[derive(Clone, Debug)]
pub struct NativeConfig {
    /// The runtimes that sandboxes are made of.
    pub runtimes: Vec<NativeRuntime>,
    /// How many sandboxes may exist at once.
    pub slots: u32,
    /// The longest wall clock that can be asked for.
    pub max_wall: Duration,
    /// The most memory that can be asked for, in bytes.
    pub max_memory: u64,
    /// Started as root: the first of the host ids that belong to Ampoule alone.
    pub id_base: u32,
}

/// A runtime with the interpreter that was found for it.
#[derive(Clone, Debug)]
pub struct NativeRuntime {
    /// What the runtime folder says of itself.
    pub manifest: RuntimeManifest,
    /// The runner's source.
    pub runner: String,
    /// The interpreter's path inside.
    pub interpreter: String,
    /// A host directory to show beside the system's, and where, if the interpreter is not the
    /// system's.
    pub prefix: Option<(PathBuf, String)>,
    /// Where the interpreter's own shared library is, if it needs telling.
    pub library_path: Option<String>,
    /// The installed packages, if they are installed.
    pub packages: Option<PathBuf>,
}

impl NativeConfig {
    /// Host ids that no distribution hands out and no container range uses (systemd's list of
    /// ranges leaves them free).
    pub const DEFAULT_ID_BASE: u32 = 1_900_000_000;

    /// The id that the manager takes when it gives up root.
    pub fn manager_id(&self) -> u32 {
        self.id_base
    }

    pub(super) fn launcher(&self) -> LauncherConfig {
        LauncherConfig {
            templates: self.runtimes.iter().map(template).collect(),
            slots: self.slots,
            id_base: self.id_base,
            policy: DEFAULT_POLICY.to_owned(),
        }
    }
}

fn template(runtime: &NativeRuntime) -> Template {
    let manifest = &runtime.manifest;
    let runner = format!("{RUNNER_DIRECTORY}/{}", manifest.runner);
    let fill = |text: &String| {
        text.replace("{interpreter}", &runtime.interpreter)
            .replace("{runner}", &runner)
            .replace("{packages}", PACKAGES_DIRECTORY)
    };
    let mut environment: Vec<(String, String)> =
        manifest.environment.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
    if let Some(path) = &runtime.library_path {
        environment.push(("LD_LIBRARY_PATH".to_owned(), path.clone()));
    }
    let packages = runtime.packages.iter().map(|source| (source.clone(), PACKAGES_DIRECTORY.to_owned()));
    let trees = runtime
        .prefix
        .clone()
        .into_iter()
        .chain(packages)
        .map(|(source, target)| Tree { source, target })
        .collect();
    let file = |path: &str, content: &str| SkeletonFile { path: path.to_owned(), content: content.to_owned() };
    Template {
        name: manifest.language.to_string(),
        trees,
        files: vec![
            file("/etc/passwd", "nobody:x:65534:65534:nobody:/workspace:/bin/sh\n"),
            file("/etc/group", "nogroup:x:65534:\n"),
            file("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
            file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
            SkeletonFile { path: runner.clone(), content: runtime.runner.clone() },
        ],
        command: manifest.command.iter().map(fill).collect(),
        environment,
    }
}
