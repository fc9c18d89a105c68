//! The keeper's side: starts helpers, hears when they are ready, ends them.
//!
//! ```text
//!            Connect              ready byte                pipe closes
//!   (none) ----------> Starting ------------> Up ----+----------------------> killed --> (none)
//!                          |                          |                          ^
//!                          |  pipe closes             | ends by itself           |
//!                          +--------------------------+--------------------------+
//! ```
//!
//! Only the keeper moves a helper. Whatever becomes of it, the launcher hears `Gone` once, after it
//! is reaped.

use std::{
    os::fd::{AsFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Signal, WaitId, WaitIdOptions, getpid, pidfd_send_signal, waitid},
};

use super::{
    line::{Answer, Connect, LINE_LEN},
    range::{Opening, Plan, own_addresses},
    start, tool,
};
use crate::{
    config::NetworkSetup,
    error::{Jail, JailError, Step},
    sys, wire,
};

/// Every helper of a keeper, and the line to the launcher that asks for them.
#[derive(Debug)]
pub(crate) struct Helpers {
    /// The program; or why there is none.
    program: Result<PathBuf, String>,
    allow: Vec<Opening>,
    two_ids: bool,
    line: Option<OwnedFd>,
    running: Vec<Helper>,
}

/// One helper: alive while it is here.
#[derive(Debug)]
struct Helper {
    token: u64,
    pidfd: OwnedFd,
    /// Until it has said that it is ready.
    ready: Option<OwnedFd>,
    /// The launcher's other end closes when the run is over.
    held: OwnedFd,
    /// What it says on standard error.
    said: OwnedFd,
    up: bool,
    dismissed: bool,
}

impl Helpers {
    /// Looks whether helpers can be started here; `two_ids` if a cell has ids of its own.
    pub(crate) fn find(setup: &NetworkSetup, two_ids: bool) -> Self {
        Self {
            two_ids,
            program: tool::find(setup.helper.as_deref()),
            allow: setup.allow.clone(),
            line: None,
            running: Vec::new(),
        }
    }

    /// In a mount namespace of our own in which we may make nodes: has every helper find a tun device that it may
    /// open.
    pub(crate) fn show_tun(&mut self) {
        if self.program.is_ok()
            && let Err(error) = tool::show_tun()
        {
            let hint = "hint: `modprobe tun`; for a container `--device /dev/net/tun`";
            self.program = Err(format!("{error}; {hint}"));
        }
    }

    /// Why no helper can be started.
    pub(crate) fn hurdle(&self) -> Option<String> {
        self.program.as_ref().err().cloned()
    }

    /// Listens to another launcher. Nothing of the last one runs any more.
    pub(crate) fn listen(&mut self, line: OwnedFd) {
        self.line = Some(line);
    }

