//! One service at a time on a data directory.
//!
//! ```text
//! free --lock--> claimed by this process --end of the process, however it ends--> free
//! ```
//!
//! Two services would give the same places out twice and take each other's state for their own. The
//! kernel holds the lock and drops it with the process; the file only says whose it is. `ampoule run`
//! keeps no state and claims nothing.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::Path,
};

use crate::exit::Failure;

/// The file that is locked.
const LOCK: &str = "serve.lock";

/// The right to serve from a data directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct DataDirClaim {
    _locked: File,
}

impl DataDirClaim {
    /// Claims a data directory, which is made if it is not there.
    pub(crate) fn new(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let hint = "hint: `data_dir` in ampoule.toml or AMPOULE_DATA_DIR name another directory";
        let failed = |error: io::Error| {
            Failure::usage(format!(
                "the data directory `{shown}` cannot be written to: {error}; {hint}"
            ))
        };
        fs::create_dir_all(path).map_err(failed)?;
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK));
        let mut locked = open.map_err(failed)?;
        match locked.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who holds it is told where it can be read, and nothing more hangs on it.
                let _ = locked.read_to_string(&mut holder);
                let holder = holder.trim();
                return Err(Failure::usage(format!(
                    "another `ampoule serve` (process {holder}) uses the data directory `{shown}`; {hint}, \
                     or stop the other"
                )));
            }
        }
        let written = locked
            .set_len(0)
            .and_then(|()| locked.rewind())
            .and_then(|()| writeln!(locked, "{}", std::process::id()));
        written.map_err(failed)?;
        Ok(Self { _locked: locked })
    }
}
