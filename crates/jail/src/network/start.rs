//! The life of a helper from the keeper's clone to its exec: everything that it is not to have is
//! given away here.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    process::{
        Pid, Signal, WaitId, WaitIdOptions, getppid, set_parent_process_death_signal, waitid,
    },
    thread::{
        CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

use super::{DEVICE, HELPER_RANGE, MTU, range::Plan, tap};
use crate::{
    error::{Jail, JailError, Step},
    fences, sys,
};

const CLONE_NEWUSER: i32 = 0x1000_0000;
/// Where the helper finds what it inherits.
const NAMESPACE_FD: i32 = 3;
const READY_FD: i32 = 4;
/// Above everything that is laid out.
const COPY_FD: i32 = 64;
/// Connections and descriptors, bytes of memory: a program can make the helper want more.
const MOST_DESCRIPTORS: u64 = 1024;
const MOST_MEMORY: u64 = 1 << 30;
const OOM_SCORE: &str = "400";

/// Everything that a helper is started from.
pub(super) struct Recipe<'a> {
    pub(super) program: &'a Path,
    pub(super) keeper: Option<Pid>,
    pub(super) network_namespace: BorrowedFd<'a>,
    pub(super) user_namespace: BorrowedFd<'a>,
    pub(super) plan: &'a Plan,
    /// Where it says that it is ready, and what it has to say otherwise.
    pub(super) ready: BorrowedFd<'a>,
    pub(super) said: BorrowedFd<'a>,
    /// Whether the cell's first process has an id of its own.
    pub(super) two_ids: bool,
}

/// In the keeper's child: becomes the helper, or says why not.
pub(super) fn run(recipe: &Recipe<'_>) -> ! {
    let Err(error) = become_helper(recipe);
    let _ = rustix::io::write(recipe.said, error.to_string().as_bytes());
    sys::exit(1)
}

fn become_helper(recipe: &Recipe<'_>) -> Jail<Infallible> {
    // The keeper ignores them, and an exec would keep that.
    sys::reset_signals()?;
    // For the time until the ids change, which the kernel forgets it over.
    follow_keeper(recipe)?;
    // When the machine runs out: after programs, before the service.
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).step("set the oom score")?;
    build_device(recipe)?;
    take_ids(recipe)?;
    lay_out(recipe)?;
    sys::set_rlimit(4, 0, 0)?; // CORE
    sys::set_rlimit(7, MOST_DESCRIPTORS, MOST_DESCRIPTORS)?; // NOFILE
    sys::set_rlimit(9, MOST_MEMORY, MOST_MEMORY)?; // AS
    set_no_new_privs(true).step("set no_new_privs")?;
    restrict_paths(recipe.program)?;
    follow_keeper(recipe)?;
    exec(recipe.program)
}

/// Nobody outlives the keeper.
fn follow_keeper(recipe: &Recipe<'_>) -> Jail<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).step("follow the keeper")?;
    if getppid() != recipe.keeper {
        return Err(JailError::new("follow the keeper", io::ErrorKind::NotFound));
    }
    Ok(())
}

/// Has a process of its own enter the cell and make the device: there is no way back from there.
fn build_device(recipe: &Recipe<'_>) -> Jail<()> {
    // SAFETY: the keeper, whose copy this process is, never starts a thread.
    let child = unsafe { sys::clone3(0, None) }?;
    let Some(child) = child else {
        let built = tap::build(recipe.user_namespace, recipe.network_namespace, recipe.plan);
        if let Err(error) = &built {
            let _ = rustix::io::write(recipe.said, error.to_string().as_bytes());
        }
        sys::exit(i32::from(built.is_err()))
    };
    // SAFETY: clone3 has just made this descriptor for us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)
        .step("wait for the network device")?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        // It has said why.
        _ => sys::exit(1),
    }
}

/// Puts the helper's descriptors where it looks for them, and has no other survive the exec.
fn lay_out(recipe: &Recipe<'_>) -> Jail<()> {
    let null = File::options().read(true).open("/dev/null").step("open /dev/null")?;
    let sources = [null.as_fd(), recipe.said, recipe.said, recipe.network_namespace, recipe.ready];
    let copies = sources
        .iter()
        .map(|source| rustix::io::fcntl_dupfd_cloexec(source, COPY_FD))
        .collect::<Result<Vec<_>, _>>()
        .step("copy a descriptor")?;
    for (copy, target) in copies.iter().zip(0..=READY_FD) {
        sys::dup_to(copy.as_raw_fd(), target)?;
    }
    Ok(sys::close_on_exec_from(READY_FD.cast_unsigned() + 1)?)
}

