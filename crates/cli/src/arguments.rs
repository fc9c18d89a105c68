//! What can be typed.

use std::path::PathBuf;

use ampoule_core::Layer;
use clap::{Args, Parser, Subcommand};

use crate::{config::Layers, exit::ExitCode};

/// Runs untrusted code in sandboxes that are used once and destroyed.
#[derive(Debug, Parser)]
#[command(name = "ampoule", version, after_help = ExitCode::help())]
pub(crate) struct Arguments {
    /// The configuration file [default: of the user, else `/etc/ampoule/ampoule.toml`]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
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
    /// Shows the configuration in effect, with the source of each value and without secrets
    Config(ConfigArguments),
}

const SERVE_HELP: &str = "\
Each flag has a key in ampoule.toml and a variable, and there are more of those:
`ampoule config` lists all keys with what is in effect. Of the executor manager's own
variables these are honoured:
  SANDBOX_EXECUTOR_MANAGER_POOL_SIZE              runs at the same time
  SANDBOX_TIMEOUT, SANDBOX_MAX_MEMORY             limits of a run that asks for no others
  SANDBOX_EXECUTOR_MANAGER_API_TOKEN              what callers must show
  SANDBOX_EXECUTOR_MANAGER_ALLOW_UNAUTHENTICATED  listens beyond this machine without a token
  SANDBOX_RUN_RATE_LIMIT                          how often one address may call /run
  SANDBOX_RUN_PREAUTH_RATE_LIMIT                  how often one address may fail to show the token
  SANDBOX_BASE_PYTHON_IMAGE, SANDBOX_BASE_NODEJS_IMAGE  other names that `base_image` may have
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
    #[command(flatten)]
    pub(crate) settings: RunSettings,
    /// Prints one JSON object with everything about the run
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes the program's artifacts into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) artifacts: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    pub(crate) settings: ServeSettings,
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArguments {
    /// Prints JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    run: RunSettings,
    #[command(flatten)]
    serve: ServeSettings,
}

// Values are read where those of the other layers are, so that each has one set of rules and words.

/// Settings of a run that are flags too.
#[derive(Args, Debug)]
pub(crate) struct RunSettings {
    /// Its wall clock, as in `90s`, `1m30s` or `2.5` [default: 10s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Its memory, as in `256m` or `1g` [default: 256m]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Its CPU bandwidth, as in `1` or `0.5` [default: 1]
    #[arg(long, value_name = "CPUS")]
    cpus: Option<String>,
    /// Its processes and threads at once [default: 64]
    #[arg(long, value_name = "COUNT")]
    processes: Option<String>,
    /// What of stdout and stderr is kept, as in `1m` [default: 1m]
    #[arg(long, value_name = "SIZE")]
    output: Option<String>,
    /// What it may reach: `none`, or `open` where the operator allows it [default: none]
    #[arg(long, value_name = "POLICY")]
    network: Option<String>,
    /// Where its interpreter is from: `fast`, perhaps a fork, or `strict`, its own [default: fast]
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
}

impl RunSettings {
    fn flags(&self) -> [(&'static str, &Option<String>); 7] {
        [
            ("--timeout", &self.timeout),
            ("--memory", &self.memory),
            ("--cpus", &self.cpus),
            ("--processes", &self.processes),
            ("--output", &self.output),
            ("--network", &self.network),
            ("--profile", &self.profile),
        ]
    }
}

/// Settings of the service that are flags too.
#[derive(Args, Debug)]
pub(crate) struct ServeSettings {
    /// Where to listen; beyond this machine a token is needed [default: 127.0.0.1:9385]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// How long runs may go on after SIGTERM [default: 10s]
    #[arg(long, value_name = "DURATION")]
    grace: Option<String>,
    /// How the log is written, `text` or `json` [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// The largest request body [default: 32m]
    #[arg(long, value_name = "SIZE")]
    max_body: Option<String>,
}

impl ServeSettings {
    fn flags(&self) -> [(&'static str, &Option<String>); 4] {
        [
            ("--listen", &self.listen),
            ("--grace", &self.grace),
            ("--log-format", &self.log_format),
            ("--max-body", &self.max_body),
        ]
    }
}

impl Arguments {
    /// What the command line says of the configuration.
    pub(crate) fn layers(&self) -> Layers {
        let flags: Vec<_> = match &self.command {
            Command::Run(run) => run.settings.flags().into(),
            Command::Serve(serve) => serve.settings.flags().into(),
            Command::Config(config) => {
                config.run.flags().into_iter().chain(config.serve.flags()).collect()
            }
            Command::Doctor(doctor) => vec![("--listen", &doctor.listen)],
            Command::Runtimes(_) => Vec::new(),
        };
        let given = flags.into_iter().filter_map(|(flag, value)| Some((flag, value.clone()?)));
        Layers { file: self.config.clone(), flags: given.collect() }
    }
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
    /// Adds a language: checks a runtime folder by real runs and keeps a copy of it
    Add {
        /// The folder: a manifest, a runner and what belongs to them
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Lets it take the place of the runtime that the language has
        #[arg(long)]
        replace: bool,
    },
    /// Removes a language that was added
    Remove {
        /// The language
        #[arg(value_name = "LANG")]
        language: String,
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
    /// The address that a service is to listen on [default: as configured]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// A test switch: tries the fences with this layer left out, to see its probe get through
    #[arg(long, hide = true, value_name = "LAYER", value_parser = parse_layer)]
    pub(crate) without: Vec<Layer>,
}

/// A layer that a probe tries.
fn parse_layer(text: &str) -> Result<Layer, String> {
    let named = ampoule_jail::probed_fences().find(|layer| layer.as_str() == text);
    named.ok_or_else(|| {
        let known: Vec<&str> = ampoule_jail::probed_fences().map(Layer::as_str).collect();
        format!("it is no layer with a probe; hint: {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::config::KEYS;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    /// Every flag is one of a key, and every key's flag can be typed.
    #[test]
    fn flags_and_keys_name_each_other() {
        let keys: BTreeSet<&str> = KEYS.iter().filter_map(|key| key.flag).collect();
        let settings: Vec<String> = keys.iter().map(|flag| format!("{flag}=1")).collect();
        let typed = ["ampoule", "config"].into_iter().chain(settings.iter().map(String::as_str));
        let layers = Arguments::try_parse_from(typed).unwrap().layers();
        let flags: BTreeSet<&str> = layers.flags.iter().map(|(flag, _)| *flag).collect();
        assert_eq!(flags, keys);
    }
}
