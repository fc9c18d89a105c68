//! A scope of systemd's: a control group that is ours to divide, where the one that we were started
//! in is not.
//!
//! The keeper asks for one over the bus (the user's, or the system's for root) and is moved into
//! it; nobody else is. systemd removes a scope when its last process has ended.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::getuid;

const BUS_TOOLS: [&str; 2] = ["/usr/bin/busctl", "/bin/busctl"];
/// How long systemd may take to answer, and then to move us.
const PATIENCE: Duration = Duration::from_secs(5);

/// Moves this process into a scope of its own; `false` where nobody can give us one.
pub(crate) fn enter(name: &str) -> bool {
    let user = getuid().as_raw();
    let runtime = format!("/run/user/{user}");
    let (bus, is_there) = match user {
        0 => ("--system", Path::new("/run/systemd/system").exists()),
        _ => ("--user", Path::new(&runtime).join("bus").exists()),
    };
    let Some(tool) = BUS_TOOLS.into_iter().find(|tool| is_there && Path::new(tool).exists()) else {
        return false;
    };
    let unit = format!("{name}.scope");
    let mut ask = Command::new(tool);
    ask.env_clear().env("XDG_RUNTIME_DIR", &runtime);
    ask.args([bus, "--quiet", "--timeout=5", "call", "org.freedesktop.systemd1"])
        .args(["/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"])
        .args(["StartTransientUnit", "ssa(sv)a(sa(sv))", &unit, "fail", "4"])
        .args(["Description", "s", "The sandboxes of Ampoule"])
        .args(["CollectMode", "s", "inactive-or-failed"])
        .args(["Delegate", "b", "true"])
        .args(["PIDs", "au", "1", &std::process::id().to_string()])
        .arg("0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let deadline = Instant::now() + PATIENCE;
    let Ok(mut asking) = ask.spawn() else { return false };
    let answered = eventually(deadline, || matches!(asking.try_wait(), Ok(Some(_)) | Err(_)));
    if !answered {
        let _ = asking.kill();
    }
    // The answer says that the scope is being started, not that we are in it.
    asking.wait().is_ok_and(|status| status.success())
        && eventually(deadline, || {
            fs::read_to_string("/proc/self/cgroup").is_ok_and(|groups| groups.contains(&unit))
        })
}

fn eventually(deadline: Instant, mut holds: impl FnMut() -> bool) -> bool {
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
