//! Asks a program of this host a question: how long it may take and how much it may say is bounded.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{ioctl_fionbio, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How long a program may take. A slow machine with cold caches needs a second or two.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that is kept of each of its two streams.
const MOST: usize = 64 << 10;

/// The same of a program that makes one text of another.
const MOST_MADE: usize = 4 << 20;

/// Runs a program to its end and gives what it said.
///
/// It has a process group of its own, which is killed whole in any case: nothing that it started
/// stays. Only if this process is itself killed meanwhile, nobody is there to do that.
pub(super) fn ask(command: &mut Command) -> io::Result<Output> {
    ask_within(command.stdin(Stdio::null()), PATIENCE, MOST)
}

/// The same for a program that reads `input`.
pub(super) fn have_made(command: &mut Command, input: &[u8]) -> io::Result<Output> {
    let mut file = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    file.write_all(input)?;
    file.rewind()?;
    ask_within(command.stdin(file), PATIENCE, MOST_MADE)
}

fn ask_within(command: &mut Command, patience: Duration, most: usize) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let heard = listen(&mut child, patience, most);
    // Nobody has waited for it yet, so its number, and so its group's, is still its own.
    let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
    // It may have gone to another group.
    let _ = child.kill();
    let status = child.wait()?;
    let (stdout, stderr) = heard?;
    Ok(Output { status, stdout, stderr })
}

/// Hears a program until it ends. What it started may still hold the pipes then: that is not awaited.
fn listen(child: &mut Child, patience: Duration, most: usize) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut stdout = Stream::new(child.stdout.take().map(OwnedFd::from), most)?;
    let mut stderr = Stream::new(child.stderr.take().map(OwnedFd::from), most)?;
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("it did not end within {} s", patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let open = [&stdout, &stderr].into_iter().filter_map(|stream| stream.pipe.as_ref());
        let all = std::iter::once(end.as_fd()).chain(open.map(File::as_fd));
        let mut watched: Vec<PollFd<'_>> =
            all.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)).collect();
        retry_on_intr(|| poll(&mut watched, Some(&left)))?;
        // Looked at before the pipes are read, so that its last words are.
        let has_ended = watched.first().is_some_and(|end| !end.revents().is_empty());
        stdout.read()?;
        stderr.read()?;
        if has_ended {
            return Ok((stdout.said, stderr.said));
        }
    }
}

/// One of a program's streams, until its end.
struct Stream {
    pipe: Option<File>,
    said: Vec<u8>,
    most: usize,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>, most: usize) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe: pipe.map(File::from), said: Vec::new(), most })
    }

    /// Reads what is there now.
    fn read(&mut self) -> io::Result<()> {
        let mut block = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut block) {
                Ok(0) => self.pipe = None,
                Ok(length) if self.said.len() + length > self.most => {
                    let text = format!("it says more than {} KiB", self.most >> 10);
                    return Err(io::Error::other(text));
                }
                Ok(length) => self.said.extend_from_slice(&block[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Asks a shell, with a directory to write to, and says how long it took.
    fn ask_shell(script: &str, directory: &Path) -> (io::Result<Output>, Duration) {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(directory);
        let began = Instant::now();
        let answer = ask_within(command.stdin(Stdio::null()), Duration::from_secs(2), MOST);
        (answer, began.elapsed())
    }

    /// Whether the processes whose numbers are in a file have ended. Who adopts an orphan may take
    /// its time to wait for it.
    fn all_have_ended(file: &Path) -> bool {
        let numbers = fs::read_to_string(file).unwrap();
        assert!(!numbers.trim().is_empty());
        let lives = |number: &str| {
            let status = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            status.rsplit(')').next().is_some_and(|rest| {
                let state = rest.trim_start();
                !state.is_empty() && !state.starts_with(['Z', 'X'])
            })
        };
        (0..100).any(|_| {
            let ended = !numbers.split_whitespace().any(lives);
            if !ended {
                std::thread::sleep(Duration::from_millis(20));
            }
            ended
        })
    }

    #[test]
    fn what_a_program_says_is_heard_with_how_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        let (answer, _) = ask_shell("echo out; echo err >&2; exit 3", directory.path());
        let answer = answer.unwrap();
        assert_eq!(answer.status.code(), Some(3));
        assert_eq!(
            (answer.stdout.as_slice(), answer.stderr.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
        let silent = ask_shell("exec >&- 2>&-; sleep 0.2", directory.path()).0.unwrap();
        assert!(silent.status.success() && silent.stdout.is_empty());
        let most = ask_shell("head -c 65536 /dev/zero", directory.path()).0.unwrap();
        assert_eq!(most.stdout.len(), MOST);
    }

    #[test]
    fn a_program_makes_one_text_of_another() {
        let input = "a".repeat(300_000);
        let made = have_made(Command::new("tr").args(["a", "b"]), input.as_bytes()).unwrap();
        assert_eq!(made.stdout, "b".repeat(300_000).as_bytes());
    }

    #[test]
    fn a_program_that_never_ends_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let script = "sleep 600 & echo $$ $! > numbers; wait";
        let (answer, took) = ask_shell(script, directory.path());
        assert_eq!(answer.unwrap_err().to_string(), "it did not end within 2 s");
        assert!((2..8).contains(&took.as_secs()), "{took:?}");
        assert!(all_have_ended(&directory.path().join("numbers")));
    }

    #[test]
    fn a_program_that_floods_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        for stream in ["", " >&2"] {
            let script = format!("sleep 600 & echo $$ $! > numbers; yes{stream}");
            let (answer, took) = ask_shell(&script, directory.path());
            assert_eq!(answer.unwrap_err().to_string(), "it says more than 64 KiB");
            assert!(took.as_secs() < 2, "{took:?}");
            assert!(all_have_ended(&directory.path().join("numbers")));
        }
    }

    #[test]
    fn what_a_program_leaves_behind_is_killed_and_not_awaited() {
        let directory = tempfile::tempdir().unwrap();
        let script = "sleep 600 & echo $! > numbers; echo 1.2.3";
        let (answer, took) = ask_shell(script, directory.path());
        assert_eq!(answer.unwrap().stdout, b"1.2.3\n");
        assert!(took.as_secs() < 2, "{took:?}");
        assert!(all_have_ended(&directory.path().join("numbers")));
    }
}
