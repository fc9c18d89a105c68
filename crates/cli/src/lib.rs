//! The command `ampoule`.
//!
//! ```text
//! arguments    what can be typed
//! environment  the variables that are honoured, and which are not
//! provider     the back-end, in two phases: before any thread, and inside the runtime
//! commands/    one file each
//! output       the only place that writes to stdout and stderr
//! exit         the exit codes
//! ```
#![forbid(unsafe_code)]

mod arguments;
mod artifacts;
mod commands;
mod environment;
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
    let done = match arguments.command {
        Command::Run(run) => commands::run::run(run),
        Command::Serve(serve) => commands::serve::serve(serve),
        Command::Runtimes(runtimes) => commands::runtimes::runtimes(runtimes),
        Command::Doctor(doctor) => commands::doctor::doctor(&doctor),
    };
    done.unwrap_or_else(|failure| {
        output::note(&failure.message);
        failure.code
    })
}
