//! Standard output and error: read to the end, kept to the limit.

use std::sync::atomic::{AtomicU64, Ordering};

use ampoule_core::Utf8Decoder;

/// How much of both streams together may still be kept.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicU64,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: AtomicU64::new(bytes) }
    }

    /// Takes up to `wanted` bytes; gives what was left of it.
    fn take(&self, wanted: u64) -> u64 {
        let mut taken = 0;
        // The closure never refuses, so neither does the update.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            taken = left.min(wanted);
            Some(left - taken)
        });
        taken
    }
}

/// One stream's share of it.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    decoder: Utf8Decoder,
    pub(super) kept: u64,
    pub(super) discarded: u64,
}

impl Keeper {
    /// Takes what was read; gives the text that is kept of it.
    pub(super) fn push(&mut self, bytes: &[u8], budget: &Budget) -> String {
        let length = bytes.len() as u64;
        // Once something was lost, what follows would be out of place.
        let kept = if self.discarded > 0 { 0 } else { budget.take(length) };
        self.kept += kept;
        self.discarded += length - kept;
        let kept = usize::try_from(kept).unwrap_or(bytes.len());
        self.decoder.push(&bytes[..kept])
    }

    /// What is left at the end.
    pub(super) fn finish(&mut self) -> String {
        self.decoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_share_one_budget_and_losses_are_counted() {
        let budget = Budget::new(5);
        let (mut out, mut err) = (Keeper::default(), Keeper::default());
        assert_eq!(out.push(b"abc", &budget), "abc");
        assert_eq!(err.push(b"defg", &budget), "de");
        assert_eq!(err.push(b"h", &budget), "");
        assert_eq!((out.kept, out.discarded, err.kept, err.discarded), (3, 0, 2, 3));
    }
}
