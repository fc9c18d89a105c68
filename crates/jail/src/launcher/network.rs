//! The launcher's side of the way out: it asks the keeper for a helper when a cell is ready, starts
//! the worker when the helper is, and ends a run whose helper has ended.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::symlink,
    },
    path::Path,
};

use ampoule_core::StopReason;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{
    Launcher,
    slot::{Slot, State},
};
use crate::{
    error::{Jail, Step},
    network::{
        RESOLVER,
        line::{Answer, Connect, LINE_LEN},
    },
    wire,
};

/// What a root has more of with a way out, in the launcher's own root.
const LAYER: &str = "/o";
/// The host's certificate authorities: links into `/usr/share`, and one file of them all.
const CERTIFICATES: &str = "/etc/ssl/certs";

/// The way out of one slot, from the cell's birth to the end of its helper.
#[derive(Debug)]
pub(super) struct Helper {
    token: u64,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// The cell is being built. Its network and user namespace.
    Waiting([OwnedFd; 2]),
    /// The keeper has been asked. When this end of a pipe closes, it ends the helper.
    Asked { _held: OwnedFd },
    /// The helper is being ended.
    Dismissed,
}

impl Helper {
    /// The way out of the cell that has just been cloned as `pid`.
    pub(super) fn of_cell(token: u64, pid: u32) -> Jail<Self> {
        let open = |kind: &str| {
            File::open(format!("/proc/{pid}/ns/{kind}"))
                .map(OwnedFd::from)
                .step("open a namespace of a cell")
        };
        Ok(Self { token, phase: Phase::Waiting([open("net")?, open("user")?]) })
    }

    /// Has it end; what is left to wait for.
    pub(super) fn dismiss(self) -> Option<Self> {
        match self.phase {
            Phase::Waiting(_) => None,
            Phase::Asked { .. } | Phase::Dismissed => {
                Some(Self { phase: Phase::Dismissed, ..self })
            }
        }
    }
}

impl Launcher {
    /// Has a finished cell connected, if it may have a way out; else goes on with the worker.
    pub(super) fn connect(&mut self, index: usize) -> Jail<()> {
        let Some(slot) = self.slots[index].as_mut() else { return Ok(()) };
        let Some(Helper { token, phase: Phase::Waiting(namespaces) }) = &slot.helper else {
            return self.man(index);
        };
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).step("make a pipe")?;
        let [network, user] = namespaces;
        let request = Connect { token: *token }.encode();
        let descriptors = [network.as_fd(), user.as_fd(), theirs.as_fd()];
        wire::send(self.line.as_fd(), &request, &descriptors).step("ask for a network helper")?;
        slot.helper = Some(Helper { token: *token, phase: Phase::Asked { _held: ours } });
        slot.state = State::Connecting;
        Ok(())
    }

    /// The keeper has answered.
    pub(super) fn hear_keeper(&mut self) {
        let mut buffer = [0; LINE_LEN];
        // A keeper that is gone takes us along.
        while let Ok(Some((length, _))) = wire::receive_now(&self.line, &mut buffer) {
            match Answer::decode(&buffer[..length]) {
                Some(Answer::Up { token }) => self.hear_helper_up(token),
                Some(Answer::Gone { token, text }) => self.hear_helper_gone(token, &text),
                None => {}
            }
        }
    }

    fn hear_helper_up(&mut self, token: u64) {
        let Some((index, slot)) = self.slot_of_helper(token) else { return };
        if slot.state == State::Connecting
            && let Err(error) = self.start_worker(index)
        {
            self.fail(index, &error.to_string());
        }
    }

    fn hear_helper_gone(&mut self, token: u64, text: &str) {
        let Some((index, slot)) = self.slot_of_helper(token) else { return };
        slot.helper = None;
        match slot.state {
            State::Prepared | State::Leased => self.stop(index, StopReason::NetworkHelper),
            _ if slot.is_unfinished() => self.fail(index, text),
            // It was the last that was waited for.
            _ => self.hear_end(index),
        }
    }

    fn slot_of_helper(&mut self, token: u64) -> Option<(usize, &mut Slot)> {
        self.slots.iter_mut().enumerate().find_map(|(index, slot)| {
            let slot = slot.as_mut()?;
            (slot.helper.as_ref()?.token == token).then_some((index, slot))
        })
    }
}

/// Lays out, while the host is still in sight, what every root with a way out has more of: where
/// names are looked up, and whose certificates hold.
pub(super) fn write_layer(base: &Path) -> Jail<()> {
    let layer = base.join(&LAYER[1..]);
    let certificates = layer.join(&CERTIFICATES[1..]);
    fs::create_dir_all(&certificates).step("make a directory of the launcher's root")?;
    let resolver = format!("nameserver {RESOLVER}\n");
    fs::write(layer.join("etc/resolv.conf"), resolver).step("write /etc/resolv.conf")?;
    for entry in fs::read_dir(CERTIFICATES).into_iter().flatten().flatten() {
        let (source, copy) = (entry.path(), certificates.join(entry.file_name()));
        if let Ok(target) = fs::read_link(&source) {
            symlink(target, copy).step("copy a link to a certificate")?;
        } else if let Ok(content) = fs::read(&source) {
            fs::write(copy, content).step("copy a certificate")?;
        }
    }
    Ok(())
}

/// The options of a root's overlay, with that layer on top.
pub(super) fn with_layer(options: &str) -> String {
    options.replacen("lowerdir=", &format!("lowerdir={LAYER}:"), 1)
}
