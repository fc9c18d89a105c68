//! Standard output and error: read to the end, kept to the limit.

use std::sync::atomic::{AtomicU64, Ordering};

use ampoule_core::Utf8Decoder;

/// What of the limit is standard error's alone, so that a flood on standard output does not drown
/// the reason of a failure.
const ERROR_RESERVE: u64 = 64 << 10;

/// How much of both streams together may still be kept.
#[derive(Debug)]
pub(super) struct Budget {
    left: AtomicU64,
    whole: u64,
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: AtomicU64::new(bytes), whole: bytes }
    }

    /// The part of the limit that a stream must leave.
    pub(super) fn reserve(&self, is_error: bool) -> u64 {
        if is_error { 0 } else { ERROR_RESERVE.min(self.whole / 4) }
    }

    /// Takes up to `wanted` bytes, leaving `reserve`; gives what was taken.
    fn take(&self, wanted: u64, reserve: u64) -> u64 {
        let mut taken = 0;
        // The closure never refuses, so neither does the update.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            taken = left.saturating_sub(reserve).min(wanted);
            Some(left - taken)
        });
        taken
    }
}

/// One stream's share of it.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    decoder: Utf8Decoder,
    reserve: u64,
    pub(super) kept: u64,
    pub(super) discarded: u64,
}

impl Keeper {
    /// A share that leaves `reserve` bytes to the other stream.
    pub(super) fn leaving(reserve: u64) -> Self {
        Self { reserve, ..Self::default() }
    }

    /// Takes what was read; gives the text that is kept of it.
    pub(super) fn push(&mut self, bytes: &[u8], budget: &Budget) -> String {
        let length = bytes.len() as u64;
        // Once something was lost, what follows would be out of place.
        let kept = if self.discarded > 0 { 0 } else { budget.take(length, self.reserve) };
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
        let budget = Budget::new(8);
        let (mut out, mut err) =
            (Keeper::leaving(budget.reserve(false)), Keeper::leaving(budget.reserve(true)));
        assert_eq!(out.push(b"abcdefgh", &budget), "abcdef");
        assert_eq!(err.push(b"xyz", &budget), "xy");
        assert_eq!(err.push(b"z", &budget), "");
        assert_eq!((out.kept, out.discarded, err.kept, err.discarded), (6, 2, 2, 2));
    }
}