    /// What to wait on.
    pub(crate) fn polled(&self) -> impl Iterator<Item = PollFd<'_>> {
        let helpers = self.running.iter().flat_map(|helper| {
            let held = (!helper.dismissed).then_some(&helper.held);
            [Some(&helper.pidfd), helper.ready.as_ref(), held]
        });
        let line = self.line.as_ref();
        helpers.flatten().chain(line).map(|descriptor| PollFd::new(descriptor, PollFlags::IN))
    }

    /// Does what is to be done, without waiting.
    pub(crate) fn attend(&mut self) {
        while let Some(outcome) = self.next_request() {
            match outcome {
                Ok(helper) => self.running.push(helper),
                Err((token, error)) => {
                    self.answer(&Answer::Gone { token, text: error.to_string() })
                }
            }
        }
        let mut answers = Vec::new();
        self.running.retain_mut(|helper| {
            let answer = helper.look();
            let gone = matches!(answer, Some(Answer::Gone { .. }));
            answers.extend(answer);
            !gone
        });
        for answer in &answers {
            self.answer(answer);
        }
    }

    /// Ends every helper and waits for their ends.
    pub(crate) fn end_all(&mut self) {
        self.line = None;
        for helper in &mut self.running {
            helper.dismiss();
        }
        for helper in self.running.drain(..) {
            let _ = waitid(WaitId::PidFd(helper.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }

    fn answer(&self, answer: &Answer) {
        if let Some(line) = &self.line {
            // A launcher that is gone is seen by its pidfd.
            let _ = wire::send(line.as_fd(), &answer.encode(), &[]);
        }
    }

    /// Starts what the launcher asks for next.
    fn next_request(&mut self) -> Option<Result<Helper, (u64, JailError)>> {
        let mut buffer = [0; LINE_LEN];
        let (length, descriptors) = match wire::receive_now(self.line.as_ref()?, &mut buffer) {
            Ok(Some(received)) => received,
            Err(Errno::AGAIN) => return None,
            // The launcher is gone; its pidfd says so too, and without end.
            Ok(None) | Err(_) => {
                self.line = None;
                return None;
            }
        };
        let Connect { token } = Connect::decode(&buffer[..length])?;
        let malformed = || JailError::new("read a request", std::io::ErrorKind::InvalidData);
        let started = <[OwnedFd; 3]>::try_from(descriptors)
            .map_err(|_| malformed())
            .and_then(|descriptors| self.start(token, descriptors));
        Some(started.map_err(|error| (token, error)))
    }

    fn start(&self, token: u64, descriptors: [OwnedFd; 3]) -> Jail<Helper> {
        let [network_namespace, user_namespace, held] = descriptors;
        let program = self
            .program
            .as_ref()
            .map_err(|why| JailError::new(why.clone(), std::io::ErrorKind::NotFound))?;
        // The host's addresses of this moment.
        let plan = Plan::new(&self.allow, own_addresses()?);
        let (ready, ready_in) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
        // What nobody reads must not hold the helper up.
        let (said, said_in) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).step("make a pipe")?;
        let recipe = start::Recipe {
            program,
            keeper: Some(getpid()),
            network_namespace: network_namespace.as_fd(),
            user_namespace: user_namespace.as_fd(),
            plan: &plan,
            ready: ready_in.as_fd(),
            said: said_in.as_fd(),
            two_ids: self.two_ids,
        };
        // SAFETY: the keeper never starts a thread.
        let child = unsafe { sys::clone3(0, None) }?;
        let Some(child) = child else { start::run(&recipe) };
        // SAFETY: clone3 has just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(child.pidfd) };
        Ok(Helper { token, pidfd, ready: Some(ready), held, said, up: false, dismissed: false })
    }
}

impl Helper {
    /// What has become of it since the last look.
    fn look(&mut self) -> Option<Answer> {
        if !self.dismissed && closed(&self.held) {
            self.dismiss();
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if !matches!(waitid(WaitId::PidFd(self.pidfd.as_fd()), options), Ok(None)) {
            let text = if self.dismissed { String::new() } else { self.last_words() };
            return Some(Answer::Gone { token: self.token, text });
        }
        let ready = self.ready.take_if(|ready| readable(ready))?;
        // Without the byte it is about to end, and says why.
        self.up = matches!(rustix::io::read(&ready, &mut [0; 1]), Ok(1));
        self.up.then_some(Answer::Up { token: self.token })
    }

    fn dismiss(&mut self) {
        self.dismissed = true;
        // Gone already is as good.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// The last line of what it said.
    fn last_words(&self) -> String {
        let mut buffer = [0; 4096];
        let length = rustix::io::read(&self.said, &mut buffer).unwrap_or(0);
        let said = String::from_utf8_lossy(&buffer[..length]);
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        match (last, self.up) {
            (Some(last), false) => format!("the network helper did not start: {last}"),
            _ => "the network helper ended".to_owned(),
        }
    }
}

fn poll_now(descriptor: &OwnedFd) -> PollFlags {
    let mut polled = [PollFd::new(descriptor, PollFlags::IN)];
    match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => polled[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

fn readable(descriptor: &OwnedFd) -> bool {
    poll_now(descriptor).intersects(PollFlags::IN | PollFlags::HUP)
}

fn closed(descriptor: &OwnedFd) -> bool {
    poll_now(descriptor).contains(PollFlags::HUP)
}
