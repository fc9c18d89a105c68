//! Strangers: workers of whom nobody was told, because their zygote died between the fork and its
//! word. They are children of ours as all others.

use std::fs;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid},
};

use super::{Launcher, assembly::proc_pid, slot::Slot};

/// How long a killed process is waited for.
const LAST_MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

impl Launcher {
    /// Ends and reaps workers whose zygote died before it could tell of them: their cells are about
    /// to have other workers.
    pub(super) fn end_strangers(&self) {
        let slots = || self.slots.iter().flatten();
        let known: Vec<u32> = slots()
            .flat_map(|slot: &Slot| [&slot.cell, &slot.worker])
            .flatten()
            .chain(self.nests.processes())
            .filter_map(|process| proc_pid(&process.pidfd).ok())
            .collect();
        // Ours is the janitor's; and of what another zygote is forking we shall be told.
        let spared: Vec<u64> = slots()
            .filter(|slot| slot.forking.is_some())
            .filter_map(|slot| pid_namespace_of(slot.pid?))
            .chain(pid_namespace_of(std::process::id()))
            .collect();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            if known.contains(&pid) || !is_child(pid) {
                continue;
            }
            let Some(child) = Pid::from_raw(pid.cast_signed()) else { continue };
            // A child that nobody has reaped keeps its number.
            if pid_namespace_of(pid).is_some_and(|its| !spared.contains(&its))
                && let Ok(pidfd) = pidfd_open(child, PidfdFlags::empty())
            {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&LAST_MOMENT));
            }
            let _ = waitpid(Some(child), WaitOptions::NOHANG);
        }
    }
}

/// Whether a process is a child of ours.
fn is_child(pid: u32) -> bool {
    // "pid (name) state parent": the name may hold anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.split(' ').nth(2) == Some("1"))
}

/// Which pid namespace a process is in.
fn pid_namespace_of(pid: u32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(format!("/proc/{pid}/ns/pid")).ok().map(|namespace| namespace.ino())
}
