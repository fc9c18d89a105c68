//! The host as an oracle: what is true is read from the kernel's tables, and nobody of ours is asked.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::Failure;

/// How long the host has to come to what is expected.
const PATIENCE: Duration = Duration::from_secs(20);

/// A word that no other process on this machine has in its arguments, and that is no part of another
/// such word.
pub fn unique_word() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("survivor-{}-{}-end", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The arguments of every process on the host that has `word` among them.
pub fn processes_with(word: &str) -> Vec<String> {
    processes()
        .filter_map(|process| fs::read(process.join("cmdline")).ok())
        .map(|arguments| String::from_utf8_lossy(&arguments).replace('\0', " "))
        .filter(|arguments| arguments.contains(word))
        .collect()
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let is_pid =
        |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(move |entry| is_pid(&entry.file_name()))
        .map(|entry| entry.path())
}

/// The children of a process.
pub fn children_of(pid: u32) -> Vec<u32> {
    // Each thread has its own.
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Whether a process has ended. A zombie has: it waits for its parent only.
pub fn is_gone(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z"))
}

/// Waits until the host agrees; gives up loudly.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(Failure::from(format!("gave up waiting: {what}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
