//! The one list of keys.
//!
//! What reads the file, the environment and flags, what `ampoule config` prints, and the tables of
//! docs/configuration.md all follow it.

use std::{num::NonZeroUsize, str::FromStr};

use ampoule_core::{
    NetworkPolicy, OnOutputLimit, Profile, format_bytes, format_cpus, format_duration, parse_bytes,
    parse_cpus, parse_duration,
};
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::{
    Config, ProviderType, Secret,
    values::{
        Given, boolean, duration_or_none, duration_or_nothing, is_address, joined, or_none, parse,
        path, positive, put, rate, token, whole,
    },
};
use crate::logging::LogFormat;

/// Something that an operator may decide.
pub(crate) struct Key {
    /// Where it is in the file: `limits.timeout` is `timeout` in `[limits]`.
    pub(crate) path: &'static str,
    /// The contract's variable for it, beside ours.
    pub(crate) contract: Option<&'static str>,
    pub(crate) flag: Option<&'static str>,
    /// What it decides.
    pub(crate) effect: &'static str,
    pub(crate) allowed: &'static str,
    /// The default in words, where a value would not do.
    pub(crate) default: Option<&'static str>,
    pub(super) is_secret: bool,
    /// Takes a value; none if it is not allowed.
    pub(super) set: fn(&mut Config, &Given) -> Option<()>,
    /// Gives it its value where nobody sets it and that hangs on others.
    pub(super) unset: fn(&mut Config),
    /// Writes the value in effect as it would be read.
    get: fn(&Config) -> String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Key").field(&self.path).finish()
    }
}

impl Key {
    /// Our own variable for it: the path in capitals.
    pub(super) fn variable(&self) -> String {
        format!("AMPOULE_{}", self.path.to_ascii_uppercase().replace('.', "_"))
    }

    /// Every variable for it; the last that is set wins.
    pub(crate) fn variables(&self) -> impl Iterator<Item = String> {
        self.contract.map(str::to_owned).into_iter().chain([self.variable()])
    }

    /// The value in effect, for people.
    pub(crate) fn shown(&self, config: &Config) -> String {
        match (self.get)(config) {
            value if value.is_empty() => self.default.unwrap_or("none").replace('`', ""),
            _ if self.is_secret => "(set)".to_owned(),
            value => value,
        }
    }
}

const DURATION: &str = "a duration: `90s`, `1m30s`, `500ms`, or a number of seconds";
const DURATION_OR_NONE: &str = "a duration: `90s`, `1m30s`, or a number of seconds; or `none`";
const SIZE: &str = "a size: `256m`, with b, k, m or g, or a number of bytes";
const CPUS: &str = "a number of CPUs: `1`, `0.5`, `2.25`";
const COUNT: &str = "a whole number from 1 to 4294967295";
const RATE: &str = "a rate: `60/minute`, `10/second`, also hour and day; or `none`";
const POLICY: &str = "`none` or `open`";

/// A key of which nothing special is to be said.
const PLAIN: Key = Key {
    path: "",
    contract: None,
    flag: None,
    effect: "",
    allowed: "",
    default: None,
    is_secret: false,
    set: |_, _| None,
    unset: |_| (),
    get: |_| String::new(),
};

