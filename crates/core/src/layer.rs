//! The layers that a sandbox is made of, by their stable names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! layers {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// One layer of isolation, or one meter.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum Layer {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Layer {
            /// Every layer there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The layer as a stable word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

layers! {
    /// A user namespace of the run's own.
    UserNamespace = "user_namespace",
    /// A pid namespace of the run's own.
    PidNamespace = "pid_namespace",
    /// A mount namespace of the run's own.
    MountNamespace = "mount_namespace",
    /// A network namespace of the run's own.
    NetworkNamespace = "network_namespace",
    /// An IPC namespace of the run's own.
    IpcNamespace = "ipc_namespace",
    /// A UTS namespace of the run's own.
    UtsNamespace = "uts_namespace",
    /// A control group namespace of the run's own.
    CgroupNamespace = "cgroup_namespace",
    /// A root that shows nothing of the host but programs and libraries, read-only.
    ReadOnlyRoot = "read_only_root",
    /// Bounded scratch space.
    ScratchQuota = "scratch_quota",
    /// Bounds on what the kernel charges to whoever made a namespace.
    KernelQuotas = "kernel_quotas",
    /// A `/proc` that shows the run's own processes only.
    Proc = "proc",
    /// Host ids of the run's own.
    OwnIds = "own_id_per_sandbox",
    /// Device nodes of the run's own.
    OwnDevices = "own_device_nodes",
    /// No Linux capability, in any set.
    NoLinuxCaps = "no_linux_caps",
    /// Nothing that is executed gains a privilege.
    NoNewPrivs = "no_new_privs",
    /// The system call filter.
    Seccomp = "seccomp",
    /// Landlock, on the cell's own mounts.
    Landlock = "landlock",
    /// Resource limits of a process.
    Rlimits = "rlimits",
    /// Control groups: memory and processes of the whole tree, counted and limited by the kernel.
    Cgroup = "cgroup",
    /// CPU bandwidth is limited.
    CpuMeter = "cpu_meter",
    /// Memory that is swapped out counts.
    SwapMeter = "swap_meter",
}

impl Layer {
    /// What an operator may give up by `allow_missing`: a service that lacks one of these without
    /// that word does not start.
    pub const WAIVABLE: [Self; 3] = [Self::Cgroup, Self::Landlock, Self::Proc];
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A word that names no layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a layer that can be given up; hint: `cgroup`, `landlock` or `proc`")]
pub struct UnknownLayer(String);

impl FromStr for Layer {
    type Err = UnknownLayer;

    /// Reads a word of `allow_missing`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::WAIVABLE.into_iter().find(|layer| layer.as_str() == text);
        known.ok_or_else(|| UnknownLayer(text.to_owned()))
    }
}
