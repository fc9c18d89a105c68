//! What the native provider is set up with.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ampoule_core::{Layer, ManifestTemplate, Result};
use ampoule_jail::{
    LauncherConfig, NETWORK_HELPER, NetworkSetup, Opening, PROBE_ARGUMENT, PROBE_EXECUTABLE,
    SkeletonFile, Template, Tree, Warm, ZygoteRecipe, seccomp::DEFAULT_POLICY,
};

use crate::runtimes::{
    Interpreter, PACKAGES_INSIDE, Placeholders, RuntimeFolder, packages_dir,
    resolve_from_environment,
};

/// Where the runner is inside a sandbox.
const RUNNER_DIRECTORY: &str = "/opt/ampoule/runner";

/// The system's fonts; without this file every program that looks for one complains on stderr.
const FONTS: &str = "<?xml version=\"1.0\"?>\n<fontconfig><dir>/usr/share/fonts</dir>\
                     <cachedir>/tmp/fontconfig</cachedir></fontconfig>\n";

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
    /// What may be missing on this machine: the operator gave it up.
    pub allow_missing: Vec<Layer>,
    /// The way out, for sandboxes with one.
    pub network: NetworkConfig,
    /// Whether the fences can be tried, and how.
    pub probes: Option<Probes>,
    /// What is kept warm: nothing, for a program that runs once.
    pub warm: Warm,
}

/// What the network policy `open` means.
#[derive(Clone, Debug, Default)]
pub struct NetworkConfig {
    /// What is open though it would be closed: private ranges, addresses of the host. An address of
    /// the host is opened only by itself, and not by a range around it.
    pub allow: Vec<Opening>,
}

/// How the fences are tried.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    /// Layers that are left out, so that a probe can be seen to get through. Nothing but `doctor`'s
    /// hidden flag and tests may name one: every sandbox of such a provider lacks it.
    pub without: Vec<Layer>,
}

/// A runtime with the interpreter that was found for it.
#[derive(Clone, Debug)]
pub struct NativeRuntime {
    /// The runtime folder.
    pub folder: RuntimeFolder,
    /// The interpreter, and what the sandbox must show of it.
    pub interpreter: Interpreter,
    /// The installed packages, if they are installed.
    pub packages: Option<PathBuf>,
    /// The compiled runner, which takes its source's place.
    pub compiled: Option<Vec<u8>>,
}

impl NativeRuntime {
    /// Finds the interpreter of a runtime folder, and its packages in the data directory.
    pub fn find(folder: &RuntimeFolder, data_dir: &Path) -> Result<Self> {
        let interpreter = resolve_from_environment(&folder.manifest)?;
        let packages = packages_dir(folder, &interpreter, data_dir);
        Ok(Self { folder: folder.clone(), interpreter, packages, compiled: None })
    }

    /// Has the runner compiled, if its manifest says how: that pays where more than one program runs.
    pub fn compile(&mut self) -> Result<()> {
        if let Some(how) = &self.folder.manifest.compiled {
            let name = inside(&self.folder.manifest.runner);
            let compiled = self.interpreter.compile(&how.command, &name, &self.folder.runner)?;
            self.compiled = Some(compiled);
        }
        Ok(())
    }

    /// The runner's path inside, and what is there.
    fn runner(&self) -> (String, Vec<u8>) {
        let manifest = &self.folder.manifest;
        match (&self.compiled, &manifest.compiled) {
            (Some(code), Some(how)) => (inside(&how.runner), code.clone()),
            _ => (inside(&manifest.runner), self.folder.runner.as_bytes().to_vec()),
        }
    }
}

impl NativeRuntime {
    /// The templates that can be had: what they import is installed.
    pub(super) fn templates(&self) -> &[ManifestTemplate] {
        let manifest = &self.folder.manifest;
        if self.packages.is_some() { &manifest.templates } else { &[] }
    }
}

impl NativeConfig {
    /// Host ids that no distribution hands out and no container range uses (systemd's list of
    /// ranges leaves them free).
    pub const DEFAULT_ID_BASE: u32 = 1_900_000_000;

    /// As many as suit a machine on which nobody says anything.
    pub const DEFAULT_CELLS: u32 = 2;

    /// The most slots that one manager can have: each has two host ids of a range of 4096.
    pub const MOST_SLOTS: u32 = 2048;

    /// The id that the manager takes when it gives up root.
    pub fn manager_id(&self) -> u32 {
        self.id_base
    }

