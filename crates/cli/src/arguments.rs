//! What can be typed.

use std::{path::PathBuf, time::Duration};

use ampoule_core::{Layer, parse_bytes, parse_duration};
use clap::{Args, Parser, Subcommand};

use crate::{exit::ExitCode, logging::LogFormat};

/// Runs untrusted code in sandboxes that are used once and destroyed.
#[derive(Debug, Parser)]
#[command(name = "ampoule", version, after_help = ExitCode::help())]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs one program in a fresh sandbox and prints what its `main` returns
    #[command(after_help = ExitCode::help())]
    Run(RunArguments),
    /// Serves the HTTP interface of RAGFlow's executor manager
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArguments),
    /// Shows and prepares the interpreters and packages that programs find
    Runtimes(RuntimesArguments),
    /// Says what works on this machine, what does not, and the fix
    #[command(after_help = ExitCode::help())]
    Doctor(DoctorArguments),
}

const SERVE_HELP: &str = "\
Environment:
  SANDBOX_EXECUTOR_MANAGER_POOL_SIZE  runs at the same time [default: the CPUs, at least 2]
  SANDBOX_TIMEOUT                     wall clock of a run [default: 10s]
  SANDBOX_MAX_MEMORY                  memory of a run [default: 256m]
  SANDBOX_BASE_PYTHON_IMAGE           another name that `base_image` may have
  SANDBOX_BASE_NODEJS_IMAGE           another name that `base_image` may have
  AMPOULE_LOG                         what is logged, as in `debug` or `ampoule_server=debug` [default: info]
";

#[derive(Args, Debug)]
pub(crate) struct RunArguments {
    /// The program; `-` reads it from stdin
    pub(crate) file: PathBuf,
    /// Its language, where the file's extension does not say
    #[arg(long, value_name = "LANG")]
    pub(crate) lang: Option<String>,
    /// The arguments of `main`: a JSON object, or `@FILE` that holds one
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) args: Option<String>,
    /// Its wall clock, as in `90s`, `1m30s` or `2.5` [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Its memory, as in `256m` or `1g` [default: 256m]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub(crate) memory: Option<u64>,
    /// Prints one JSON object with everything about the run
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes the program's artifacts into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArguments {
    /// Where to listen
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "AMPOULE_LISTEN",
        default_value = DEFAULT_LISTEN,
        value_parser = parse_listen
    )]
    pub(crate) listen: String,
    /// How long runs may go on after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_grace)]
    pub(crate) grace: Duration,
    /// How the log is written [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// The largest request body
    #[arg(long, value_name = "SIZE", default_value = "32m", value_parser = parse_bytes)]
    pub(crate) max_body: u64,
}

#[derive(Args, Debug)]
pub(crate) struct RuntimesArguments {
    #[command(subcommand)]
    pub(crate) command: RuntimesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RuntimesCommand {
    /// Says what is there and what is missing
    List {
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Installs the locked packages
    Install {
        /// The languages [default: all]
        #[arg(value_name = "LANG")]
        languages: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArguments {
    /// Lists processes, mounts and control groups that nobody owns any more, and nothing else
    #[arg(long)]
    pub(crate) leaks: bool,
    /// Prints one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// The address that a service is to listen on [default: AMPOULE_LISTEN, or 127.0.0.1:9385]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// A test switch: tries the fences with this layer left out, to see its probe get through
    #[arg(long, hide = true, value_name = "LAYER", value_parser = parse_layer)]
    pub(crate) without: Vec<Layer>,
}

/// RAGFlow's port, for this machine only.
const DEFAULT_LISTEN: &str = "127.0.0.1:9385";

pub(crate) fn parse_listen(text: &str) -> Result<String, String> {
    if text.is_empty() {
        // Compose sets variables to nothing where it means that they are not set.
        return Ok(DEFAULT_LISTEN.to_owned());
    }
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err("it is no address with a port; hint: as in `127.0.0.1:9385`".to_owned()),
    }
}

/// A layer that a probe tries.
fn parse_layer(text: &str) -> Result<Layer, String> {
    let named = ampoule_jail::probed_fences().find(|layer| layer.as_str() == text);
    named.ok_or_else(|| {
        let known: Vec<&str> = ampoule_jail::probed_fences().map(Layer::as_str).collect();
        format!("it is no layer with a probe; hint: {}", known.join(", "))
    })
}

/// A duration that may be nothing at all.
fn parse_grace(text: &str) -> Result<Duration, String> {
    match text.trim() {
        "0" | "0s" => Ok(Duration::ZERO),
        text => parse_duration(text).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn addresses_need_a_port() {
        for good in ["127.0.0.1:0", "[::1]:9385", "localhost:80"] {
            assert!(parse_listen(good).is_ok(), "{good}");
        }
        assert_eq!(parse_listen("").unwrap(), DEFAULT_LISTEN);
        for bad in ["9385", ":9385", "host:", "host:99999"] {
            assert!(parse_listen(bad).is_err(), "{bad}");
        }
    }
}
