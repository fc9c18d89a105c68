//! The log: structured, on stderr, without code, arguments or output of users.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use crate::exit::Failure;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Starts the log: `directives` say what is logged.
pub(crate) fn start(directives: &str, format: Option<LogFormat>) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| Failure::usage(format!("`{directives}` is no log level ({error})")))?;
    let is_terminal = io::stderr().is_terminal();
    let automatic = if is_terminal { LogFormat::Text } else { LogFormat::Json };
    let log = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(is_terminal);
    let started = match format.unwrap_or(automatic) {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::platform(format!("failed to start the log: {error}")))
}