    pub(super) fn launcher(&self) -> LauncherConfig {
        let runtimes = self.runtimes.iter().map(template);
        LauncherConfig {
            templates: runtimes.chain(self.probes.iter().map(|_| probe_template())).collect(),
            // Neither a probe nor a spare cell takes the place of a run.
            slots: self
                .warm
                .cells
                .saturating_mul(u32::try_from(self.runtimes.len()).unwrap_or(0))
                .saturating_add(self.slots)
                .saturating_add(u32::from(self.probes.is_some()))
                .min(Self::MOST_SLOTS),
            id_base: self.id_base,
            policy: DEFAULT_POLICY.to_owned(),
            allow_missing: self.allow_missing.clone(),
            without: self.probes.iter().flat_map(|probes| probes.without.clone()).collect(),
            network: NetworkSetup {
                helper: find_on_path(NETWORK_HELPER),
                allow: self.network.allow.clone(),
            },
            warm: self.warm,
        }
    }
}

/// Looks for a program where a shell would.
fn find_on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_absolute() && candidate.is_file())
}

/// Where a runner of this name is in the sandbox.
fn inside(runner: &str) -> String {
    format!("{RUNNER_DIRECTORY}/{runner}")
}

fn template(runtime: &NativeRuntime) -> Template {
    let NativeRuntime { folder, interpreter, packages, .. } = runtime;
    let (runner, code) = runtime.runner();
    let placeholders = Placeholders {
        interpreter: &interpreter.inside_path,
        runner: &runner,
        packages: PACKAGES_INSIDE,
        heap_mb: None,
    };
    let mut environment: Vec<(String, String)> =
        folder.environment(&placeholders).into_iter().collect();
    if let Some(path) = &interpreter.library_path {
        environment.push(("LD_LIBRARY_PATH".to_owned(), path.clone()));
    }
    let prefix =
        interpreter.prefix_tree.iter().map(|tree| (tree.host.clone(), tree.inside.clone()));
    let packages = packages.iter().map(|source| (source.clone(), PACKAGES_INSIDE.to_owned()));
    let file = |path: &str, content: &str| SkeletonFile {
        path: path.to_owned(),
        content: content.as_bytes().to_vec(),
    };
    Template {
        name: folder.language().to_string(),
        trees: prefix.chain(packages).map(|(source, target)| Tree { source, target }).collect(),
        files: vec![
            file("/etc/passwd", "nobody:x:65534:65534:nobody:/workspace:/bin/sh\n"),
            file("/etc/group", "nogroup:x:65534:\n"),
            file("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
            file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
            file("/etc/fonts/fonts.conf", FONTS),
            SkeletonFile { path: runner.clone(), content: code },
        ],
        // Node's loader of ES modules looks upwards from the program and nowhere else.
        links: vec![("/node_modules".to_owned(), format!("{PACKAGES_INSIDE}/node_modules"))],
        command: folder.command(&placeholders),
        environment,
        probes: false,
        zygotes: zygotes(runtime, &placeholders),
    }
}

/// The warm interpreters of a runtime: the bare one, then its templates in the manifest's order.
fn zygotes(runtime: &NativeRuntime, placeholders: &Placeholders<'_>) -> Vec<ZygoteRecipe> {
    let folder = &runtime.folder;
    let Some(command) = folder.zygote_command(placeholders) else { return Vec::new() };
    let makes_rings = folder.manifest.probes.iter().any(|call| call == "io_uring_setup");
    let name = folder.language().to_string();
    let bare = ZygoteRecipe { name, command: command.clone(), makes_rings };
    let with_modules = |template: &ManifestTemplate| {
        let rehearsal = template.rehearsal.clone().map(|code| ["--rehearse".to_owned(), code]);
        let rehearsal = rehearsal.as_ref().map_or(&[][..], |parts| &parts[..]);
        ZygoteRecipe {
            name: template.name.clone(),
            command: [&command[..], rehearsal, template.modules()].concat(),
            makes_rings,
        }
    };
    std::iter::once(bare).chain(runtime.templates().iter().map(with_modules)).collect()
}

/// Not of any runtime: it has no language, so that no request can name it.
fn probe_template() -> Template {
    Template {
        name: "probe".to_owned(),
        trees: Vec::new(),
        files: Vec::new(),
        links: Vec::new(),
        command: vec![PROBE_EXECUTABLE.to_owned(), PROBE_ARGUMENT.to_owned()],
        environment: Vec::new(),
        zygotes: Vec::new(),
        probes: true,
    }
}
