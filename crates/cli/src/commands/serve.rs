//! `ampoule serve`: the HTTP service.
//!
//! ```text
//! configuration -> listening socket -> data directory -> provider (first phase) -> runtime
//!     -> provider (second phase) -> serve until SIGTERM or SIGINT -> grace -> nothing left -> exit
//! ```

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use ampoule_core::{
    CancellationToken, Capabilities, Language, NetworkPolicy, Provider, SandboxSpec, format_bytes,
};
use ampoule_manager::Manager;
use ampoule_providers::{gate, runtimes::Catalogue};
use ampoule_server::{Languages, Server, ServerConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info, warn};

use crate::{
    config::{Config, Layers, ProviderType},
    data_dir::DataDirClaim,
    exit::{ExitCode, Failure},
    logging,
    provider::{Connected, Needs, Prepared, Slots, catalogue},
};

/// Requests are parsed and events are moved by few threads: each word from one to the other is a wait
/// for a CPU. Programs run elsewhere, and where there are two CPUs they have the other.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| (cpus.get() / 2).clamp(1, 4))
}

/// Descriptors of one sandbox: four pipes and the listener, and an artifact that is being read.
const OF_A_SANDBOX: usize = 6;

/// Descriptors of everything else.
const OF_OURS: usize = 64;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// How often the provider's health is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

/// Serves until a signal ends it.
pub(crate) fn serve(layers: &Layers) -> Result<ExitCode, Failure> {
    let config = Config::load(layers)?;
    logging::start(config.log.as_deref().unwrap_or("info"), config.log_format)?;
    for foreign in &config.origin.not_applied {
        debug!(name = foreign.name, "a variable of RAGFlow's own side is not applied here");
    }
    for problem in &config.origin.unknown {
        warn!("{problem}");
    }
    let catalogue = catalogue(&config)?;
    let server_config = server_config(&config, &catalogue)?;
    let addresses = preconditions(&config, &catalogue)?;
    let listener = listen(&config.listen, &addresses)?;
    let _claim = DataDirClaim::new(&config.data_dir)?;
    let needs =
        Needs { slots: Slots::of(&config), only: None, probes: true, gives_up_rights: true };
    let prepared = Prepared::new(&config, &catalogue, &needs)?;
    // What was started keeps the limit that it came with.
    let server_config = ServerConfig {
        connections: connections(raise_descriptor_limit(), Slots::of(&config)),
        ..server_config
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
        .map_err(|error| Failure::platform(format!("failed to start the runtime: {error}")))?;
    runtime.block_on(async {
        let [first, second] = stop_signals()?;
        let Connected { provider, self_test } = prepared.connect().await?;
        let watched = Arc::clone(&provider);
        check_limits(&*provider, &config)?;
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|error| Failure::platform(format!("failed to listen: {error}")))?;
        let manager = Manager::new(provider, config.manager);
        manager.warm_up(kinds(&watched.capabilities(), &config));
        let server = Server::with_self_test(manager, server_config, self_test);
        let mut lost = None;
        let until = async {
            tokio::select! {
                () = first.cancelled() => {}
                reason = provider_lost(&*watched) => lost = Some(reason),
            }
        };
        server.serve(listener, until, second.cancelled()).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Failure::platform(format!("{error}{}", cause.unwrap_or_default()))
        })?;
        match lost {
            None => Ok(ExitCode::Success),
            // Whoever watches over this service starts it again; going on would answer nothing.
            Some(reason) => Err(Failure::platform(reason)),
        }
    })
}

/// What is kept ready for requests that say nothing of it: each language, and each of its templates.
fn kinds(capabilities: &Capabilities, config: &Config) -> Vec<SandboxSpec> {
    let of = |language: &Language, template| SandboxSpec {
        template,
        network: NetworkPolicy::None,
        ..config.spec(language.clone())
    };
    let bare = capabilities.languages.iter().map(|language| of(language, None));
    let others = capabilities.templates.iter();
    let others = others.map(|hint| of(&hint.language, Some(hint.template.clone())));
    bare.chain(others).collect()
}

/// Lets this process have as many descriptors as it may; says how many.
fn raise_descriptor_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = raised {
        debug!(%error, "the limit of descriptors could not be raised");
    }
    let limit = if raised.is_ok() { maximum } else { current };
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// The connections for which there are descriptors, beside those of sandboxes. Half are for
/// connections in any case: not all sandboxes that can exist do.
fn connections(descriptors: usize, slots: Slots) -> usize {
    let of_sandboxes = slots.most().saturating_mul(OF_A_SANDBOX).saturating_add(OF_OURS);
    let most = ServerConfig::default().connections;
    descriptors.saturating_sub(of_sandboxes).max(descriptors / 2).min(most)
}

/// What the configuration alone decides: where to listen, or why there can be no service.
pub(crate) fn preconditions(
    config: &Config,
    catalogue: &Catalogue,
) -> Result<Vec<SocketAddr>, Failure> {
    let addresses = addresses(config)?;
    if config.provider == ProviderType::Native {
        let least = catalogue
            .iter()
            .map(|folder| (folder.language().clone(), folder.manifest.least_memory()));
        check_memory(config, &least.collect())?;
    }
    Ok(addresses)
}

