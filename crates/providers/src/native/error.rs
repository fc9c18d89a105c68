//! The jail's errors as ours.

use ampoule_core::{Error, ErrorKind};
use ampoule_jail::JailError;

const CREATE: &str = "create a sandbox";

pub(super) fn spawn(error: JailError) -> Error {
    Error::new(ErrorKind::Unavailable, "start the launcher", "its process could not be started")
        .with_source(error)
}

pub(super) fn launcher_down(reason: &str) -> Error {
    Error::new(ErrorKind::Unavailable, "reach the launcher", reason)
}

pub(super) fn launcher_lost() -> Error {
    Error::new(ErrorKind::Unavailable, "build a sandbox", "the launcher ended; another is started")
}

/// Why the launcher could not build a sandbox.
#[derive(Debug)]
pub(super) struct NotBuilt {
    /// Every slot is in use.
    pub(super) full: bool,
    /// The step and the kernel's error.
    pub(super) text: String,
}

pub(super) fn not_built(why: NotBuilt) -> Error {
    if why.full {
        let message = "every sandbox is in use; hint: try again, or raise \
                       SANDBOX_EXECUTOR_MANAGER_POOL_SIZE";
        return Error::new(ErrorKind::Busy, CREATE, message);
    }
    Error::new(ErrorKind::Internal, CREATE, why.text)
}

pub(super) fn no_meters() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "limit memory and processes",
        "no control group with the memory and pids controllers is ours to divide here; hint: start \
         as root, in a service with `Delegate=yes`, or where a systemd user manager can give a \
         scope; or give it up with `native.allow_missing = [\"cgroup\"]`, and a watch counts instead",
    )
}

/// What the interpreter said is the operator's to read: no program has run. Without a hint: whoever
/// knows which runtime it is adds one.
pub(super) fn not_started(problem: &str, stderr: &str) -> Error {
    let said = match stderr.trim() {
        "" => "it said nothing; `ampoule runtimes list` shows what is missing".to_owned(),
        said => format!("it said: {said}"),
    };
    let message = format!("the interpreter did not start: {problem}; {said}");
    Error::new(ErrorKind::Unavailable, CREATE, message)
}

pub(super) fn io(operation: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::new(ErrorKind::Internal, operation, "the kernel refused").with_source(error)
}
