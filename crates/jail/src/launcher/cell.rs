//! The cell: seven fresh namespaces around an empty root, put together by their first process,
//! which then gives everything away and waits for its end.
//!
//! The cell knows no language. Its first process is pid 1 of its pid namespace and has an id of
//! its own; killing it kills everything in the cell.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, chown},
    },
    path::Path,
};

use ampoule_core::NetworkPolicy;
use rustix::{
    fs::{Mode, OFlags, open, openat},
    io::Errno,
    mount::{MountFlags, mount, mount_bind, mount_bind_recursive},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{UnshareFlags, set_name},
};

use ampoule_core::Layer;

use super::{
    root::Image,
    without::{Ids, Without},
};
use crate::{
    error::{Jail, JailError, Step},
    handover::MOUNT_SOURCE,
    sys, wire,
};

/// Everything that a cell is put together from.
pub(super) struct Recipe<'a> {
    pub(super) image: &'a Image,
    /// The directory of device nodes, in the launcher's root.
    pub(super) devices: String,
    /// What the program may reach.
    pub(super) network: NetworkPolicy,
    /// Bytes of `/workspace`.
    pub(super) disk: u64,
    /// The ids of the first process and of the program.
    pub(super) ids: Ids,
    /// Whether the cell has a `/proc`.
    pub(super) proc: bool,
    /// Whether a watch counts its memory, and no control group.
    pub(super) watched: bool,
    /// The files through which a process joins the run's control groups (v1).
    pub(super) joins: Vec<BorrowedFd<'a>>,
    /// What is left out.
    pub(super) without: &'a Without,
}

/// What a finished cell hands to the launcher, in this order.
pub(super) const HANDED: usize = 4;
/// The byte that says that a cell is ready.
pub(super) const READY: u8 = b'R';

/// The namespaces of a cell, as flags of `clone3`; the control group namespace follows inside.
pub(super) const NAMESPACES: u64 = 0x1000_0000 // user
    | 0x2000_0000 // pid
    | 0x0002_0000 // mount
    | 0x0800_0000 // ipc
    | 0x0400_0000 // uts
    | 0x4000_0000; // net

/// The id that programs run as, inside.
pub(super) const PROGRAM_ID: u32 = 65534;
/// Attributes of mounts, as `mount_setattr` has them.
const READ_ONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;
/// Where a probe looks for the launcher's root, which is there only without a mount namespace.
pub(super) const OUTSIDE: &str = "outside";
/// Bytes of `/tmp`, of `/dev/shm`.
const TMP_BYTES: u64 = 50 << 20;
const SHM_BYTES: u64 = 16 << 20;
/// Inodes of `/workspace`, `/tmp`, `/dev/shm`.
const WORKSPACE_INODES: u32 = 16_384;
const TMP_INODES: u32 = 8_192;
const SHM_INODES: u32 = 256;

/// Per-namespace quotas. The kernel charges a user's inotify instances and namespaces up the chain
/// of creators, so that without these one run uses up another's. Every kind of namespace but the
/// user's takes a capability that nobody in the cell has, or can get without one of these.
const QUOTAS: [(&CStr, &[u8]); 3] = [
    (c"max_user_namespaces", b"0"),
    (c"max_inotify_instances", b"16"),
    (c"max_inotify_watches", b"1024"),
];

/// The least, the usual and the most bytes of a TCP socket's buffers, where each socket counts as
/// memory at one size.
const TCP_BUFFERS: [(&str, &str); 2] =
    [("tcp_rmem", "4096 65536 131072"), ("tcp_wmem", "4096 16384 65536")];

/// Where a cell keeps its setup socket while it is built.
const SETUP_FD: i32 = 3;

/// The life of a cell's first process, from its clone on.
pub(super) fn run(recipe: &Recipe<'_>, setup: &OwnedFd) -> ! {
    let failed = match begin(recipe, setup) {
        Ok(setup) => build(recipe, setup).err().map(|error| (setup, error)),
        Err(error) => Some((setup.as_fd(), error)),
    };
    if let Some((setup, error)) = failed {
        super::send_error(setup, &error);
        sys::exit(1);
    }
    sys::wait_without_memory()
}

