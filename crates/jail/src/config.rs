//! What the manager tells the launcher once, at its start.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use ampoule_core::Layer;
use serde::{Deserialize, Serialize};

use crate::network::range::Opening;

/// The launcher's whole configuration. Operator's data: no request ever reaches it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LauncherConfig {
    /// What sandboxes are created from.
    pub templates: Vec<Template>,
    /// How many sandboxes may exist at once.
    pub slots: u32,
    /// Where it may give host ids: the first of those that belong to Ampoule alone. It is the
    /// manager's; of those that follow each manager claims a range, two ids per slot.
    pub id_base: u32,
    /// The system call policy, as the text of its file.
    pub policy: String,
    /// What may be missing on this machine: the operator gave it up.
    pub allow_missing: Vec<Layer>,
    /// A test switch: layers that are left out, so that a probe can be seen to get through. Only
    /// `doctor` and tests set it.
    #[serde(default)]
    pub without: Vec<Layer>,
    /// The way out, for sandboxes with one.
    pub network: NetworkSetup,
    /// What is kept warm.
    pub warm: Warm,
}

/// What a launcher keeps warm.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Warm {
    /// Whether there are zygotes.
    pub zygotes: bool,
    /// Cells that are kept ready, for each template.
    pub cells: u32,
    /// Bytes of their working directory.
    pub disk: u64,
    /// The memory limit by which a zygote bounds its heap, which is that of all its workers.
    pub memory: u64,
    /// After so many workers a zygote is replaced: what repeats among them repeats no longer.
    pub most_forks: u32,
    /// And at this age.
    pub most_age: Duration,
}

/// Nothing; but whoever adds zygotes need not say when they are replaced.
impl Default for Warm {
    fn default() -> Self {
        Self {
            zygotes: false,
            cells: 0,
            disk: 0,
            memory: 0,
            most_forks: 5000,
            most_age: Duration::from_secs(15 * 60),
        }
    }
}

/// What the network policy `open` is held with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NetworkSetup {
    /// The network helper's program, if one was found.
    pub helper: Option<PathBuf>,
    /// What is open though it would be closed.
    pub allow: Vec<Opening>,
}

/// Ranges of host ids begin at multiples of this beyond the manager's own id.
pub(crate) const ID_STEP: u32 = 4096;
/// How many ranges there are.
pub(crate) const MOST_RANGES: u32 = 256;

/// Every host id that Ampoule may use: the managers' own, and all ranges.
pub(crate) fn host_ids(base: u32) -> RangeInclusive<u32> {
    base..=base + (MOST_RANGES + 1) * ID_STEP - 1
}

/// The ids that a configuration of `slots` takes.
pub(crate) fn id_count(slots: u32) -> u32 {
    2 * slots
}

/// The recipe that a sandbox is created from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// Host directories that the program sees, read-only.
    pub trees: Vec<Tree>,
    /// Whether sandboxes of it run our own probes: this very executable is shown, and the
    /// launcher's namespaces hold what a probe tries to get at.
    #[serde(default)]
    pub probes: bool,
    /// Small files written into its root.
    pub files: Vec<SkeletonFile>,
    /// Symbolic links in its root: where, and to what.
    pub links: Vec<(String, String)>,
    /// The command line inside; `{heap_mb}` stands for the bound of an interpreter's own heap:
    /// three quarters of the memory limit, or all but 64 MiB of it where that is more.
    pub command: Vec<String>,
    /// The whole environment inside.
    pub environment: Vec<(String, String)>,
    /// The warm interpreters that its workers can be forked from.
    #[serde(default)]
    pub zygotes: Vec<ZygoteRecipe>,
}

/// A warm interpreter that forks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ZygoteRecipe {
    /// Its name, for people.
    pub name: String,
    /// The command line; `{library}` stands for the code that is loaded into interpreters.
    pub command: Vec<String>,
    /// Whether the interpreter makes io_uring rings as it starts: memory that forks would share.
    #[serde(default)]
    pub makes_rings: bool,
}

/// A host directory shown inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tree {
    /// The directory on the host.
    pub source: PathBuf,
    /// Its absolute path inside.
    pub target: String,
}

/// A small file of a template's root.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SkeletonFile {
    /// Its absolute path inside.
    pub path: String,
    /// Its content.
    pub content: Vec<u8>,
}
