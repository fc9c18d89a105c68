//! `ampoule serve`: the HTTP service.
//!
//! ```text
//! environment -> listening socket -> provider (first phase) -> runtime -> provider (second phase)
//!     -> serve until SIGTERM or SIGINT -> grace -> nothing left -> exit
//! ```

use std::{net::TcpListener, sync::Arc, time::Duration};

use ampoule_core::{CancellationToken, ErrorKind, Limits, NetworkPolicy, Provider, SandboxSpec};
use ampoule_manager::{Manager, ManagerConfig};
use ampoule_providers::{gate, runtimes::Catalogue};
use ampoule_server::{Languages, Server, ServerConfig};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info};

use crate::{
    arguments::ServeArguments,
    environment::Environment,
    exit::{ExitCode, Failure},
    logging,
    provider::{Connected, Needs, Prepared},
};

/// Two threads: requests are parsed and events are moved here; programs run elsewhere.
const WORKERS: usize = 2;

/// How often the provider's health is looked at.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

/// Serves until a signal ends it.
pub(crate) fn serve(arguments: ServeArguments) -> Result<ExitCode, Failure> {
    logging::start("info", arguments.log_format)?;
    let environment = Environment(&|name| std::env::var_os(name));
    let settings = environment.serve()?;
    for name in &settings.not_applied {
        debug!(name, "a variable of RAGFlow's own side is not applied here");
    }
    let catalogue = Catalogue::builtin();
    let mut config = ServerConfig { grace: arguments.grace, ..ServerConfig::default() };
    config.languages = Languages::new(
        catalogue.iter().map(|folder| (folder.language().clone(), folder.manifest.aliases.clone())),
    );
    config.max_body = usize::try_from(arguments.max_body).unwrap_or(usize::MAX);
    config.limits.memory = settings.memory.unwrap_or(config.limits.memory);
    config.limits.wall = settings.timeout.unwrap_or(config.limits.wall);
    config.base_images.extend(settings.base_images);
    let mut manager = ManagerConfig::default();
    manager.concurrency = settings.pool_size.unwrap_or(manager.concurrency);

    let listener = listen(&arguments.listen)?;
    let needs =
        Needs { concurrency: manager.concurrency, only: None, probes: true, gives_up_root: true };
    let prepared = Prepared::new(&environment, &catalogue, &needs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Failure::platform(format!("failed to start the runtime: {error}")))?;
    runtime.block_on(async {
        let [first, second] = stop_signals()?;
        let Connected { provider, self_test } = prepared.connect().await?;
        let watched = Arc::clone(&provider);
        check_limits(&*provider, config.limits)?;
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|error| Failure::platform(format!("failed to listen: {error}")))?;
        let server = Server::with_self_test(Manager::new(provider, manager), config, self_test);
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

fn listen(address: &str) -> Result<TcpListener, Failure> {
    let listening = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listening.map_err(|error| {
        Failure::platform(format!(
            "failed to listen on `{address}`: {error}; hint: `--listen` or AMPOULE_LISTEN name another address"
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
fn check_limits(provider: &dyn Provider, limits: Limits) -> Result<(), Failure> {
    let capabilities = provider.capabilities();
    for language in &capabilities.languages {
        let spec = SandboxSpec { language: language.clone(), limits, network: NetworkPolicy::None };
        match gate::check(&capabilities, &spec) {
            Err(error) if error.kind() == ErrorKind::InvalidRequest => {
                let hint = "hint: SANDBOX_MAX_MEMORY and SANDBOX_TIMEOUT set the limits of a run";
                return Err(Failure::usage(format!("{}; {hint}", error.message())));
            }
            _ => {}
        }
    }
    Ok(())
}