/// Ends when the provider can never run anything again. A launcher that is being replaced is up
/// again by the second look.
async fn provider_lost(provider: &dyn Provider) -> String {
    let mut looks = 0;
    loop {
        tokio::time::sleep(HEALTH_INTERVAL).await;
        match provider.health().await {
            Ok(()) => looks = 0,
            Err(error) => {
                looks += 1;
                if looks == 2 {
                    return error.chain();
                }
            }
        }
    }
}

/// What the doors are told.
fn server_config(config: &Config, catalogue: &Catalogue) -> Result<ServerConfig, Failure> {
    let defaults = ServerConfig::default();
    let images = [&config.python_image, &config.nodejs_image].into_iter().flatten().cloned();
    Ok(ServerConfig {
        limits: config.limits,
        network: config.network,
        profile: config.profile,
        token: config.token()?,
        run_rate: config.run_rate,
        preauth_rate: config.preauth_rate,
        languages: Languages::new(
            catalogue
                .iter()
                .map(|folder| (folder.language().clone(), folder.manifest.aliases.clone())),
        ),
        examples: catalogue
            .iter()
            .map(|folder| (folder.language().clone(), folder.manifest.example.clone()))
            .collect(),
        base_images: defaults.base_images.iter().cloned().chain(images).collect(),
        max_body: usize::try_from(config.max_body).unwrap_or(usize::MAX),
        grace: config.grace,
        ..defaults
    })
}

/// The addresses to listen on. Beyond this machine only with a token, or with the word of the operator
/// that none is wanted.
fn addresses(config: &Config) -> Result<Vec<SocketAddr>, Failure> {
    let listen = &config.listen;
    let found = listen.to_socket_addrs().map_err(|error| {
        let hint = "hint: an address with a port, as in `127.0.0.1:9385`";
        Failure::usage(format!(
            "failed to find the address `{listen}` to listen on: {error}; {hint}"
        ))
    })?;
    let addresses: Vec<SocketAddr> = found.collect();
    let is_beyond = addresses.iter().any(|address| !address.ip().to_canonical().is_loopback());
    let has_token = config.api_token.is_some() || config.api_token_file.is_some();
    if is_beyond && !has_token {
        if !config.allow_unauthenticated {
            return Err(Failure::usage(format!(
                "listening on `{listen}`, beyond this machine, needs a token; hint: set \
                 SANDBOX_EXECUTOR_MANAGER_API_TOKEN (or `auth.api_token_file`) here and the same token \
                 in RAGFlow; or listen on 127.0.0.1; or accept that whoever reaches the port runs \
                 programs, with SANDBOX_EXECUTOR_MANAGER_ALLOW_UNAUTHENTICATED=true"
            )));
        }
        warn!(%listen, "whoever reaches this address runs programs: there is no token");
    }
    Ok(addresses)
}

fn listen(shown: &str, addresses: &[SocketAddr]) -> Result<TcpListener, Failure> {
    let listening = TcpListener::bind(addresses).and_then(|listener| {
        listener.set_nonblocking(true)?;
        // Many connections at once wait here rather than be turned away. The kernel cuts it to
        // what it allows.
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(listener)
    });
    listening.map_err(|error| {
        Failure::usage(format!(
            "failed to listen on `{shown}`: {error}; hint: `--listen` or AMPOULE_LISTEN name another address"
        ))
    })
}

/// Ends at the first signal to stop, and at the second.
fn stop_signals() -> Result<[CancellationToken; 2], Failure> {
    let watch = |kind| {
        signal(kind).map_err(|error| Failure::platform(format!("failed to watch signals: {error}")))
    };
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let tokens = [CancellationToken::new(), CancellationToken::new()];
    let told = tokens.clone();
    tokio::spawn(async move {
        for token in told {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = name, "a signal asks to stop");
            token.cancel();
        }
    });
    Ok(tokens)
}

/// Refuses limits that no run could ever have, before the first request meets them.
fn check_limits(provider: &dyn Provider, config: &Config) -> Result<(), Failure> {
    let capabilities = provider.capabilities();
    check_memory(config, &capabilities.min_memory)?;
    for language in &capabilities.languages {
        let least = capabilities.least_memory(language);
        if config.limits.memory < least {
            warn!("{}", too_little_memory(config, language, least));
            continue;
        }
        if let Some(excess) = gate::excesses(&capabilities, &config.spec(language.clone())).first()
        {
            return Err(config.refuse(excess, false));
        }
    }
    Ok(())
}

/// Refuses a memory that no language starts with. Of several those that do are served, and readiness
/// tells of the rest.
fn check_memory(config: &Config, least: &BTreeMap<Language, u64>) -> Result<(), Failure> {
    match least.iter().min_by_key(|(_, least)| **least) {
        Some((language, least)) if config.limits.memory < *least => {
            Err(Failure::usage(too_little_memory(config, language, *least)))
        }
        _ => Ok(()),
    }
}

fn too_little_memory(config: &Config, language: &Language, least: u64) -> String {
    let (memory, source) = (format_bytes(config.limits.memory), config.source("limits.memory"));
    let least = format_bytes(least);
    format!(
        "`limits.memory` is {memory} ({source}), and at least {least} is needed for `{language}`; \
         hint: set it to {least} or more"
    )
}
