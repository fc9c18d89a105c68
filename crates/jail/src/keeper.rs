//! The keeper: the manager's only child. It starts the launcher and outlives it, so that somebody
//! with the right to do so removes the control groups whatever else was killed.
//!
//! ```text
//! manager --control socket--> keeper --clone3(user, pid, mount, … namespaces)--> launcher
//! ```
//!
//! The manager's death closes the launcher's socket: the launcher exits, with it its pid namespace
//! and every process in it; the keeper sees both ends, removes the groups and exits. The launcher's
//! death is seen here too: the keeper clears the groups, starts another and hands its socket to the
//! manager. A keeper that is killed takes the launcher along (parent-death signal); the groups it
//! leaves are empty, and the next keeper sweeps them.

use std::{
    convert::Infallible,
    ffi::CString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, FileType, Mode, mknodat},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
    process::{
        Signal, WaitIdOptions, getuid, pidfd_send_signal, set_parent_process_death_signal, waitid,
    },
    thread::{UnshareFlags, set_name},
};

use crate::{
    cgroup::Base,
    config::{ID_STEP, LauncherConfig, MOST_RANGES, host_ids, id_count},
    error::{Jail, JailError, Step},
    handover::{
        DEVICE_NODES, DEVICES, FIRST_GROUP_FD, LAUNCHER_ARGUMENT, SOCKET_FD, Start,
        finish_device_directory, memory_file, read_json, report_failure,
    },
    hurdles::{Machine, recognise},
    identity, leaks,
    network::helper::Helpers,
    rights::Rights,
    sys::{self, Child},
    wire,
};

/// The hidden argument that makes a process a keeper.
pub(crate) const ARGUMENT: &str = "__keeper";
/// A launcher that dies sooner than this, this often in a row, is not started again.
const QUICK_DEATH: Duration = Duration::from_millis(500);
const MOST_QUICK_DEATHS: u32 = 3;
/// Above every descriptor that is laid out for a launcher.
const VOICE_FD: i32 = 64;
/// How long a launcher may take to leave after its manager has gone.
const GRACE: Duration = Duration::from_secs(5);

/// Runs as the keeper on the control socket that is standard input.
pub(crate) fn run() -> Jail<()> {
    // A terminal's Ctrl-C is the manager's business, and so is a service manager's wish to stop:
    // our life is the control socket.
    let _ = rustix::process::setsid();
    for signal in [1, 2, 15] {
        sys::ignore_signal(signal)?;
    }
    let _ = set_name(c"ampoule-keeper");
    raise_descriptor_limit();
    // SAFETY: the manager starts a keeper with its control socket as standard input, and nothing
    // else in this process touches descriptor 0.
    let control = unsafe { OwnedFd::from_raw_fd(0) };
    let result = run_on(&control);
    if let Err(error) = &result {
        // A manager that is gone has nobody to tell.
        let _ = wire::send(control.as_fd(), format!("E{error}").as_bytes(), &[]);
    }
    result
}

fn run_on(control: &OwnedFd) -> Jail<()> {
    let config = receive_config(control)?;
    let name = identity::of_self().step("read our own start time")?;
    leaks::sweep_groups();
    let base = Base::create(&name)?;
    let result = keep(control, config, &base);
    base.remove();
    result
}

/// Host ids that are ours alone while the lock is held: an abstract socket, which the kernel
/// releases whatever becomes of us.
struct ClaimedIds {
    first: u32,
    _lock: OwnedFd,
}

/// Claims a range that no other manager of this host has.
fn claim_ids(base: u32, slots: u32) -> Jail<ClaimedIds> {
    if id_count(slots) > ID_STEP {
        let most = ID_STEP / id_count(1);
        let step = format!("make {slots} slots; hint: one manager has at most {most}");
        return Err(JailError::new(step, io::ErrorKind::InvalidInput));
    }
    for place in 1..=MOST_RANGES {
        let first = base + place * ID_STEP;
        let lock = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
            .step("make a lock")?;
        if bind_name(&lock, first)? {
            return Ok(ClaimedIds { first, _lock: lock });
        }
    }
    Err(JailError::new(
        "find host ids that no other manager uses; hint: too many managers on this host",
        io::ErrorKind::AddrInUse,
    ))
}

/// Whether the name of a range of ids was free.
fn bind_name(lock: &OwnedFd, first: u32) -> Jail<bool> {
    let name = format!("ampoule-ids-{first}");
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).step("name a lock")?;
    match bind(lock, &address) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::ADDRINUSE) => Ok(false),
        Err(error) => Err(error).step("take a lock"),
    }
}

fn receive_config(control: &OwnedFd) -> Jail<LauncherConfig> {
    let mut byte = [0; 1];
    let (_, mut descriptors) = wire::receive(control, &mut byte)
        .step("receive the configuration")?
        .ok_or_else(|| JailError::new("receive the configuration", io::ErrorKind::UnexpectedEof))?;
    let descriptor = descriptors
        .pop()
        .ok_or_else(|| JailError::new("receive the configuration", io::ErrorKind::InvalidData))?;
    read_json(File::from(descriptor))
}

