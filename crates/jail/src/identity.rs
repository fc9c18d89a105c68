//! Who owns what is left: a process is named by its pid and its start time, so that a pid that was
//! used again is not taken for the one that is gone.

use std::{fs, io};

/// Names this process: `<pid>-<start time>`.
pub(crate) fn of_self() -> io::Result<String> {
    let pid = std::process::id();
    start_time(pid)
        .map(|start| format!("{pid}-{start}"))
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Whether the process with this name lives.
pub(crate) fn is_alive(name: &str) -> bool {
    let parsed = name
        .split_once('-')
        .and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse::<u64>().ok()?)));
    parsed.is_some_and(|(pid, start)| start_time(pid) == Some(start))
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
        assert!(!is_alive(&format!("{name}0")));
        assert!(!is_alive("1-x"));
    }
}
