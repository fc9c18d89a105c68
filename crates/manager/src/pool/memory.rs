//! Whether the machine has memory for sandboxes that wait.

use std::{fs, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What was found when it was last looked at.
#[derive(Debug)]
pub(super) struct Memory {
    /// So many bytes have to be available.
    least: u64,
    looked: Option<Instant>,
    is_short: bool,
}

impl Memory {
    pub(super) fn new(least: u64) -> Self {
        Self { least, looked: None, is_short: false }
    }

    /// Whether less is available. Where nobody says how much is, there is enough.
    pub(super) fn is_short(&mut self, now: Instant) -> bool {
        if self.looked.is_none_or(|at| at + LOOK <= now) {
            self.looked = Some(now);
            let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
            let found = available(&text);
            let is_short = found.is_some_and(|found| found < self.least);
            if is_short && !self.is_short {
                warn!(available = found, "memory is short: no sandbox is made ready ahead");
            } else if self.is_short && !is_short {
                info!(available = found, "sandboxes are made ready ahead again");
            }
            self.is_short = is_short;
        }
        self.is_short
    }
}

/// The available memory, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let text = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(text.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_read() {
        let text = "MemTotal:       100 kB\nMemFree:          1 kB\nMemAvailable:    42 kB\n";
        assert_eq!(available(text), Some(42 * 1024));
        assert_eq!(available("MemTotal:       100 kB\n"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_at_now_and_then() {
        let now = Instant::now();
        assert!(!Memory::new(0).is_short(now));
        let mut memory = Memory::new(u64::MAX);
        assert!(memory.is_short(now));
        memory.least = 0;
        assert!(memory.is_short(now + LOOK / 2));
        assert!(!memory.is_short(now + LOOK));
    }
}