/// Joins the control groups and lets go of every descriptor of the launcher's: the pipe ends of
/// other runs among them would keep those runs from seeing the end of their output.
fn begin(recipe: &Recipe<'_>, setup: &OwnedFd) -> Jail<BorrowedFd<'static>> {
    for join in &recipe.joins {
        rustix::io::write(join, b"0").step("join the control group")?;
    }
    if setup.as_raw_fd() != SETUP_FD {
        sys::dup_to(setup.as_raw_fd(), SETUP_FD)?;
    }
    sys::close_range_from(SETUP_FD.cast_unsigned() + 1)?;
    // SAFETY: `dup_to` has put the setup socket at this number (or it was there), `close_range_from`
    // spares it, and only the last statement of `build` closes it, after its last use. Whatever
    // this number was in the launcher is never used or dropped here: the process ends by `exit`.
    Ok(unsafe { BorrowedFd::borrow_raw(SETUP_FD) })
}

fn build(recipe: &Recipe<'_>, setup: BorrowedFd<'_>) -> Jail<()> {
    let mut gate = [0; 1];
    // The launcher writes our id maps first.
    rustix::io::read(setup, &mut gate).step("wait for the id maps")?;
    let _ = set_name(c"ampoule-cell");
    // Orphans of the program become our children; ignoring their ends reaps them.
    sys::ignore_signal(17)?;
    if let Some(first) = recipe.ids.first {
        sys::clear_groups()?;
        sys::set_gid(first)?;
        sys::set_uid(first)?;
    }
    let without = recipe.without;
    if !without.has(Layer::CgroupNamespace) {
        // SAFETY: a new control group namespace affects no memory and no descriptor.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) }
            .step("leave the control group namespace")?;
    }
    if !without.has(Layer::UtsNamespace) {
        rustix::system::sethostname(b"sandbox").step("set the host name")?;
    }
    if !without.has(Layer::NetworkNamespace) {
        loopback_up()?;
    }
    let counters = ["/proc/self/net/snmp", "/proc/self/net/snmp6"]
        .map(|path| File::open(path).step_with(|| format!("open {path}")));
    // Of no user namespace of its own, a cell would set the launcher's.
    let own_quotas = !without.has(Layer::KernelQuotas) && !without.has(Layer::UserNamespace);
    if own_quotas {
        let written = set_quotas();
        // Where the cell can have no `/proc`, that of the container is read-only in places.
        if recipe.proc {
            written?;
        }
    }
    if recipe.watched && !without.has(Layer::NetworkNamespace) {
        for (name, sizes) in TCP_BUFFERS {
            // Not every kernel has them by namespace, and a masked `/proc` is read-only there.
            let _ = fs::write(format!("/proc/sys/net/ipv4/{name}"), sizes);
        }
    }
    mount_root(recipe)?;
    let old_root = without.has(Layer::MountNamespace).then_some(OUTSIDE);
    super::root::enter(Path::new("/n"), old_root)?;
    let workspace = open_directory("/workspace")?;
    let tmp = open_directory("/tmp")?;
    let [snmp, snmp6] = counters;
    let (snmp, snmp6) = (snmp?, snmp6?);
    give_everything_away()?;
    let handed: [BorrowedFd<'_>; HANDED] =
        [workspace.as_fd(), tmp.as_fd(), snmp.as_fd(), snmp6.as_fd()];
    wire::send(setup, &[READY], &handed).step("hand the cell over")?;
    // Everything goes now; their owners must not close the numbers once more.
    std::mem::forget((workspace, tmp, snmp, snmp6));
    sys::close_range_from(0).map_err(JailError::from)
}

fn set_quotas() -> Jail<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open("/proc/sys/user", flags, Mode::empty()).step("find the quotas")?;
    for (name, most) in QUOTAS {
        openat(&directory, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::write(file, most))
            .step_with(|| format!("set the quota {name:?}"))?;
    }
    Ok(())
}

fn open_directory(path: &str) -> Jail<OwnedFd> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step_with(|| format!("open {path}"))
}

