//! Connections: accepted, timed, and ended with grace.
//!
//! ```text
//! open --shutdown--> draining: no new connection; idle ones close, runs have their grace
//!                       --> the manager is shut down --> what is still open is cut --> over
//! ```

use std::{io, sync::Arc, time::Duration};

use ampoule_core::SelfTest;
use ampoule_manager::Manager;
use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    ServeError, ServerConfig,
    http::{Access, App, Peer, router},
    readiness::Readiness,
};

/// How long answers may still be written after the last run has ended.
const FAREWELL: Duration = Duration::from_secs(5);

/// The service.
#[derive(Clone, Debug)]
pub struct Server {
    app: App,
}

impl Server {
    /// A service over `manager`.
    pub fn new(manager: Manager, config: ServerConfig) -> Self {
        Self::with_self_test(manager, config, None)
    }

    /// The same, ready only when the provider's fences have been tried and have held.
    pub fn with_self_test(
        manager: Manager,
        config: ServerConfig,
        self_test: Option<Arc<dyn SelfTest>>,
    ) -> Self {
        let readiness = Arc::new(Readiness::new(&config, self_test));
        let access = Arc::new(Access::new(&config));
        Self { app: App { manager, config: Arc::new(config), readiness, access } }
    }

    /// The routes alone, without connections of their own and without readiness runs.
    pub fn router(&self) -> Router {
        router(self.app.clone())
    }

    /// Serves until `shutdown` ends; then lets what runs go on for the grace, or until `hurry` ends,
    /// cancels the rest, and shuts the manager and its provider down.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
        hurry: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr().map_err(ServeError::Listen)?;
        info!(%address, "listening");
        let connections = Connections::new(self.router(), &self.app.config);
        let App { manager, config, readiness, .. } = self.app;
        tokio::select! {
            biased;
            () = shutdown => {}
            () = readiness.watch(&manager, &config) => {}
            () = connections.accept(&listener) => {}
        }
        info!("shutting down");
        readiness.stop();
        drop(listener);
        let Connections { graceful, cut, .. } = connections;
        // Idle connections close at once, while runs still have their grace.
        let closed = tokio::spawn(graceful.shutdown());
        let down = manager.shutdown(config.grace);
        tokio::pin!(down);
        let down = tokio::select! {
            down = &mut down => down,
            () = hurry => {
                info!("asked again, cancelling what runs");
                manager.cancel();
                down.await
            }
        };
        let down = down.map_err(ServeError::Shutdown);
        if tokio::time::timeout(FAREWELL, closed).await.is_err() {
            warn!("some clients did not take their answers");
        }
        cut.cancel();
        info!("shut down");
        down
    }
}

/// The open connections.
struct Connections {
    /// One for each.
    permits: Arc<Semaphore>,
    router: Router,
    read_timeout: Duration,
    graceful: GracefulShutdown,
    /// Ends those that do not end by themselves.
    cut: CancellationToken,
}

impl Connections {
    fn new(router: Router, config: &ServerConfig) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(config.connections.clamp(1, Semaphore::MAX_PERMITS))),
            router,
            read_timeout: config.read_timeout,
            graceful: GracefulShutdown::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Takes connections for as long as it is polled.
    async fn accept(&self, listener: &TcpListener) {
        // Nobody closes the permits.
        while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, peer)) => self.serve(stream, Peer(peer.ip()), permit),
                Err(error) => {
                    // The client gave up, or we are out of descriptors: neither is a reason to end.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: Peer, permit: OwnedSemaphorePermit) {
        if let Err(error) = set_options(&stream, self.read_timeout) {
            debug!(%error, "socket options could not be set");
        }
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.read_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        let cut = self.cut.clone();
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        debug!(%error, "connection ended");
                    }
                }
                () = cut.cancelled() => {}
            }
        });
    }
}

/// Sets what makes small answers quick and stuck clients go away.
fn set_options(stream: &TcpStream, read_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A client that does not take its answer would keep it in memory for ever.
    let timeout = u32::try_from(read_timeout.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, timeout)?;
    Ok(())
}
