//! One probe per fence: what it tries, and what getting through looks like.
//!
//! Where two fences would stop the same act, the answer tells them apart, or the probe looks for
//! what only its own fence hides. Two are read and not crossed, because another fence refuses every
//! call that could tell: the IPC namespace (the filter refuses the objects that it holds) and
//! `no_new_privs` (every mount is nosuid as well).

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    time::Duration,
};

use ampoule_core::{Crossing, Layer};
use rustix::{
    fs::{FallocateFlags, fallocate, inotify, statvfs},
    io::Errno,
    process::{Pid, getpid, test_kill_process},
    thread::{sched_getaffinity, sched_setaffinity},
};

use super::Outside;
use crate::sys;

/// Where a probe stands.
pub(super) struct Place {
    pub(super) outside: Outside,
    pub(super) port: Option<u16>,
    pub(super) paths: Vec<String>,
}

/// Tries one fence; an error says why nothing could be tried.
type Probe = fn(&Place) -> Result<Crossing, String>;

/// Every fence with its probe.
pub(super) const FENCES: [(Layer, Probe); 18] = [
    (Layer::UserNamespace, user_namespace),
    (Layer::PidNamespace, pid_namespace),
    (Layer::MountNamespace, mount_namespace),
    (Layer::NetworkNamespace, network_namespace),
    (Layer::IpcNamespace, ipc_namespace),
    (Layer::UtsNamespace, uts_namespace),
    (Layer::CgroupNamespace, cgroup_namespace),
    (Layer::ReadOnlyRoot, read_only_root),
    (Layer::ScratchQuota, scratch_quota),
    (Layer::KernelQuotas, kernel_quotas),
    (Layer::Proc, proc),
    (Layer::OwnIds, own_ids),
    (Layer::OwnDevices, own_devices),
    (Layer::NoLinuxCaps, no_linux_caps),
    (Layer::NoNewPrivs, no_new_privs),
    (Layer::Seccomp, seccomp),
    (Layer::Landlock, landlock),
    (Layer::Rlimits, rlimits),
];

/// Tries to cross the fence `layer`.
pub(super) fn try_to_cross(layer: Layer, place: &Place) -> Crossing {
    let probe = FENCES.iter().find(|(fence, _)| *fence == layer);
    let tried = probe.map_or_else(|| Err("it has no probe".to_owned()), |(_, probe)| probe(place));
    tried.unwrap_or_else(|why| Crossing::Untried { why })
}

fn stopped(by: impl Into<String>) -> Result<Crossing, String> {
    Ok(Crossing::Stopped { by: by.into() })
}

fn crossed(how: impl Into<String>) -> Result<Crossing, String> {
    Ok(Crossing::Crossed { how: how.into() })
}

/// Nothing but `/proc` shows what this probe is after.
fn unseen() -> Result<Crossing, String> {
    Ok(Crossing::Unseen { why: "there is no /proc to see it by".to_owned() })
}

/// Looks whether one of our namespaces is the launcher's; `None` where `/proc` does not tell.
fn is_the_launchers(place: &Place, name: &str) -> Option<bool> {
    let own = fs::metadata(format!("/proc/self/ns/{name}")).ok()?.ino();
    Some(place.outside.namespaces.get(name)? == &own)
}

/// Looks for a name of the launcher's owner: its files belong to id 0 of *its* user namespace, and
/// to nobody in one of our own.
fn user_namespace(place: &Place) -> Result<Crossing, String> {
    if is_the_launchers(place, "user") == Some(true) {
        return crossed("its user namespace is the launcher's");
    }
    match fs::metadata("/").map_err(|error| format!("look at `/`: {error}"))?.uid() {
        0 => crossed("the owner of the launcher's files has the id 0 here"),
        id => stopped(format!("the owner of the launcher's files is {id} here, as any stranger")),
    }
}

/// Sends signal 0 to every pid but its own and the cell's first: one that is there answers, if only
/// with a refusal.
fn pid_namespace(_: &Place) -> Result<Crossing, String> {
    const NEAR: i32 = 256;
    let own = getpid().as_raw_pid();
    let others = (2..=4096).chain(own - NEAR..own + NEAR).filter(|pid| *pid > 1 && *pid != own);
    for pid in others.filter_map(Pid::from_raw) {
        if test_kill_process(pid) != Err(Errno::SRCH) {
            return crossed(format!("process {pid} of the launcher can be named"));
        }
    }
    stopped("no process beyond its own has a pid")
}

