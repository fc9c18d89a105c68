//! What the machine around us is like: who we are, control groups, disk, address.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream, ToSocketAddrs as _},
    path::Path,
    time::Duration,
};

use super::report::Check;

const SECTION: &str = "machine";
/// Less free space than this is worth a word.
const LITTLE: u64 = 1 << 30;
/// How long whoever listens may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at who we are and at the control groups.
pub(super) fn checks() -> Vec<Check> {
    let container = container();
    let groups = control_groups(container.is_some());
    let mut checks = vec![user()];
    checks.extend(container);
    checks.push(groups);
    checks.push(swap(&fs::read_to_string("/proc/swaps").unwrap_or_default()));
    checks
}

fn user() -> Check {
    if rustix::process::geteuid().is_root() {
        // In a container root may lack the right; the fence is the proof.
        return Check::ok(SECTION, "user", "root: each run gets host ids of its own where it may");
    }
    Check::ok(SECTION, "user", "an ordinary one: all runs have this user's id")
}

/// Engines leave a mark. What they take away shows in the other lines.
fn container() -> Option<Check> {
    let marks = ["/.dockerenv", "/run/.containerenv"];
    let mark = marks.into_iter().find(|mark| Path::new(mark).exists())?;
    let detail = format!("`{mark}` says so: its engine decides what is possible here");
    Some(Check::ok(SECTION, "container", detail))
}

fn control_groups(in_container: bool) -> Check {
    const NAME: &str = "control groups";
    // Engines show them read-only to everybody.
    let fix = match in_container {
        true => "do without: `native.allow_missing = [\"cgroup\"]` (docs/containers.md)",
        false => "start as root, or in a service with `Delegate=yes`",
    };
    let found = match ampoule_jail::control_groups() {
        Ok(found) => found,
        Err(error) => return Check::warning(SECTION, NAME, error.to_string(), fix),
    };
    let names = |writable: bool| {
        let groups = found.groups.iter().filter(|group| group.is_writable == writable);
        groups.flat_map(|group| group.controllers.clone()).collect::<Vec<_>>().join(", ")
    };
    let (ours, others) = (names(true), names(false));
    let version = found.version;
    let has = |wanted: &str| ours.split(", ").any(|name| name == wanted);
    if has("memory") && has("pids") {
        return Check::ok(SECTION, NAME, format!("version {version}: {ours}"));
    }
    let user = rustix::process::geteuid().as_raw();
    if version == 2 && Path::new(&format!("/run/user/{user}/bus")).exists() {
        let detail = "version 2: systemd can give a scope (the meters below say whether it does)";
        return Check::ok(SECTION, NAME, detail);
    }
    let detail = match (version, others.as_str()) {
        (0, _) => "none with memory and pids is mounted here".to_owned(),
        (_, "") => format!("version {version} has only {ours}"),
        (_, others) => format!("version {version}: {others} not ours to write"),
    };
    Check::warning(SECTION, NAME, detail, fix)
}

fn swap(table: &str) -> Check {
    match table.lines().skip(1).count() {
        0 => Check::ok(SECTION, "swap", "none"),
        _ => Check::warning(
            SECTION,
            "swap",
            "on: what programs hold in memory may reach a disk",
            "`swapoff -a`, or encrypted swap",
        ),
    }
}

/// Whether packages can be installed and found.
pub(super) fn data_directory(path: &Path) -> Check {
    const NAME: &str = "data directory";
    let shown = path.display();
    // What is not there yet is made by its first use, in what is there.
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        let detail = format!("`{}` is no directory", there.display());
        return Check::failed(SECTION, NAME, detail, "set AMPOULE_DATA_DIR to one");
    }
    let writable = rustix::fs::access(there, rustix::fs::Access::WRITE_OK);
    if writable.is_err() {
        let detail = format!("`{shown}` is not ours to write");
        return Check::warning(SECTION, NAME, detail, "set AMPOULE_DATA_DIR to one that is");
    }
    if there != path {
        let detail = format!("`{shown}` is not there yet");
        return Check::warning(SECTION, NAME, detail, "`ampoule runtimes install` makes it");
    }
    match rustix::fs::statvfs(path) {
        Ok(space) if space.f_bavail * space.f_frsize < LITTLE => {
            let left = (space.f_bavail * space.f_frsize) >> 20;
            let detail = format!("`{shown}` has {left} MiB left");
            Check::warning(SECTION, NAME, detail, "free some, or set AMPOULE_DATA_DIR to another")
        }
        Ok(_) => Check::ok(SECTION, NAME, format!("`{shown}`")),
        Err(error) => Check::warning(SECTION, NAME, format!("`{shown}`: {error}"), "look at it"),
    }
}

/// Whether a service could listen, or does.
pub(super) fn address(listen: &str) -> Check {
    const NAME: &str = "address";
    match TcpListener::bind(listen) {
        Ok(_) => Check::ok(SECTION, NAME, format!("`{listen}` is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match ask(listen) {
            Ok(answer) if answer.contains(r#"{"status":"ok"}"#) => {
                Check::ok(SECTION, NAME, format!("a service answers on `{listen}`"))
            }
            _ => Check::failed(
                SECTION,
                NAME,
                format!("`{listen}` is taken by something else"),
                "`--listen` or AMPOULE_LISTEN name another",
            ),
        },
        Err(error) => Check::failed(
            SECTION,
            NAME,
            format!("`{listen}`: {error}"),
            "`--listen` or AMPOULE_LISTEN name another",
        ),
    }
}

/// Asks whoever listens whether it lives, as ours do.
fn ask(listen: &str) -> io::Result<String> {
    let address = listen.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: doctor\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    // Enough for what ours say; whoever says more is another.
    stream.take(4096).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::commands::doctor::report::Status;

    #[test]
    fn swap_is_a_warning() {
        assert_eq!(swap("Filename Type Size\n").status, Status::Ok);
        assert_eq!(swap("Filename Type Size\n/dev/x partition 1\n").status, Status::Warning);
    }

    #[test]
    fn an_address_is_free_ours_or_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().to_string();
        let answering = thread::spawn(move || {
            for body in [r#"{"status":"ok"}"#, "<html>"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    asked.extend(byte);
                }
                write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}").unwrap();
            }
        });
        assert_eq!(address(&taken).status, Status::Ok);
        assert_eq!(address(&taken).status, Status::Failed);
        answering.join().unwrap();
        assert_eq!(address(&taken).detail, format!("`{taken}` is free"));
        assert_eq!(address("nowhere").status, Status::Failed);
    }
}
