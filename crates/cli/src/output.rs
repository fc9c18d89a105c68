//! The only place that writes to stdout and stderr.

use std::{
    io::{self, IsTerminal, Write},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use ampoule_core::CancellationToken;

use crate::exit::Failure;

/// How long a reader that has stopped reading is waited for after a cancelled run.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Says one line to the user.
pub(crate) fn note(message: &str) {
    // Where nobody reads there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "ampoule: {message}");
}

/// Prints the result of a command.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::platform(format!("failed to write to stdout: {error}")))
}

/// Whether people look at stdout.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

enum Piece {
    Stdout(String),
    Stderr(String),
}

/// Writes a program's output as it arrives.
///
/// A thread of its own does it: a reader that is slow must not hold up the clock of the run. What
/// can wait here is bounded by the run's output limit.
#[derive(Debug)]
pub(crate) struct Live {
    pieces: Sender<Piece>,
    done: Receiver<io::Result<()>>,
    ends_with_newline: bool,
}

impl Live {
    /// Starts; `cancel` fires when nobody reads stdout any more.
    pub(crate) fn start(cancel: CancellationToken) -> Self {
        let (pieces, to_write) = channel();
        let (say_done, done) = channel();
        thread::spawn(move || {
            let written = write_all(&to_write);
            if written.is_err() {
                cancel.cancel();
            }
            // The command may be over already.
            let _ = say_done.send(written);
        });
        Self { pieces, done, ends_with_newline: true }
    }

    pub(crate) fn stdout(&mut self, text: String) {
        self.ends_with_newline = text.ends_with('\n');
        // An error is told by `finish`.
        let _ = self.pieces.send(Piece::Stdout(text));
    }

    pub(crate) fn stderr(&self, text: String) {
        let _ = self.pieces.send(Piece::Stderr(text));
    }

    /// Writes on a line of its own.
    pub(crate) fn line(&mut self, text: &str) {
        let start = if self.ends_with_newline { "" } else { "\n" };
        self.stdout(format!("{start}{text}\n"));
    }

    /// Waits until everything is written; not for long after a cancelled run.
    pub(crate) fn finish(self, is_cancelled: bool) -> io::Result<()> {
        let Self { pieces, done, .. } = self;
        drop(pieces);
        if is_cancelled {
            done.recv_timeout(LAST_WORDS).unwrap_or(Ok(()))
        } else {
            done.recv().unwrap_or(Ok(()))
        }
    }
}

fn write_all(pieces: &Receiver<Piece>) -> io::Result<()> {
    for piece in pieces {
        match piece {
            Piece::Stdout(text) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes())?;
                stdout.flush()?;
            }
            // A closed stderr is no reason to end a run.
            Piece::Stderr(text) => drop(io::stderr().lock().write_all(text.as_bytes())),
        }
    }
    Ok(())
}