/// Leaves the host's rights behind: whoever enters the cell's user namespace has every capability
/// over what belongs to it, and none over anything else. Takes the id of the cell's first process,
/// and keeps the two capabilities that attaching to the device needs.
fn take_ids(recipe: &Recipe<'_>) -> Jail<()> {
    sys::setns(recipe.user_namespace.as_raw_fd(), CLONE_NEWUSER)?;
    if recipe.two_ids {
        sys::clear_groups()?;
        sys::set_gid(0)?;
        sys::set_uid(0)?;
    }
    let kept = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    for capability in CapabilitySet::all() - kept {
        // Those that this kernel does not know are not there to be taken.
        let _ = remove_capability_from_bounding_set(capability);
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    set_capabilities(None, sets).step("drop capabilities")?;
    for capability in kept {
        configure_capability_in_ambient_set(capability, true).step("keep a capability")?;
    }
    if capabilities(None).step("read back capabilities")?.permitted != kept {
        return Err(JailError::new("drop capabilities", io::ErrorKind::PermissionDenied));
    }
    Ok(())
}

/// Leaves of the host's files what a dynamically linked program and a name lookup need.
fn restrict_paths(program: &Path) -> Jail<()> {
    const EXECUTE: u64 = 1;
    const WRITE_FILE: u64 = 1 << 1;
    const READ_FILE: u64 = 1 << 2;
    const READ_DIR: u64 = 1 << 3;
    /// All that the first version knows.
    const HANDLED: u64 = (1 << 13) - 1;
    const O_PATH_CLOEXEC: i32 = 0o12_000_000;
    let Ok(version) = fences::landlock_abi() else {
        // The operator gave Landlock up; the launcher insists on it otherwise.
        return Ok(());
    };
    let scoped = if version >= 6 { 0b11 } else { 0 };
    let ruleset = fences::landlock_create(HANDLED, scoped, version)?;
    let program = c_string(program.as_os_str().as_bytes())?;
    let tree = EXECUTE | READ_FILE | READ_DIR;
    let rules: [(&CStr, u64); 9] = [
        (&program, EXECUTE | READ_FILE),
        (c"/usr", tree),
        (c"/lib", tree),
        (c"/lib64", tree),
        (c"/nix/store", tree),
        (c"/etc/ld.so.cache", READ_FILE),
        (c"/etc/resolv.conf", READ_FILE),
        (c"/dev/null", READ_FILE | WRITE_FILE),
        (c"/dev/net/tun", READ_FILE | WRITE_FILE),
    ];
    for (path, access) in rules {
        // What is not there needs no rule.
        if let Ok(parent) = sys::open(path, O_PATH_CLOEXEC) {
            fences::landlock_allow(ruleset, parent, access)?;
            sys::close(parent)?;
        }
    }
    fences::landlock_restrict(ruleset)?;
    Ok(sys::close(ruleset)?)
}

fn c_string(bytes: &[u8]) -> Jail<CString> {
    CString::new(bytes).map_err(io::Error::from).step("lay out the helper's command")
}

fn exec(program: &Path) -> Jail<Infallible> {
    let arguments = [
        super::tool::PROGRAM.to_owned(),
        "--netns-type=path".to_owned(),
        format!("--ready-fd={READY_FD}"),
        format!("--mtu={MTU}"),
        format!("--cidr={HELPER_RANGE}"),
        "--disable-host-loopback".to_owned(),
        "--enable-seccomp".to_owned(),
        format!("/proc/self/fd/{NAMESPACE_FD}"),
        DEVICE.to_owned(),
    ];
    let arguments =
        arguments.iter().map(|text| c_string(text.as_bytes())).collect::<Jail<Vec<_>>>()?;
    let argv: Vec<*const u8> =
        arguments.iter().map(|text| text.as_ptr().cast()).chain([std::ptr::null()]).collect();
    let envp = [std::ptr::null::<u8>()];
    let program = c_string(program.as_os_str().as_bytes())?;
    // SAFETY: both arrays end in NULL, and `arguments` outlives the call.
    let fault = unsafe { sys::execve(&program, argv.as_ptr(), envp.as_ptr()) };
    Err(fault.into())
}