/// Every key there is.
pub(crate) static KEYS: &[Key] = &[
    Key {
        path: "listen",
        flag: Some("--listen"),
        effect: "where `serve` listens; beyond this machine only with a token or the opt-in",
        allowed: "an address with a port: `127.0.0.1:9385`, `[::1]:9385`",
        set: |config, given| {
            put(&mut config.listen, given.text().filter(|text| is_address(text)).map(str::to_owned))
        },
        get: |config| config.listen.clone(),
        ..PLAIN
    },
    Key {
        path: "data_dir",
        effect: "where packages and other state are kept; one `serve` at a time uses it",
        allowed: "a directory",
        default: Some(
            "`/var/lib/ampoule` for root, else `$XDG_DATA_HOME/ampoule` or `~/.local/share/ampoule`",
        ),
        set: |config, given| put(&mut config.data_dir, path(given.text()?)),
        get: |config| config.data_dir.display().to_string(),
        ..PLAIN
    },
    Key {
        path: "provider",
        effect: "what runs programs",
        allowed: "`native`",
        set: |config, given| {
            config.provider = match given.text()? {
                "native" => ProviderType::Native,
                "memory" => ProviderType::Memory,
                _ => return None,
            };
            Some(())
        },
        get: |config| match config.provider {
            ProviderType::Native => "native".to_owned(),
            ProviderType::Memory => "memory".to_owned(),
        },
        ..PLAIN
    },
    Key {
        path: "log",
        effect: "what is logged",
        allowed: "a level such as `debug`, or `ampoule_server=debug,info`",
        default: Some("`info` for `serve`, `error` else"),
        set: |config, given| {
            let text = given.text()?;
            EnvFilter::try_new(text).ok()?;
            put(&mut config.log, Some(Some(text.to_owned())))
        },
        get: |config| config.log.clone().unwrap_or_default(),
        ..PLAIN
    },
    Key {
        path: "log_format",
        flag: Some("--log-format"),
        effect: "how `serve` writes its log",
        allowed: "`text` or `json`",
        default: Some("`text` on a terminal, else `json`"),
        set: |config, given| {
            put(&mut config.log_format, Some(Some(LogFormat::from_str(given.text()?, false).ok()?)))
        },
        get: |config| match config.log_format {
            Some(LogFormat::Text) => "text".to_owned(),
            Some(LogFormat::Json) => "json".to_owned(),
            None => String::new(),
        },
        ..PLAIN
    },
    Key {
        path: "grace",
        flag: Some("--grace"),
        effect: "how long runs may go on after SIGTERM",
        allowed: "a duration: `90s`, `1m30s`, or a number of seconds; `0` for none",
        set: |config, given| put(&mut config.grace, duration_or_nothing(given.text()?)),
        get: |config| format_duration(config.grace),
        ..PLAIN
    },
    Key {
        path: "max_body",
        flag: Some("--max-body"),
        effect: "the largest request body",
        allowed: "a size from `1k` to `1g`",
        set: |config, given| {
            let size = parse_bytes(given.text()?).ok()?;
            (1 << 10..=1 << 30).contains(&size).then(|| config.max_body = size)
        },
        get: |config| format_bytes(config.max_body),
        ..PLAIN
    },
    Key {
        path: "profile",
        flag: Some("--profile"),
        effect: "whether a run that asks for nothing else may be a fork of a warm interpreter",
        allowed: "`fast`, or `strict`: each run has an interpreter of its own, and may not ask for less",
        set: |config, given| {
            put(&mut config.profile, parse(given, Profile::from_str))?;
            config.manager.bounds.profile = config.profile;
            Some(())
        },
        get: |config| config.profile.as_str().to_owned(),
        ..PLAIN
    },
    Key {
        path: "limits.timeout",
        contract: Some("SANDBOX_TIMEOUT"),
        flag: Some("--timeout"),
        effect: "wall clock of a run that asks for no other",
        allowed: DURATION,
        set: |config, given| put(&mut config.limits.wall, parse(given, parse_duration)),
        get: |config| format_duration(config.limits.wall),
        ..PLAIN
    },
    Key {
        path: "limits.memory",
        contract: Some("SANDBOX_MAX_MEMORY"),
        flag: Some("--memory"),
        effect: "memory of a run, swap and scratch space included",
        allowed: SIZE,
        set: |config, given| put(&mut config.limits.memory, parse(given, parse_bytes)),
        get: |config| format_bytes(config.limits.memory),
        ..PLAIN
    },
    Key {
        path: "limits.cpus",
        flag: Some("--cpus"),
        effect: "CPU bandwidth of a run",
        allowed: CPUS,
        set: |config, given| put(&mut config.limits.millicpus, parse(given, parse_cpus)),
        get: |config| format_cpus(config.limits.millicpus),
        ..PLAIN
    },
    Key {
        path: "limits.cpu_time",
        effect: "CPU time of a run, apart from its wall clock",
        allowed: DURATION_OR_NONE,
        set: |config, given| put(&mut config.limits.cpu, duration_or_none(given.text()?)),
        get: |config| or_none(config.limits.cpu),
        ..PLAIN
    },
    Key {
        path: "limits.processes",
        flag: Some("--processes"),
        effect: "processes and threads of a run at once",
        allowed: COUNT,
        set: |config, given| put(&mut config.limits.processes, parse(given, positive)),
        get: |config| config.limits.processes.to_string(),
        ..PLAIN
    },
    Key {
        path: "limits.output",
        flag: Some("--output"),
        effect: "stdout and stderr of a run that are kept",
        allowed: SIZE,
        set: |config, given| put(&mut config.limits.output, parse(given, parse_bytes)),
        get: |config| format_bytes(config.limits.output),
        ..PLAIN
    },
    Key {
        path: "limits.on_output",
        effect: "what happens beyond that",
        allowed: "`discard` (the rest is counted) or `stop` (the run is ended)",
        set: |config, given| {
            config.limits.on_output = match given.text()? {
                "discard" => OnOutputLimit::Discard,
                "stop" => OnOutputLimit::Stop,
                _ => return None,
            };
            Some(())
        },
        get: |config| match config.limits.on_output {
            OnOutputLimit::Discard => "discard".to_owned(),
            OnOutputLimit::Stop => "stop".to_owned(),
        },
        ..PLAIN
    },
    Key {
        path: "limits.disk",
        effect: "the working directory of a run",
        allowed: SIZE,
        set: |config, given| put(&mut config.limits.disk, parse(given, parse_bytes)),
        get: |config| format_bytes(config.limits.disk),
        ..PLAIN
    },
    Key {
        path: "limits.max.timeout",
        effect: "the longest wall clock that a run may ask for",
        allowed: DURATION,
        default: Some("as `limits.timeout`"),
        set: |config, given| put(&mut config.manager.bounds.wall, parse(given, parse_duration)),
        unset: |config| config.manager.bounds.wall = config.limits.wall,
        get: |config| format_duration(config.manager.bounds.wall),
        ..PLAIN
    },
    Key {
        path: "limits.max.memory",
        effect: "the most memory",
        allowed: SIZE,
        default: Some("as `limits.memory`"),
        set: |config, given| put(&mut config.manager.bounds.memory, parse(given, parse_bytes)),
        unset: |config| config.manager.bounds.memory = config.limits.memory,
        get: |config| format_bytes(config.manager.bounds.memory),
        ..PLAIN
    },
    Key {
        path: "limits.max.cpus",
        effect: "the most CPU bandwidth",
        allowed: CPUS,
        default: Some("as `limits.cpus`"),
        set: |config, given| put(&mut config.manager.bounds.millicpus, parse(given, parse_cpus)),
        unset: |config| config.manager.bounds.millicpus = config.limits.millicpus,
        get: |config| format_cpus(config.manager.bounds.millicpus),
        ..PLAIN
    },
    Key {
        path: "limits.max.cpu_time",
        effect: "the most CPU time, where a run bounds it",
        allowed: DURATION_OR_NONE,
        default: Some("as `limits.cpu_time`"),
        set: |config, given| put(&mut config.manager.bounds.cpu, duration_or_none(given.text()?)),
        unset: |config| config.manager.bounds.cpu = config.limits.cpu,
        get: |config| or_none(config.manager.bounds.cpu),
        ..PLAIN
    },
    Key {
        path: "limits.max.processes",
        effect: "the most processes and threads",
        allowed: COUNT,
        default: Some("as `limits.processes`"),
        set: |config, given| put(&mut config.manager.bounds.processes, parse(given, positive)),
        unset: |config| config.manager.bounds.processes = config.limits.processes,
        get: |config| config.manager.bounds.processes.to_string(),
        ..PLAIN
    },
    Key {
        path: "limits.max.output",
        effect: "the most output that is kept",
        allowed: SIZE,
        default: Some("as `limits.output`"),
        set: |config, given| put(&mut config.manager.bounds.output, parse(given, parse_bytes)),
        unset: |config| config.manager.bounds.output = config.limits.output,
        get: |config| format_bytes(config.manager.bounds.output),
        ..PLAIN
    },
    Key {
        path: "limits.max.disk",
        effect: "the largest working directory",
        allowed: SIZE,
        default: Some("as `limits.disk`"),
        set: |config, given| put(&mut config.manager.bounds.disk, parse(given, parse_bytes)),
        unset: |config| config.manager.bounds.disk = config.limits.disk,
        get: |config| format_bytes(config.manager.bounds.disk),
        ..PLAIN
    },
    Key {
        path: "queue.places",
        contract: Some("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE"),
        effect: "runs at the same time, of all languages",
        allowed: "a whole number from 1 to 1024",
        default: Some("the CPUs, at least 2"),
        set: |config, given| {
            put(&mut config.manager.concurrency, NonZeroUsize::new(whole(given, 1..=1024)?))
        },
        get: |config| config.manager.concurrency.to_string(),
        ..PLAIN
    },
    Key {
        path: "queue.size",
        effect: "requests that may wait for a place; the next is answered busy",
        allowed: "a whole number from 0 to 100000",
        set: |config, given| put(&mut config.manager.queue, whole(given, 0..=100_000)),
        get: |config| config.manager.queue.to_string(),
        ..PLAIN
    },
    Key {
        path: "queue.deadline",
        effect: "how long a request may wait for a place; then it is answered busy",
        allowed: DURATION,
        set: |config, given| put(&mut config.manager.queue_deadline, parse(given, parse_duration)),
        get: |config| format_duration(config.manager.queue_deadline),
        ..PLAIN
    },
    Key {
        path: "pool.ready",
        effect: "sandboxes of one kind that wait ready; 0 switches the pool off",
        allowed: "a whole number from 0 to 512",
        set: |config, given| put(&mut config.manager.pool.ready, whole(given, 0..=512)),
        get: |config| config.manager.pool.ready.to_string(),
        ..PLAIN
    },
    Key {
        path: "pool.most",
        effect: "sandboxes of all kinds that wait ready, or are made or destroyed to that end",
        allowed: "a whole number from 0 to 512",
        set: |config, given| put(&mut config.manager.pool.most, whole(given, 0..=512)),
        get: |config| config.manager.pool.most.to_string(),
        ..PLAIN
    },
    Key {
        path: "pool.boots",
        effect: "sandboxes that are made ready at a time",
        allowed: "a whole number from 1 to 64",
        default: Some("half the CPUs, at least 1"),
        set: |config, given| {
            let boots = NonZeroUsize::new(whole(given, 1..=64)?);
            put(&mut config.manager.pool.boots, boots)
        },
        get: |config| config.manager.pool.boots.to_string(),
        ..PLAIN
    },
    Key {
        path: "pool.max_age",
        effect: "how long one may wait before it is replaced",
        allowed: DURATION,
        set: |config, given| put(&mut config.manager.pool.max_age, parse(given, parse_duration)),
        get: |config| format_duration(config.manager.pool.max_age),
        ..PLAIN
    },
    Key {
        path: "pool.spare_memory",
        effect: "memory that the machine must have available for another to be made ready",
        allowed: SIZE,
        set: |config, given| put(&mut config.manager.pool.spare_memory, parse(given, parse_bytes)),
        get: |config| format_bytes(config.manager.pool.spare_memory),
        ..PLAIN
    },
    Key {
        path: "network.policy",
        flag: Some("--network"),
        effect: "what a run may reach that asks for nothing else",
        allowed: POLICY,
        set: |config, given| put(&mut config.network, parse(given, NetworkPolicy::from_str)),
        get: |config| config.network.as_str().to_owned(),
        ..PLAIN
    },
    Key {
        path: "network.most",
        effect: "the widest policy that a run may ask for",
        allowed: POLICY,
        default: Some("as `network.policy`"),
        set: |config, given| {
            put(&mut config.manager.bounds.network, parse(given, NetworkPolicy::from_str))
        },
        unset: |config| config.manager.bounds.network = config.network,
        get: |config| config.manager.bounds.network.as_str().to_owned(),
        ..PLAIN
    },
    Key {
        path: "network.allow",
        effect: "what stays reachable under `open` of the private ranges that else are closed",
        allowed: "a list of addresses or ranges with an optional port: `10.1.0.0/16`, `192.168.1.5:5432`",
        set: |config, given| put(&mut config.network_allow, given.list(|text| text.parse().ok())),
        get: |config| joined(&config.network_allow),
        ..PLAIN
    },
    Key {
        path: "auth.api_token",
        contract: Some("SANDBOX_EXECUTOR_MANAGER_API_TOKEN"),
        effect: "what callers must show, but for health and readiness",
        allowed: "printable ASCII without spaces",
        default: Some("(not set)"),
        is_secret: true,
        set: |config, given| {
            // As there: nothing but blanks is no token.
            let text = given.text()?;
            config.api_token =
                if text.is_empty() { None } else { Some(Secret(token(text)?.to_owned())) };
            Some(())
        },
        get: |config| config.api_token.as_ref().map(|secret| secret.0.clone()).unwrap_or_default(),
        ..PLAIN
    },
    Key {
        path: "auth.api_token_file",
        effect: "a file that holds the token instead",
        allowed: "a file",
        set: |config, given| put(&mut config.api_token_file, Some(Some(path(given.text()?)?))),
        get: |config| {
            config
                .api_token_file
                .as_ref()
                .map(|path| path.display().to_string())
                .unwrap_or_default()
        },
        ..PLAIN
    },
    Key {
        path: "auth.allow_unauthenticated",
        contract: Some("SANDBOX_EXECUTOR_MANAGER_ALLOW_UNAUTHENTICATED"),
        effect: "listens beyond this machine without a token; never weakens one that is set",
        allowed: "`true` or `false`; also 1, yes, on, 0, no, off",
        set: |config, given| put(&mut config.allow_unauthenticated, boolean(given.text()?)),
        get: |config| config.allow_unauthenticated.to_string(),
        ..PLAIN
    },
    Key {
        path: "rate_limit.run",
        contract: Some("SANDBOX_RUN_RATE_LIMIT"),
        effect: "how often one client address may call `/run`",
        allowed: RATE,
        set: |config, given| put(&mut config.run_rate, rate(given.text()?)),
        get: |config| config.run_rate.map(|rate| rate.to_string()).unwrap_or_default(),
        ..PLAIN
    },
    Key {
        path: "rate_limit.preauth",
        contract: Some("SANDBOX_RUN_PREAUTH_RATE_LIMIT"),
        effect: "how often one client address may fail to show the token",
        allowed: RATE,
        set: |config, given| put(&mut config.preauth_rate, rate(given.text()?)),
        get: |config| config.preauth_rate.map(|rate| rate.to_string()).unwrap_or_default(),
        ..PLAIN
    },
    Key {
        path: "native.allow_missing",
        effect: "layers that may be missing on this machine; every answer then says so",
        allowed: "a list of `cgroup`, `landlock`, `proc`",
        set: |config, given| put(&mut config.allow_missing, given.list(|text| text.parse().ok())),
        get: |config| joined(&config.allow_missing),
        ..PLAIN
    },
    Key {
        path: "native.cells",
        effect: "empty sandboxes that wait for each template, for what was not made ready",
        allowed: "a whole number from 0 to 64",
        set: |config, given| {
            put(&mut config.cells, whole(given, 0..=64).and_then(|cells| cells.try_into().ok()))
        },
        get: |config| config.cells.to_string(),
        ..PLAIN
    },
    Key {
        path: "native.id_base",
        effect: "started as root: the first of the host ids that belong to Ampoule alone",
        allowed: "a whole number from 65536 to 4293914623",
        set: |config, given| {
            let base = given.text()?.parse().ok()?;
            (65_536..=4_293_914_623).contains(&base).then(|| config.id_base = base)
        },
        get: |config| config.id_base.to_string(),
        ..PLAIN
    },
    Key {
        path: "runtimes.dirs",
        effect: "folders with further runtimes, beside those in the data directory",
        allowed: "a list of directories",
        set: |config, given| put(&mut config.runtime_dirs, given.list(path)),
        get: |config| {
            joined(&config.runtime_dirs.iter().map(|path| path.display()).collect::<Vec<_>>())
        },
        ..PLAIN
    },
    Key {
        path: "base_images.python",
        contract: Some("SANDBOX_BASE_PYTHON_IMAGE"),
        effect: "another name that `base_image` of `/run` may have",
        allowed: "the name of an image",
        default: Some("`sandbox-base-python:latest`"),
        set: |config, given| put(&mut config.python_image, Some(Some(given.text()?.to_owned()))),
        get: |config| config.python_image.clone().unwrap_or_default(),
        ..PLAIN
    },
    Key {
        path: "base_images.nodejs",
        contract: Some("SANDBOX_BASE_NODEJS_IMAGE"),
        effect: "another name that `base_image` of `/run` may have",
        allowed: "the name of an image",
        default: Some("`sandbox-base-nodejs:latest`"),
        set: |config, given| put(&mut config.nodejs_image, Some(Some(given.text()?.to_owned()))),
        get: |config| config.nodejs_image.clone().unwrap_or_default(),
        ..PLAIN
    },
];
