//! Probes: our own code inside of a real sandbox, trying to get out.
//!
//! ```text
//! launcher   lures.rs   holds what a probe tries to get at: a listener, a host name, namespaces
//!  └ cell, worker       built and confined as for any program; the command is this executable
//!     └ probe           speaks as a runner does: ready byte, one request, one result
//! ```
//!
//! A probe is language-independent, so that a machine without any interpreter can be judged. Which
//! fence it tries comes in the request's arguments. No request of a caller reaches it: its template
//! has no language. Each fence has one function in [`fences`] that tries to cross *that* fence: with
//! the fence left out and every other in place it gets through.

mod fences;
mod meters;

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
};

use ampoule_core::{Crossing, Layer};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Jail, JailError, Step},
    sys,
};

pub use meters::MeterProbe;

/// The hidden argument that makes a process a probe.
pub const ARGUMENT: &str = "__probe";
/// Where this executable is shown in a sandbox for probes.
pub const EXECUTABLE: &str = "/opt/ampoule/probe";
/// The variable in which the launcher says what is outside of a cell. Without it there is no
/// sandbox around a probe, and it tries nothing.
pub(crate) const OUTSIDE: &str = "AMPOULE_OUTSIDE";
/// The byte that says that a runner waits for its request, and where it and the result go.
const READY: u8 = 1;
const RESULT_FD: i32 = 3;

/// What a probe is asked to do: the arguments of its one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// Tries to cross a fence.
    Fence {
        /// Which.
        layer: Layer,
        /// A port of the host's loopback on which somebody listens.
        port: Option<u16>,
        /// Paths that the host has, and that a sandbox must not show.
        paths: Vec<String>,
    },
    /// Tries to use more than a limit allows.
    Meter(MeterProbe),
}

/// What lies outside of a cell, by the launcher's word.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outside {
    /// The inode numbers of the launcher's namespaces, by their names under `/proc/self/ns`.
    pub(crate) namespaces: BTreeMap<String, u64>,
    /// The port of the launcher's loopback on which it listens.
    pub(crate) port: u16,
    /// The launcher's host name.
    pub(crate) host_name: String,
    /// The file system and the inode of the host's `/dev/null`.
    pub(crate) null: Option<(u64, u64)>,
}

/// The request frame, as far as it matters here.
#[derive(Deserialize)]
struct Request {
    nonce: String,
    arguments: Asked,
}

/// The result frame.
#[derive(Serialize)]
struct Answer {
    nonce: String,
    value: Crossing,
}

/// The fences that have a probe.
pub fn fences() -> impl Iterator<Item = Layer> {
    fences::FENCES.iter().map(|(layer, _)| *layer)
}

/// Does what one request asks and answers it.
pub(crate) fn run() -> Jail<()> {
    let alone = || JailError::new("find the sandbox around a probe", io::ErrorKind::NotFound);
    let outside = std::env::var(OUTSIDE).map_err(|_| alone())?;
    if outside == meters::ASLEEP {
        meters::sleep_long();
        return Ok(());
    }
    let outside: Outside =
        serde_json::from_str(&outside).map_err(io::Error::from).step("read what is outside")?;
    sys::write(RESULT_FD, &[READY])?;
    let Request { nonce, arguments } = read_request().step("read the request")?;
    let value = match arguments {
        Asked::Fence { layer, port, paths } => {
            fences::try_to_cross(layer, &fences::Place { outside, port, paths })
        }
        Asked::Meter(meter) => meters::try_to_exceed(&meter).step("exceed a limit")?,
    };
    let answer = serde_json::to_vec(&Answer { nonce, value })
        .map_err(io::Error::from)
        .step("lay the answer out")?;
    let length = u32::try_from(answer.len()).unwrap_or(u32::MAX);
    sys::write(RESULT_FD, &[length.to_le_bytes().as_slice(), &answer].concat())?;
    Ok(())
}

fn read_request() -> io::Result<Request> {
    let mut input = io::stdin().lock();
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let mut frame = Vec::new();
    input.take(u32::from_le_bytes(length).into()).read_to_end(&mut frame)?;
    Ok(serde_json::from_slice(&frame)?)
}