/// Looks for the launcher's own directories, which a root that was not let go of would show, and for
/// what the host has, by the front door and through the back.
fn mount_namespace(place: &Place) -> Result<Crossing, String> {
    let launchers = ["/s", "/t", "/d"].map(str::to_owned);
    for path in launchers.iter().chain(&place.paths) {
        for way in ["", "/outside", "/..", "/proc/1/root", "/proc/self/root/.."] {
            let path = format!("{way}{path}");
            if fs::symlink_metadata(&path).is_ok() {
                return crossed(format!("`{path}` is within reach"));
            }
        }
    }
    stopped("no directory of the host or of the launcher is within reach")
}

/// Connects to a listener of the launcher's, and to one of the host's.
fn network_namespace(place: &Place) -> Result<Crossing, String> {
    let targets = [(Some(place.outside.port), "launcher"), (place.port, "host")];
    for (port, whose) in targets {
        let Some(port) = port else { continue };
        let address = (Ipv4Addr::LOCALHOST, port).into();
        if TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok() {
            return crossed(format!("the {whose}'s loopback answers"));
        }
    }
    stopped("nobody outside answers on the loopback")
}

/// Compares namespaces: the filter refuses every call on the objects of one.
fn ipc_namespace(place: &Place) -> Result<Crossing, String> {
    match is_the_launchers(place, "ipc") {
        Some(true) => crossed("its IPC namespace is the launcher's"),
        Some(false) => stopped("its IPC namespace is its own"),
        None => unseen(),
    }
}

/// Reads the host name.
fn uts_namespace(place: &Place) -> Result<Crossing, String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name == place.outside.host_name {
        return crossed("it reads the launcher's host name");
    }
    stopped(format!("the host name is `{name}`"))
}

/// Looks for the name of its own control group as it is outside.
fn cgroup_namespace(place: &Place) -> Result<Crossing, String> {
    let Some(is_the_launchers) = is_the_launchers(place, "cgroup") else {
        return unseen();
    };
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let outer = groups.lines().find(|line| !line.ends_with(":/"));
    match (outer, is_the_launchers) {
        (Some(_), _) => crossed("it reads the names of control groups above its own"),
        (None, true) => crossed("its control group namespace is the launcher's"),
        (None, false) => stopped("its control groups have no name above them"),
    }
}

/// Makes a directory where nothing may be made. Landlock and the owner's rights would refuse as
/// well, but the kernel asks the mount first: any other error means that it did not say no.
fn read_only_root(_: &Place) -> Result<Crossing, String> {
    for parent in ["/", "/etc", "/usr", "/usr/bin", "/opt/ampoule"] {
        let path = Path::new(parent).join("ampoule-probe");
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            Err(error) => {
                let kind = error.kind();
                return crossed(format!(
                    "the mount of `{parent}` takes writes ({kind} came after)"
                ));
            }
            Ok(()) => return crossed(format!("it made a directory in `{parent}`")),
        }
    }
    stopped("every mount of programs and libraries answers EROFS")
}

/// Fills scratch space beyond its size.
fn scratch_quota(_: &Place) -> Result<Crossing, String> {
    const MIB: u64 = 1 << 20;
    let workspace =
        statvfs("/workspace").map_err(|error| format!("look at /workspace: {error}"))?;
    // More than a half, because a file may be as large as the whole and no larger.
    let half = workspace.f_blocks * workspace.f_frsize / 2 + MIB;
    let sizes = [("/tmp", 51 * MIB), ("/dev/shm", 17 * MIB), ("/workspace", half)];
    for (directory, size) in sizes {
        let fill = |name: &str| -> io::Result<File> {
            let file = File::create(Path::new(directory).join(name))?;
            fallocate(&file, FallocateFlags::empty(), 0, size)?;
            Ok(file)
        };
        // The working directory holds one such file, and no two.
        let first = if directory == "/workspace" { fill("first").map(drop) } else { Ok(()) };
        match first.and_then(|()| fill("second")) {
            Ok(_) => return crossed(format!("`{directory}` took more than its size")),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(error) => return Err(format!("fill `{directory}`: {error}")),
        }
    }
    stopped("scratch space answers ENOSPC beyond its size")
}

/// Makes more inotify instances than one run may have.
fn kernel_quotas(_: &Place) -> Result<Crossing, String> {
    const PROMISED: usize = 16;
    let made: Vec<_> = (0..2 * PROMISED)
        .map_while(|_| inotify::init(inotify::CreateFlags::CLOEXEC).ok())
        .collect();
    match made.len() {
        count if count > PROMISED => crossed(format!("it made {count} inotify instances")),
        count => stopped(format!("EMFILE after {count} inotify instances")),
    }
}

/// Looks for more than its own processes.
fn proc(_: &Place) -> Result<Crossing, String> {
    if !Path::new("/proc/self/status").exists() {
        return Err("there is no /proc".to_owned());
    }
    for path in ["/proc/meminfo", "/proc/sys/kernel", "/proc/1/stat"] {
        if File::open(path).is_ok() {
            return crossed(format!("it reads `{path}`"));
        }
    }
    stopped("/proc shows its own processes and nothing else")
}

