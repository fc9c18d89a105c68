//! Who owns what is left: a process is named by its pid, its start time, so that a pid that was used
//! again is not taken for the one that is gone, and the pid namespace that the pid is of.

use std::{fs, io, os::unix::fs::MetadataExt as _};

/// Names this process: `<pid>-<start time>-<pid namespace>`.
pub(crate) fn of_self() -> io::Result<String> {
    let pid = std::process::id();
    let start = start_time(pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(format!("{pid}-{start}-{}", pid_namespace()?))
}

/// Whether the process with this name has ended. A name of another form is nobody's whom we know,
/// and of another pid namespace (a container's, say) nobody here can tell.
pub(crate) fn has_ended(name: &str) -> bool {
    let mut parts = name.splitn(3, '-').map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(start)), Some(Ok(namespace))) =
        (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let is_here = pid_namespace().is_ok_and(|own| own == namespace);
    is_here && u32::try_from(pid).is_ok_and(|pid| start_time(pid) != Some(start))
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
        assert!(!has_ended(&name));
        let (own, namespace) = name.rsplit_once('-').unwrap();
        assert!(has_ended(&format!("{own}0-{namespace}")));
    }

    #[test]
    fn nobody_is_called_dead_who_cannot_be_seen() {
        assert!(!has_ended("1-1-1"));
        assert!(!has_ended("1-x"));
        assert!(!has_ended(&format!("{}.scope", of_self().unwrap())));
    }
}