/// Brings the loopback interface of the new network namespace up: programs talk to themselves.
pub(super) fn loopback_up() -> Jail<()> {
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: u16,
        padding: [u8; 22],
    }
    const SIOCSIFFLAGS: u32 = 0x8914;
    const UP_AND_RUNNING: u16 = 0x41;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .step("open a socket for the loopback interface")?;
    let mut request = InterfaceRequest { name: [0; 16], flags: UP_AND_RUNNING, padding: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq` of 40 bytes, which `request` is laid out as.
    unsafe { sys::ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, (&raw mut request).cast()) }?;
    Ok(())
}

pub(super) fn mount_root(recipe: &Recipe<'_>) -> Jail<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    for (place, (options, target)) in recipe.image.overlays.iter().enumerate() {
        if target == "/n" && recipe.without.has(Layer::ReadOnlyRoot) {
            mount_bind(recipe.image.skeleton.as_str(), target).step("show a root to write to")?;
            continue;
        }
        let options = match recipe.network {
            NetworkPolicy::Open if place == 0 => super::network::with_layer(options),
            _ => options.clone(),
        };
        match mount_overlay(&options, target) {
            // Mounts of the host's that are beneath (a vendor's libraries, say) cannot be taken off
            // here, and no overlay covers them: the tree is shown as it is.
            Err(Errno::INVAL) if place > 0 => show_tree(&options, target)?,
            mounted => mounted.step_with(|| format!("mount the overlay of {target}"))?,
        }
    }
    mount_bind_recursive(recipe.devices.as_str(), "/n/dev").step("show the device nodes")?;
    if recipe.watched {
        // Mapped and shared it would be memory that no look finds; this one reads the same.
        mount_bind("/n/dev/full", "/n/dev/zero").step("show /dev/full as /dev/zero")?;
    }
    sys::mount_setattr_recursive(c"/n/dev", READ_ONLY | NOSUID | NOEXEC)?;
    for (source, target) in &recipe.image.files {
        mount_bind(source.as_str(), target.as_str()).step_with(|| format!("show {target}"))?;
        let place = CString::new(target.as_str()).map_err(io::Error::from).step("show a file")?;
        sys::mount_setattr_recursive(&place, READ_ONLY | NOSUID | NODEV)?;
    }
    if recipe.proc {
        mount_proc(recipe.without)?;
    }
    let tmpfs = |target, bytes, inodes, mode, flags| {
        mount_tmpfs(recipe, target, (bytes, inodes), mode, flags)
    };
    tmpfs("/n/dev/shm", SHM_BYTES, SHM_INODES, 0o1777, quiet | MountFlags::NOEXEC)?;
    tmpfs("/n/tmp", TMP_BYTES, TMP_INODES, 0o1777, quiet)?;
    tmpfs("/n/workspace", recipe.disk, WORKSPACE_INODES, 0o700, quiet)?;
    let artifacts = "/n/workspace/artifacts";
    fs::DirBuilder::new().mode(0o700).create(artifacts).step("make artifacts/")?;
    let program = Some(recipe.ids.program);
    chown(artifacts, program, program).step("give artifacts/ to the program")
}

fn mount_overlay(options: &str, target: &str) -> Result<(), Errno> {
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RDONLY;
    mount(MOUNT_SOURCE, target, "overlay", flags, Some(options.as_c_str()))
}

/// Shows the tree beneath an overlay itself, with what is mounted in it, read-only.
fn show_tree(options: &str, target: &str) -> Jail<()> {
    let layers = options.strip_prefix("lowerdir=").unwrap_or(options);
    let tree = layers.split(':').next().unwrap_or(layers);
    mount_bind_recursive(tree, target).step_with(|| format!("show {target}"))?;
    let place = CString::new(target).map_err(io::Error::from).step("show a tree")?;
    sys::mount_setattr_recursive(&place, READ_ONLY | NOSUID | NODEV).map_err(JailError::from)
}

fn mount_proc(without: &Without) -> Jail<()> {
    if without.has(Layer::PidNamespace) {
        // Nobody but the owner of a pid namespace mounts its processes.
        return mount_bind_recursive("/proc", "/n/proc").step("show the launcher's /proc");
    }
    let options = (!without.has(Layer::Proc)).then_some(c"subset=pid,hidepid=2");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/n/proc", "proc", flags, options).step("mount /proc")
}

fn mount_tmpfs(
    recipe: &Recipe<'_>,
    target: &str,
    (bytes, inodes): (u64, u32),
    mode: u32,
    flags: MountFlags,
) -> Jail<()> {
    let program = recipe.ids.program;
    let mut options = format!("mode={mode:o},uid={program},gid={program}");
    if !recipe.without.has(Layer::ScratchQuota) {
        options.push_str(&format!(",size={bytes},nr_inodes={inodes}"));
    }
    let options = CString::new(options).map_err(io::Error::from).step("mount a tmpfs")?;
    mount("tmpfs", target, "tmpfs", flags, Some(options.as_c_str()))
        .step_with(|| format!("mount {target}"))
}

/// The first process needs nothing from here on: no capability, no privilege, no reader of its
/// memory. It executes nothing either, so that no bounding set matters.
fn give_everything_away() -> Jail<()> {
    sys::drop_linux_caps()?;
    rustix::thread::set_no_new_privs(true).step("set no_new_privs")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("become undumpable")
}