/// Raises the soft limit of descriptors to the hard one: each sandbox holds a dozen.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Makes each slot its own device nodes, while the first user namespace still lets us: a lock or a
/// watch on a shared `/dev/null` would be seen by every other run.
fn make_devices(slots: u32) -> Jail<()> {
    // SAFETY: a new mount namespace affects no memory and no descriptor of this single-threaded
    // process.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
        .step("leave the mount namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .step("make mounts private")?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("ampoule", DEVICES, "tmpfs", flags, Some(c"mode=0755,size=16m"))
        .step("mount a file system for device nodes")?;
    rustix::process::umask(Mode::empty());
    for slot in 0..slots {
        let directory = format!("{DEVICES}/{slot}");
        rustix::fs::mkdir(&directory, Mode::from_raw_mode(0o755))
            .step("make a device directory")?;
        for (name, major, minor) in DEVICE_NODES {
            mknodat(
                CWD,
                format!("{directory}/{name}"),
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o666),
                rustix::fs::makedev(major, minor),
            )
            .step("make a device node")?;
        }
        finish_device_directory(&directory)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// Starts launchers, one after another, until the manager goes.
fn keep(control: &OwnedFd, config: LauncherConfig, base: &Base) -> Jail<()> {
    let (layout, groups) = base.layout();
    let slots = config.slots;
    // Held until this function returns, which is after the last launcher is reaped.
    let rights = Rights::of_self(&host_ids(config.id_base))?;
    if !rights.own_id {
        return Err(JailError::new(
            "map root's own id, which takes CAP_SETFCAP; hint: start as an ordinary user (in a \
             container: `--user 1000:1000`), or add that capability",
            io::ErrorKind::PermissionDenied,
        ));
    }
    let claimed = rights.ids.then(|| claim_ids(config.id_base, slots)).transpose()?;
    if rights.devices {
        // One more than there are slots: the zygotes'.
        make_devices(slots + 1)?;
    }
    let mut helpers = Helpers::find(&config.network, claimed.is_some());
    if rights.devices {
        helpers.show_tun();
    }
    let ids = claimed.as_ref().map(|claimed| (claimed.first, id_count(slots)));
    let first_id = claimed.as_ref().map(|claimed| claimed.first);
    let start = memory_file(&Start {
        config,
        layout,
        first_id,
        own_devices: rights.devices,
        network_hurdle: helpers.hurdle(),
    })?;
    let mut quick_deaths = 0;
    loop {
        let (theirs, ours) = wire::pair().step("make the launcher's socket")?;
        let (line, their_line) = wire::pair().step("make the launcher's line")?;
        let born = Instant::now();
        let child = start_launcher([&ours, &their_line], &start, &groups, ids)
            .map_err(|error| recognise(&Machine::look(), error))?;
        drop((ours, their_line));
        helpers.listen(line);
        // SAFETY: clone3 has just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
        let told = wire::send(control.as_fd(), b"L", &[theirs.as_fd()]);
        drop(theirs);
        let manager_left = told.is_err() || wait_for_either(&pidfd, control, &mut helpers)?;
        if manager_left {
            wait_for_end(&pidfd);
        }
        reap(&pidfd)?;
        helpers.end_all();
        base.clear();
        quick_deaths = if born.elapsed() < QUICK_DEATH { quick_deaths + 1 } else { 0 };
        if manager_left || quick_deaths == MOST_QUICK_DEATHS {
            return Ok(());
        }
    }
}

/// Waits for the launcher's end (`false`) or the manager's (`true`), and meanwhile serves the
/// launcher with network helpers.
fn wait_for_either(pidfd: &OwnedFd, control: &OwnedFd, helpers: &mut Helpers) -> Jail<bool> {
    loop {
        let mut polled = vec![
            PollFd::new(pidfd, PollFlags::IN),
            PollFd::new(control, PollFlags::IN | PollFlags::HUP),
        ];
        polled.extend(helpers.polled());
        match poll(&mut polled, None) {
            Ok(_) if !polled[1].revents().is_empty() => return Ok(true),
            Ok(_) if !polled[0].revents().is_empty() => return Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).step("wait for the launcher"),
        }
        drop(polled);
        helpers.attend();
    }
}

/// Gives the launcher time to leave by itself, then ends it.
fn wait_for_end(pidfd: &OwnedFd) {
    let timeout = Timespec { tv_sec: GRACE.as_secs().cast_signed(), tv_nsec: 0 };
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    if !matches!(poll(&mut polled, Some(&timeout)), Ok(1..)) {
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
    }
}

fn reap(pidfd: &OwnedFd) -> Jail<()> {
    waitid(rustix::process::WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
        .map(drop)
        .step("reap the launcher")
}

/// Clones a launcher into its own namespaces, maps its ids and lets it exec itself.
fn start_launcher(
    sockets: [&OwnedFd; 2],
    start: &File,
    groups: &[BorrowedFd<'_>],
    ids: Option<(u32, u32)>,
) -> Jail<Child> {
    const NEW_NAMESPACES: u64 = 0x1000_0000 // user
        | 0x2000_0000 // pid
        | 0x0002_0000 // mount
        | 0x0800_0000 // ipc
        | 0x0400_0000 // uts
        | 0x4000_0000; // net
    let (mut gate_out, gate_in) = io::pipe().step("make a pipe")?;
    // SAFETY: the keeper never starts a thread.
    let child = unsafe { sys::clone3(NEW_NAMESPACES, None) }?;
    let Some(child) = child else {
        drop(gate_in);
        // Before anything else: nobody may outlive the keeper unkept. The launcher says it again.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let mut byte = [0];
        // Without the byte the ids are not mapped, and the keeper says why.
        if gate_out.read_exact(&mut byte).is_ok() {
            become_launcher(sockets, start, groups, ids.is_some());
        }
        sys::exit(1);
    };
    drop(gate_out);
    let mapped = map_ids(child.pid, ids)
        .and_then(|()| (&gate_in).write_all(b"m").step("start the launcher"));
    if mapped.is_err() {
        drop(gate_in);
    }
    mapped.map(|()| child)
}

fn map_ids(pid: i32, ids: Option<(u32, u32)>) -> Jail<()> {
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/{pid}/{file}"), text).step_with(|| format!("write {file}"))
    };
    match ids {
        Some((base, count)) => {
            let map = format!("0 0 1\n{base} {base} {count}");
            write("uid_map", map.clone())?;
            write("gid_map", map)
        }
        None => {
            write("setgroups", "deny".to_owned())?;
            write("uid_map", format!("0 {} 1", getuid().as_raw()))?;
            write("gid_map", format!("0 {} 1", rustix::process::getgid().as_raw()))
        }
    }
}

/// In the child: takes the ids, lays out the descriptors and execs this program again, so that the
/// launcher's memory belongs to its own user namespace (else joining a cell fails with EPERM).
/// Returns only if that failed, and the manager has been told.
fn become_launcher(sockets: [&OwnedFd; 2], start: &File, groups: &[BorrowedFd<'_>], two_ids: bool) {
    // A copy far above everything that is laid out: it can speak whatever has become of the rest,
    // and an exec closes it.
    let Ok(voice) = rustix::io::fcntl_dupfd_cloexec(sockets[0], VOICE_FD) else { return };
    let failed = take_ids(two_ids)
        .and_then(|()| lay_out(sockets, start, groups))
        .and_then(|()| exec_self(LAUNCHER_ARGUMENT));
    let Err(error) = failed;
    report_failure(voice.as_fd(), &error);
}

fn take_ids(two_ids: bool) -> Jail<()> {
    if two_ids {
        sys::clear_groups()?;
    }
    sys::set_gid(0)?;
    Ok(sys::set_uid(0)?)
}

/// Puts the launcher's descriptors where it looks for them, and has no other survive the exec.
fn lay_out(sockets: [&OwnedFd; 2], start: &File, groups: &[BorrowedFd<'_>]) -> Jail<()> {
    let [socket, line] = sockets;
    let mut sources = vec![socket.as_fd(), start.as_fd(), line.as_fd()];
    sources.extend_from_slice(groups);
    // Copies above the range that is laid out, so that no source is overwritten by a target.
    let copies = sources
        .iter()
        .map(|source| rustix::io::fcntl_dupfd_cloexec(source, VOICE_FD + 1))
        .collect::<Result<Vec<_>, _>>()
        .step("copy a descriptor")?;
    for (copy, target) in copies.iter().zip(SOCKET_FD..) {
        sys::dup_to(copy.as_raw_fd(), target)?;
    }
    let null = File::open("/dev/null").step("open /dev/null")?;
    sys::dup_to(null.as_raw_fd(), 0)?;
    // All others end with the exec, those too that somebody above us has forgotten.
    let end = FIRST_GROUP_FD + i32::try_from(groups.len()).unwrap_or(0);
    Ok(sys::close_on_exec_from(end.cast_unsigned())?)
}

/// Execs this very program with a hidden argument and an empty environment.
fn exec_self(argument: &str) -> Jail<Infallible> {
    let argument = CString::new(argument).map_err(io::Error::from).step("exec")?;
    let argv = [c"ampoule".as_ptr().cast::<u8>(), argument.as_ptr().cast(), std::ptr::null()];
    let envp = [std::ptr::null::<u8>()];
    // SAFETY: both arrays end in NULL, and their strings outlive the call.
    let fault = unsafe { sys::execve(c"/proc/self/exe", argv.as_ptr(), envp.as_ptr()) };
    Err(fault.into())
}
