//! Who owns what is left: a process is named by its pid, its start time, so that a pid that was used
//! again is not taken for the one that is gone, and the pid namespace that the pid is of.

use std::{fs, io, os::unix::fs::MetadataExt as _};

/// Names this process: `<pid>-<start time>-<pid namespace>`.
pub(crate) fn of_self() -> io::Result<String> {
    let pid = std::process::id();
    let start = start_time(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(format!("{pid}-{start}-{}", pid_namespace()?))
}

/// Whether the process with this name lives. Nobody here can tell of another pid namespace (a
/// container's, say), and then it counts as alive.
pub(crate) fn is_alive(name: &str) -> bool {
    let parsed = (|| {
        let mut parts = name.splitn(3, '-');
        let pid: u32 = parts.next()?.parse().ok()?;
        let start: u64 = parts.next()?.parse().ok()?;
        let namespace: u64 = parts.next()?.parse().ok()?;
        Some((pid, start, namespace))
    })();
    parsed.is_some_and(|(pid, start, namespace)| {
        pid_namespace().is_ok_and(|own| own != namespace) || start_time(pid) == Some(start)
    })
}

fn pid_namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// Field 22 of `/proc/<pid>/stat`; the second field may hold anything, so count from its end.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    // A zombie owns nothing any more.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_live_and_strangers_do_not() {
        let name = of_self().unwrap();
        assert!(is_alive(&name));
        let (own, namespace) = name.rsplit_once('-').unwrap();
        assert!(!is_alive(&format!("{own}0-{namespace}")));
        assert!(!is_alive("1-x"));
    }

    #[test]
    fn nobody_is_called_dead_who_lives_in_another_namespace() {
        assert!(is_alive("1-1-1"));
    }
}
