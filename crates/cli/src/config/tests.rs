//! The layers, and each way to get them wrong.

use std::fs;

use ampoule_core::{Bounds, Excess};
use tempfile::TempDir;

use super::*;
use crate::ExitCode;

/// A machine of the test's own, with a system file if there is text for one.
struct Machine {
    host: Host,
    directory: TempDir,
}

impl Machine {
    fn new(name: &str, file: Option<&str>) -> Self {
        let directory = tempfile::Builder::new().prefix(name).tempdir().unwrap();
        let system_file = directory.path().join("ampoule.toml");
        if let Some(text) = file {
            fs::write(&system_file, text).unwrap();
        }
        Self { host: Host { variables: Vec::new(), is_root: true, system_file }, directory }
    }

    fn with(mut self, variables: &[(&str, &str)]) -> Self {
        self.host
            .variables
            .extend(variables.iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    fn load(&self, flags: &[(&'static str, &str)]) -> Result<Config, Failure> {
        let flags = flags.iter().map(|(flag, value)| (*flag, (*value).to_owned())).collect();
        Config::load_on(&self.host, &Layers { file: None, flags })
    }

    /// What is said of a configuration that is refused, without the path of the file.
    fn refusal(&self, flags: &[(&'static str, &str)]) -> String {
        let failure = self.load(flags).unwrap_err();
        assert_eq!(failure.code, ExitCode::Usage);
        failure.message.replace(&self.host.system_file.display().to_string(), "FILE")
    }
}

fn refusal_of(name: &str, file: &str) -> String {
    Machine::new(name, Some(file)).refusal(&[])
}

#[test]
fn the_last_to_speak_wins_and_is_remembered() {
    let file =
        "[limits]\ntimeout = 20\nmemory = \"64m\"\ncpus = 0.5\n[limits.max]\ndisk = \"1g\"\n";
    let machine = Machine::new("layers", Some(file)).with(&[
        ("SANDBOX_TIMEOUT", "30s"),
        ("SANDBOX_MAX_MEMORY", "128m"),
        ("AMPOULE_LIMITS_MEMORY", "96m"),
        ("AMPOULE_LIMITS_DISK", ""),
    ]);
    let config = machine.load(&[("--timeout", "40s")]).unwrap();
    let told = |path: &str| {
        let (_, value, source) = config.told().find(|(key, ..)| key.path == path).unwrap();
        let source = source.to_string();
        (value, source.replace(&machine.host.system_file.display().to_string(), "FILE"))
    };
    let row = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(told("limits.timeout"), row("40s", "flag --timeout"));
    assert_eq!(told("limits.memory"), row("96m", "environment AMPOULE_LIMITS_MEMORY"));
    assert_eq!(told("limits.cpus"), row("0.5", "FILE:4"));
    assert_eq!(told("limits.max.disk"), row("1g", "FILE:6"));
    assert_eq!(told("limits.disk"), row("100m", "default"));
    assert_eq!(config.limits.wall, Duration::from_secs(40));
    assert_eq!(config.manager.bounds.disk, 1 << 30);
}

#[test]
fn the_contracts_variables_are_read() {
    let machine = Machine::new("contract", None).with(&[
        ("SANDBOX_EXECUTOR_MANAGER_POOL_SIZE", "5"),
        ("SANDBOX_MAX_MEMORY", "512M"),
        ("SANDBOX_TIMEOUT", "1m30s"),
        ("SANDBOX_BASE_PYTHON_IMAGE", "registry/python:1"),
        ("SANDBOX_EXECUTOR_MANAGER_API_TOKEN", " a-token\n"),
        ("SANDBOX_EXECUTOR_MANAGER_ALLOW_UNAUTHENTICATED", "Yes"),
        ("SANDBOX_RUN_RATE_LIMIT", "60/minute"),
        ("SANDBOX_RUN_PREAUTH_RATE_LIMIT", "none"),
    ]);
    let config = machine.load(&[]).unwrap();
    assert_eq!(config.manager.concurrency.get(), 5);
    assert_eq!(config.limits.memory, 512 << 20);
    assert_eq!(config.limits.wall, Duration::from_secs(90));
    assert_eq!(config.python_image.as_deref(), Some("registry/python:1"));
    assert_eq!(config.api_token, Some(Secret("a-token".to_owned())));
    assert!(config.allow_unauthenticated);
    assert_eq!(config.run_rate.unwrap().to_string(), "60/minute");
    assert_eq!(config.preauth_rate, None);
}

/// With any value at all, as RAGFlow's `.env` may hold it.
#[test]
fn names_of_ragflows_side_never_stop_anything() {
    let variables: Vec<_> = foreign::FOREIGN.iter().map(|it| (it.name, "\u{1F600} = !")).collect();
    let config = Machine::new("foreign", None).with(&variables).load(&[]).unwrap();
    let told: Vec<_> = config.origin.not_applied.iter().map(|foreign| foreign.name).collect();
    assert_eq!(told, variables.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    assert!(config.told().all(|(.., source)| *source == Source::Default));
    let set = |name| ("SANDBOX_SOMETHING_NEW", name);
    assert!(Machine::new("new", None).with(&[set("x")]).load(&[]).is_ok());
}

#[test]
fn every_key_reads_what_it_writes_from_every_layer() {
    let samples = |path: &str| match path {
        "listen" => "[::1]:80",
        "data_dir" | "auth.api_token_file" | "runtimes.dirs" => "/somewhere/else",
        "provider" => "native",
        "log" => "debug",
        "log_format" => "json",
        "max_body" | "limits.output" | "limits.max.output" => "2m",
        "limits.memory" | "limits.disk" | "pool.spare_memory" => "300m",
        "limits.max.memory" | "limits.max.disk" => "3g",
        "limits.cpus" | "limits.max.cpus" => "1.5",
        "limits.processes" | "limits.max.processes" => "77",
        "limits.on_output" => "stop",
        "queue.places" | "queue.size" => "7",
        "pool.ready" | "pool.most" | "pool.boots" | "native.cells" => "7",
        "profile" => "strict",
        "network.policy" => "none",
        "network.most" => "open",
        "network.allow" => "10.0.0.0/8, 192.168.1.5:5432",
        "auth.api_token" => "(set)",
        "auth.allow_unauthenticated" => "true",
        "rate_limit.run" | "rate_limit.preauth" => "5/second",
        "native.allow_missing" => "cgroup, proc",
        "native.id_base" => "70000",
        "base_images.python" | "base_images.nodejs" => "mine:1",
        _ => "17s",
    };
    for key in KEYS {
        let sample = samples(key.path);
        let file = format!("{} = \"{sample}\"", key.path);
        let variable = key.variable();
        let machines = [
            Machine::new("sample", Some(&file)),
            Machine::new("sample", None).with(&[(&variable, sample)]),
        ];
        for machine in machines {
            let config = machine.load(&[]).unwrap_or_else(|failure| panic!("{}", failure.message));
            assert_eq!(key.shown(&config), sample, "{}", key.path);
            assert_ne!(*config.source(key.path), Source::Default);
            let others = config.told().filter(|(other, ..)| other.path != key.path);
            assert!(others.into_iter().all(|(.., source)| *source == Source::Default));
        }
        if let Some(flag) = key.flag {
            let config = Machine::new("flag", None).load(&[(flag, sample)]).unwrap();
            assert_eq!(key.shown(&config), sample, "{flag}");
        }
    }
}

#[test]
fn unknown_keys_are_told_with_their_place_and_what_was_meant() {
    let rows = [
        (
            "listne = 1",
            "FILE:1:1: unknown key `listne`; hint: perhaps `listen`; known here are `listen`, `data_dir`",
        ),
        (
            "\n[limits]\n  timeot = 1",
            "FILE:3:3: unknown key `limits.timeot`; hint: perhaps `limits.timeout`; known here are `timeout`, `memory`",
        ),
        (
            "[limits.max]\noutptu = 1",
            "FILE:2:1: unknown key `limits.max.outptu`; hint: perhaps `limits.max.output`",
        ),
        ("[zoo]\nbear = 1", "FILE:1:2: unknown key `zoo`; hint: known here are `listen`"),
        ("queue = 5", "FILE:1:1: `queue` has keys, no value; hint: `places`, `size`, `deadline`"),
        ("[listen]\nport = 5", "FILE:1:2: `listen` has a value, no keys"),
        ("[[queue]]\nplaces = 5", "FILE:1:3: `queue` has keys, no value"),
        ("listen = 1979-05-27", "FILE:1:10: `listen` cannot have such a value; hint: a string"),
        ("listen = ", "FILE:1:"),
        ("listen = \"a\"\nlisten = \"b\"", "FILE:2:1: it is not TOML (duplicate key"),
    ];
    for (file, said) in rows {
        let refusal = refusal_of("unknown", file);
        assert!(refusal.starts_with(said), "{file:?}: {refusal}");
    }
}

#[test]
fn bad_values_say_where_they_are_and_what_is_allowed() {
    let rows = [
        (
            "[limits]\ntimeout = \"soon\"",
            "FILE:2:11: `limits.timeout` is `soon`; hint: a duration: `90s`",
        ),
        ("limits.memory = -1", "FILE:1:17: `limits.memory` is `-1`; hint: a size: `256m`"),
        ("limits.cpus = 0", "is `0`; hint: a number of CPUs"),
        ("limits.processes = 0", "hint: a whole number from 1"),
        ("limits.timeout = [1, 2]", "is `[1, 2]`; hint: a duration"),
        ("queue.places = 0", "hint: a whole number from 1 to 1024"),
        ("queue.places = 1025", "hint: a whole number from 1 to 1024"),
        ("queue.size = 1.5", "hint: a whole number from 0"),
        ("pool.most = 513", "hint: a whole number from 0 to 512"),
        ("pool.boots = 0", "hint: a whole number from 1 to 64"),
        ("profile = \"Fast\"", "hint: `fast`, or `strict`"),
        ("listen = 9385", "is `9385`; hint: an address with a port"),
        ("provider = \"cloud\"", "is `cloud`; hint: `native`"),
        ("log = \"==\"", "hint: a level such as `debug`"),
        ("network.policy = \"all\"", "hint: `none` or `open`"),
        ("network.allow = [\"intranet\"]", "is `[intranet]`; hint: a list of addresses"),
        (
            "native.allow_missing = [\"seccomp\"]",
            "is `[seccomp]`; hint: a list of `cgroup`, `landlock`, `proc`",
        ),
        ("native.id_base = 0", "hint: a whole number from 65536"),
        ("rate_limit.run = \"often\"", "is `often`; hint: a rate: `60/minute`"),
        ("auth.allow_unauthenticated = \"perhaps\"", "hint: `true` or `false`"),
        ("max_body = \"2g\"", "hint: a size from `1k` to `1g`"),
    ];
    for (file, said) in rows {
        let refusal = refusal_of("bad", file);
        assert!(refusal.starts_with("FILE:") && refusal.contains(said), "{file:?}: {refusal}");
    }
    for (name, value, said) in [
        (
            "SANDBOX_EXECUTOR_MANAGER_POOL_SIZE",
            "many",
            "is `many`; hint: a whole number from 1 to 1024",
        ),
        ("SANDBOX_MAX_MEMORY", "256x", "is `256x`; hint: a size"),
        ("SANDBOX_TIMEOUT", "soon", "is `soon`; hint: a duration"),
        ("SANDBOX_RUN_RATE_LIMIT", "60/fortnight", "is `60/fortnight`; hint: a rate"),
        ("AMPOULE_LOG", "==", "is `==`; hint: a level"),
    ] {
        let refusal = Machine::new("bad", None).with(&[(name, value)]).refusal(&[]);
        assert!(refusal.starts_with(&format!("{name} {said}")), "{refusal}");
    }
    let refusal = Machine::new("bad", None).refusal(&[("--grace", "x")]);
    assert!(refusal.starts_with("--grace is `x`; hint: a duration"), "{refusal}");
}

#[test]
fn impossible_configurations_are_refused() {
    let machine = Machine::new("above", Some("[limits]\nmax.timeout = \"1m\"\n"));
    let machine = machine.with(&[("SANDBOX_TIMEOUT", "2m")]);
    assert_eq!(
        machine.refusal(&[]),
        "`limits.timeout` is 2m (environment SANDBOX_TIMEOUT), and at most 1m is allowed by \
         `limits.max.timeout` (FILE:2); hint: ask for less, or let the operator raise `limits.max.timeout`"
    );
    let most = Some("limits.max.memory = \"1g\"\nnetwork.most = \"none\"");
    let refusal = Machine::new("flag", most).refusal(&[("--memory", "2g")]);
    assert!(
        refusal.starts_with("`limits.memory` is 2g (flag --memory), and at most 1g"),
        "{refusal}"
    );
    let refusal = Machine::new("open", most).refusal(&[("--network", "open")]);
    assert!(refusal.contains("at most none is allowed by `network.most` (FILE:2)"), "{refusal}");
    let refusal = Machine::new("cpus", None).refusal(&[("--cpus", "0.001")]);
    assert_eq!(
        refusal,
        "`limits.cpus` is 0.001 (flag --cpus), and at least 0.01 is allowed here; hint: ask for what is"
    );
    let both = "[auth]\napi_token = \"t\"\napi_token_file = \"/f\"";
    assert_eq!(
        refusal_of("both", both),
        "`auth.api_token` (FILE:2) and `auth.api_token_file` (FILE:3) are both set; hint: keep one"
    );
}

#[test]
fn what_the_provider_cannot_do_is_refused_with_its_reason() {
    let config = Machine::new("reason", None).load(&[("--network", "open")]).unwrap();
    let excess = Excess {
        field: "network",
        asked: "open".to_owned(),
        rule: "only",
        allowed: "none".to_owned(),
        why: Some("no network helper is installed; hint: install one".to_owned()),
    };
    assert_eq!(
        config.refuse(&excess, false).message,
        "`network.policy` is open (flag --network), and only none is allowed here; no network \
         helper is installed; hint: install one"
    );
}

#[test]
fn a_bound_that_nobody_sets_is_the_limit_itself() {
    let file = "[limits]\ncpus = 2\nmax.disk = \"1g\"\n";
    let variables = [("SANDBOX_MAX_MEMORY", "512m"), ("AMPOULE_LIMITS_CPU_TIME", "5s")];
    let machine = Machine::new("unset", Some(file)).with(&variables);
    let flags = [("--timeout", "5m"), ("--network", "open")];
    let config = machine.load(&flags).unwrap();
    let bounds =
        Bounds { disk: 1 << 30, ..Bounds::of(&config.limits, NetworkPolicy::Open, Profile::Fast) };
    assert_eq!(config.manager.bounds, bounds);
    assert_eq!((bounds.memory, bounds.wall), (512 << 20, Duration::from_secs(300)));
    assert_eq!((bounds.millicpus, bounds.cpu), (2000, Some(Duration::from_secs(5))));
    assert_eq!(*config.source("limits.max.memory"), Source::Default);
    let config = Machine::new("nothing", None).load(&[]).unwrap();
    assert_eq!(config.manager.bounds, Bounds::default());
    assert_eq!(config.manager.bounds.cpu, None, "no limit of CPU time, and no bound of it");
    let free = [("AMPOULE_LIMITS_CPU_TIME", "5s"), ("AMPOULE_LIMITS_MAX_CPU_TIME", "none")];
    let config = Machine::new("free", None).with(&free).load(&[]).unwrap();
    assert_eq!(config.manager.bounds.cpu, None);
}

#[test]
fn the_later_of_two_ways_to_give_a_token_wins() {
    let in_file = "[auth]\napi_token_file = \"/secret\"";
    let variable = [("AMPOULE_AUTH_API_TOKEN", "a-token")];
    let config = Machine::new("token-later", Some(in_file)).with(&variable).load(&[]).unwrap();
    assert_eq!(config.api_token, Some(Secret("a-token".to_owned())));
    assert_eq!(config.api_token_file, None);
    assert_eq!(*config.source("auth.api_token_file"), Source::Default);
    let in_file = "[auth]\napi_token = \"a-token\"";
    let variable = [("AMPOULE_AUTH_API_TOKEN_FILE", "/secret")];
    let config = Machine::new("file-later", Some(in_file)).with(&variable).load(&[]).unwrap();
    assert_eq!(config.api_token, None);
    assert_eq!(config.api_token_file, Some("/secret".into()));
    // Nothing but blanks is no token, and takes nothing's place.
    let blank = [("AMPOULE_AUTH_API_TOKEN_FILE", "/secret"), ("AMPOULE_AUTH_API_TOKEN", " ")];
    let config = Machine::new("blank-beside", None).with(&blank).load(&[]).unwrap();
    assert_eq!(config.api_token_file, Some("/secret".into()));
}

#[test]
fn tokens_are_shown_nowhere() {
    let bad = Machine::new("bad-token", Some("auth.api_token = \"hid den\"")).refusal(&[]);
    assert_eq!(
        bad,
        "FILE:1:18: `auth.api_token` is malformed; hint: printable ASCII without spaces"
    );
    let variables = [("SANDBOX_EXECUTOR_MANAGER_API_TOKEN", "hidden-token")];
    let config = Machine::new("token", None).with(&variables).load(&[]).unwrap();
    let told: String =
        config.told().map(|(_, value, source)| format!("{value} {source}\n")).collect();
    let shown = format!("{config:?} {told} {:?}", config.token().unwrap());
    assert!(!shown.contains("hidden-token"), "{shown}");
    assert!(told.contains("(set) environment SANDBOX_EXECUTOR_MANAGER_API_TOKEN"), "{told}");
    let blank = [("SANDBOX_EXECUTOR_MANAGER_API_TOKEN", "  ")];
    let config = Machine::new("blank", None).with(&blank).load(&[]).unwrap();
    assert!(config.token().unwrap().is_none(), "nothing but blanks is no token");
}

#[test]
fn a_token_may_be_in_a_file() {
    let machine = Machine::new("token-file", None);
    let path = machine.directory.path().join("token");
    fs::write(&path, "a-token\n").unwrap();
    let machine = machine.with(&[("AMPOULE_AUTH_API_TOKEN_FILE", path.to_str().unwrap())]);
    let config = machine.load(&[]).unwrap();
    assert!(config.token().unwrap().is_some());
    for (content, said) in [
        (Some(" \n"), "holds no token"),
        (Some("a b"), "holds no token"),
        (None, "failed to read the token"),
    ] {
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let message = config.token().unwrap_err().message;
        assert!(
            message.contains(said) && message.contains("AMPOULE_AUTH_API_TOKEN_FILE"),
            "{message}"
        );
    }
}

#[test]
fn the_file_is_the_named_one_else_the_users_else_the_systems() {
    let mut machine = Machine::new("find", Some("listen = \"127.0.0.1:1\""));
    let home = machine.directory.path().join("home");
    let own = home.join(".config/ampoule/ampoule.toml");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "listen = \"127.0.0.1:2\"").unwrap();
    let named = machine.directory.path().join("named.toml");
    fs::write(&named, "listen = \"127.0.0.1:3\"").unwrap();
    machine = machine.with(&[("HOME", home.to_str().unwrap())]);
    assert_eq!(machine.load(&[]).unwrap().listen, "127.0.0.1:1", "root looks into no home");
    machine.host.is_root = false;
    assert_eq!(machine.load(&[]).unwrap().listen, "127.0.0.1:2");
    machine = machine.with(&[("AMPOULE_CONFIG", named.to_str().unwrap())]);
    assert_eq!(machine.load(&[]).unwrap().listen, "127.0.0.1:3");
    let missing = machine.directory.path().join("missing.toml");
    let layers = Layers { file: Some(missing.clone()), flags: Vec::new() };
    let message = Config::load_on(&machine.host, &layers).unwrap_err().message;
    assert!(
        message.contains(missing.to_str().unwrap()) && message.contains("--config"),
        "{message}"
    );
}

#[test]
fn variables_that_look_like_ours_are_told_and_no_error() {
    let config = Machine::new("alike", None)
        .with(&[
            ("AMPOULE_LISTN", "x"),
            ("AMPOULE_MENAGERIE", "x"),
            ("AMPOULE_PYTHON_BIN", "/usr/bin/python3"),
            ("AMPOULE_PYTHN_BIN", "/usr/bin/python3"),
            ("AMPOULE_SERVICE_HOST", "10.0.0.1"),
            ("AMPOULE_PORT_9385_TCP", "tcp://10.0.0.1:9385"),
        ])
        .load(&[])
        .unwrap();
    assert_eq!(
        config.origin.unknown,
        [
            "AMPOULE_LISTN is no variable of ours; hint: perhaps AMPOULE_LISTEN",
            "AMPOULE_MENAGERIE is no variable of ours; hint: `ampoule config` lists the keys",
            "AMPOULE_PYTHN_BIN is no variable of ours; hint: perhaps AMPOULE_PYTHON_BIN",
        ]
    );
}