/// Moves the cell's first process between processors, which whoever has its id may.
fn own_ids(_: &Place) -> Result<Crossing, String> {
    let processors =
        sched_getaffinity(None).map_err(|error| format!("ask for its processors: {error}"))?;
    match sched_setaffinity(Some(Pid::INIT), &processors) {
        Ok(()) => crossed("it has the id of the cell's first process"),
        Err(_) => stopped("the cell's first process has another id"),
    }
}

/// Looks whether a device node is the host's own: a lock or a watch on that one is everybody's.
fn own_devices(place: &Place) -> Result<Crossing, String> {
    let node = fs::metadata("/dev/null").map_err(|error| format!("look at /dev/null: {error}"))?;
    if place.outside.null == Some((node.dev(), node.ino())) {
        return crossed("/dev/null is the host's own node");
    }
    stopped("/dev/null is a node of its own")
}

/// Does what takes a Linux capability and nothing else: binds a low port, and opens a file that its
/// mode closes to everybody.
fn no_linux_caps(_: &Place) -> Result<Crossing, String> {
    if TcpListener::bind((Ipv4Addr::LOCALHOST, 80)).is_ok() {
        return crossed("it bound port 80");
    }
    let path = "/tmp/closed";
    let made = OpenOptions::new().create(true).write(true).truncate(true).mode(0o000).open(path);
    made.map_err(|error| format!("make `{path}`: {error}"))?;
    if File::open(path).is_ok() {
        return crossed("it opened a file of mode 0");
    }
    stopped("EACCES for a low port and for a file of mode 0")
}

/// Asks the kernel: nothing that could gain a privilege is there to be executed, every mount being
/// nosuid.
fn no_new_privs(_: &Place) -> Result<Crossing, String> {
    const PR_GET_NO_NEW_PRIVS: i32 = 39;
    match sys::prctl(PR_GET_NO_NEW_PRIVS, 0, 0) {
        Ok(1) => stopped("no_new_privs is set"),
        Ok(_) => crossed("what it executes may gain a privilege"),
        Err(fault) => {
            Err(format!("ask for no_new_privs: {}", Errno::from_raw_os_error(fault.errno)))
        }
    }
}

/// Makes a call that the policy refuses, with an argument that the kernel refuses otherwise.
fn seccomp(_: &Place) -> Result<Crossing, String> {
    match sys::setns(-1, 0).map_err(|fault| Errno::from_raw_os_error(fault.errno)) {
        Err(Errno::PERM) => stopped("setns was refused before the kernel saw it"),
        Err(error) => crossed(format!("the kernel itself answered setns: {error}")),
        Ok(()) => crossed("setns was carried out"),
    }
}

/// Changes what only Landlock keeps from its owner: its own `/proc/self/comm`, and a device's state.
fn landlock(_: &Place) -> Result<Crossing, String> {
    match OpenOptions::new().write(true).open("/proc/self/comm") {
        Ok(_) => return crossed("it opened `/proc/self/comm` to write"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return stopped("EACCES for its own `/proc/self/comm`");
        }
        Err(_) => {}
    }
    const RNDGETENTCNT: u32 = 0x8004_5200;
    let device = File::open("/dev/random").map_err(|error| format!("open /dev/random: {error}"))?;
    let mut count = 0_i32;
    // SAFETY: RNDGETENTCNT writes one int, for which `count` is a place.
    let asked = unsafe { sys::ioctl(device.as_raw_fd(), RNDGETENTCNT, (&raw mut count).cast()) };
    match asked.map_err(|fault| Errno::from_raw_os_error(fault.errno)) {
        Err(Errno::ACCESS) => stopped("EACCES for a request to /dev/random"),
        // Older versions of Landlock leave requests to devices alone.
        _ => {
            Err("there is no /proc, and this kernel's Landlock has no rule for devices".to_owned())
        }
    }
}

/// Opens more descriptors than a process may have.
fn rlimits(_: &Place) -> Result<Crossing, String> {
    const PROMISED: usize = 512;
    let input = io::stdin();
    let copies: Vec<_> = (0..PROMISED + 64).map_while(|_| rustix::io::dup(&input).ok()).collect();
    match copies.len() {
        count if count >= PROMISED => crossed(format!("it opened {count} descriptors")),
        count => stopped(format!("EMFILE after {count} descriptors")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_but_the_meters_has_one_probe() {
        let meters = [Layer::Cgroup, Layer::CpuMeter, Layer::SwapMeter];
        for layer in Layer::ALL {
            let probes = FENCES.iter().filter(|(fence, _)| fence == layer).count();
            assert_eq!(probes, usize::from(!meters.contains(layer)), "{layer}");
        }
    }
}
