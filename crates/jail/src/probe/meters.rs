//! Probes that use more than they may. Each is bounded by itself too, so that a machine without
//! meters survives it.

use std::{
    hint::black_box,
    io,
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use ampoule_core::Crossing;
use serde::{Deserialize, Serialize};

use super::{ARGUMENT, EXECUTABLE, OUTSIDE};

/// How long a probe keeps what it has taken, for a watch that looks now and then.
const HOLD: Duration = Duration::from_millis(100);
/// What lies outside of a probe's child, which asks for nothing.
pub(super) const ASLEEP: &str = "asleep";
/// How long the processor is kept busy at most.
const LONGEST: Duration = Duration::from_secs(5);

/// What to use more of than a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeterProbe {
    /// Memory, up to this many bytes.
    Memory(u64),
    /// Processes, up to this many.
    Processes(u32),
    /// Processor and time.
    Time,
}

/// Uses it. Returning at all means that nothing stopped it.
pub(super) fn try_to_exceed(meter: &MeterProbe) -> io::Result<Crossing> {
    let how = match *meter {
        MeterProbe::Memory(bytes) => {
            const CHUNK: usize = 1 << 20;
            let mut taken = Vec::new();
            while ((taken.len() * CHUNK) as u64) < bytes {
                // Every page written to, or the kernel gives none.
                taken.push(black_box(vec![1_u8; CHUNK]));
            }
            sleep(HOLD);
            format!("it used {} MiB of memory", taken.len())
        }
        MeterProbe::Processes(most) => {
            let children = (0..most).map(|_| start_child()).collect::<io::Result<Vec<_>>>();
            sleep(HOLD);
            // Refused: a program that could not start what it needs has failed.
            format!("it started {} processes", children?.len())
        }
        MeterProbe::Time => {
            let start = Instant::now();
            while start.elapsed() < LONGEST {
                black_box(());
            }
            format!("it ran for {} s", LONGEST.as_secs())
        }
    };
    Ok(Crossing::Crossed { how })
}

/// A process that is there and does nothing.
fn start_child() -> io::Result<Child> {
    Command::new(EXECUTABLE).arg(ARGUMENT).env(OUTSIDE, ASLEEP).spawn()
}

/// The life of such a process.
pub(super) fn sleep_long() {
    sleep(LONGEST);
}
