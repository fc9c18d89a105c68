//! Everything that this process logs, kept.

use std::{
    io,
    sync::{Mutex, OnceLock, PoisonError},
};

use tracing_subscriber::fmt::{MakeWriter, format::FmtSpan};

static KEPT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Begins to keep everything that is logged, once for the whole process.
pub(super) fn listen() {
    static LISTENING: OnceLock<()> = OnceLock::new();
    LISTENING.get_or_init(|| {
        // Another subscriber of the test program's own is found out by the case's control.
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(Keep)
            .try_init();
    });
}

/// Whether a word was logged.
pub(super) fn hold(word: &str) -> bool {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Writes to what is kept.
struct Keep;

impl io::Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'writer> MakeWriter<'writer> for Keep {
    type Writer = Self;

    fn make_writer(&'writer self) -> Self {
        Self
    }
}
