//! The command `ampoule`.
//!
//! ```text
//! arguments    what can be typed
//! config/      what the operator decides: file, environment, flags
//! data_dir     one service at a time on a data directory
//! provider     the back-end, in two phases: before any thread, and inside the runtime
//! commands/    one file each
//! output       the only place that writes to stdout and stderr
//! exit         the exit codes
//! ```
#![forbid(unsafe_code)]

mod arguments;
mod artifacts;
mod commands;
mod config;
mod data_dir;
mod exit;
mod json_text;
mod logging;
mod output;
mod provider;

use clap::Parser;

pub use exit::ExitCode;

use crate::arguments::{Arguments, Command};

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are no errors, and go to stdout.
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::Usage } else { ExitCode::Success };
            // Where nobody reads there is nobody to tell.
            let _ = error.print();
            return code;
        }
    };
    let layers = arguments.layers();
    let done = match arguments.command {
        Command::Run(run) => commands::run::run(run, &layers),
        Command::Serve(_) => commands::serve::serve(&layers),
        Command::Runtimes(runtimes) => commands::runtimes::runtimes(runtimes, &layers),
        Command::Config(config) => commands::config::config(&config, &layers),
        Command::Doctor(doctor) => commands::doctor::doctor(&doctor, &layers),
    };
    done.unwrap_or_else(|failure| {
        output::note(&failure.message);
        failure.code
    })
}
