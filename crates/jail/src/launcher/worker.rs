//! The worker: the one process in a cell that runs a program.
//!
//! Cold: a copy of the launcher, cloned into the cell's pid namespace, joins the cell's other
//! namespaces, confines itself and execs the interpreter.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::process::{chdir, umask};

use ampoule_core::Layer;

use super::{rules::Rules, without::Without};
use crate::{
    allowed::{path_rules, resource_limits},
    confine::{Plan, confine},
    error::{Jail, JailError, Step},
    sys,
};

/// Where a worker keeps its setup socket, above the program's four descriptors.
pub(super) const SETUP_FD: i32 = 4;
/// How much sooner than others the kernel ends a program when the whole machine runs out of memory.
pub(super) const OOM_SCORE: &str = "500";
/// The namespaces of the cell that are joined by its first process's pidfd.
pub(super) const JOINED: u64 =
    0x1000_0000 | 0x0002_0000 | 0x0800_0000 | 0x0400_0000 | 0x4000_0000 | 0x0200_0000;

/// The command that is executed, laid out ahead for the kernel.
pub(super) struct Command {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Command {
    /// Fills in the heap size and lays the strings out.
    pub(super) fn new(
        command: &[String],
        environment: &[(String, String)],
        memory: u64,
    ) -> Jail<Self> {
        // What is left is the interpreter's own, and what the kernel sees before the heap's end.
        let heap = ((memory / 4 * 3).max(memory.saturating_sub(64 << 20)) >> 20).to_string();
        let string = |text: String| {
            CString::new(text.replace("{heap_mb}", &heap))
                .map_err(io::Error::from)
                .step("lay out the command")
        };
        let arguments =
            command.iter().map(|text| string(text.clone())).collect::<Jail<Vec<_>>>()?;
        let environment = environment
            .iter()
            .map(|(name, value)| string(format!("{name}={value}")))
            .collect::<Jail<Vec<_>>>()?;
        let program = arguments
            .first()
            .cloned()
            .ok_or_else(|| JailError::new("lay out the command", io::ErrorKind::InvalidInput))?;
        Ok(Self { program, arguments, environment })
    }
}

/// Everything that a worker starts from.
pub(super) struct Recipe<'a> {
    pub(super) cell: BorrowedFd<'a>,
    /// Standard input (the request), output, error, and the result.
    pub(super) descriptors: [BorrowedFd<'a>; 4],
    pub(super) setup: &'a OwnedFd,
    pub(super) joins: Vec<BorrowedFd<'a>>,
    pub(super) command: Command,
    pub(super) rules: &'a Rules,
    pub(super) processes: u32,
    pub(super) disk: u64,
    pub(super) two_ids: bool,
    /// The id of the program.
    pub(super) program: u32,
    /// What is left out.
    pub(super) without: &'a Without,
}

/// The life of a worker up to its exec.
pub(super) fn run(recipe: &Recipe<'_>) -> ! {
    let laid_out = match join(recipe) {
        Ok(setup) => setup,
        Err(error) => {
            super::send_error(recipe.setup.as_fd(), &error);
            sys::exit(127)
        }
    };
    if let Err(error) = confine_by(recipe) {
        super::send_error(laid_out, &error);
        sys::exit(127);
    }
    // Confined: standard error is all that is left to speak through.
    let fault = exec(&recipe.command);
    let _ = sys::write(2, JailError::from(fault).to_string().as_bytes());
    sys::exit(127)
}

/// Joins the cell and lays out the descriptors; gives the setup socket at its new place.
fn join(recipe: &Recipe<'_>) -> Jail<BorrowedFd<'static>> {
    // Whatever the service itself was given: when the machine runs out, programs go first.
    std::fs::write("/proc/self/oom_score_adj", OOM_SCORE).step("set the oom score")?;
    for join in &recipe.joins {
        rustix::io::write(join, b"0").step("join the control group")?;
    }
    let joined = i32::try_from(recipe.without.namespaces(JOINED)).unwrap_or(i32::MAX);
    sys::setns(recipe.cell.as_raw_fd(), joined)?;
    rustix::process::setsid().step("leave the session")?;
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    chdir(Path::new("/workspace")).step("enter /workspace")?;
    lay_out(&recipe.descriptors, recipe.setup)?;
    sys::reset_signals()?;
    // SAFETY: `lay_out` has put the setup socket at this number; only a `confine` that succeeds
    // closes it, and then nothing is sent over it any more.
    Ok(unsafe { BorrowedFd::borrow_raw(SETUP_FD) })
}

fn confine_by(recipe: &Recipe<'_>) -> Jail<()> {
    let limits = resource_limits(recipe.processes, recipe.disk, &recipe.rules.hard_limits);
    let path_rules = path_rules();
    confine(&Plan {
        id: recipe.program,
        single_id: !recipe.two_ids,
        limits: if recipe.without.has(Layer::Rlimits) { &[] } else { &limits },
        landlock_abi: recipe.rules.landlock_abi,
        landlock_handled: recipe.rules.landlock_handled(),
        landlock_scoped: recipe.rules.landlock_scoped(),
        landlock_rules: &path_rules,
        filter: &recipe.rules.filter,
        setup_socket: SETUP_FD,
        kept: &[],
        dumpable: false,
        spared: recipe.without.spared(),
    })?;
    Ok(())
}

/// Puts the four descriptors of a program at 0 to 3 and the setup socket above them.
fn lay_out(descriptors: &[BorrowedFd<'_>; 4], setup: &OwnedFd) -> Jail<()> {
    let copy = |fd: BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, SETUP_FD + 1).step("copy a descriptor")
    };
    let mut copies = Vec::with_capacity(5);
    for descriptor in descriptors {
        copies.push(copy(*descriptor)?);
    }
    copies.push(copy(setup.as_fd())?);
    for (source, target) in copies.iter().zip(0..=SETUP_FD) {
        sys::dup_to(source.as_raw_fd(), target)?;
    }
    Ok(())
}

pub(super) fn exec(command: &Command) -> sys::Fault {
    let pointers = |strings: &[CString]| -> Vec<*const u8> {
        strings.iter().map(|string| string.as_ptr().cast()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&command.arguments), pointers(&command.environment));
    let program: &CStr = &command.program;
    // SAFETY: both arrays end in NULL, and the strings that they point to live in `command`.
    unsafe { sys::execve(program, argv.as_ptr(), envp.as_ptr()) }
}
