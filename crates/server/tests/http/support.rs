//! A service with the fake behind it, and a client that does exactly what it is told.

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use ampoule_core::{Bounds, Provider, SelfTest};
use ampoule_manager::{Manager, ManagerConfig, PoolConfig};
use ampoule_providers::{
    memory::{Memory, MemoryConfig},
    runtimes::Catalogue,
};
use ampoule_server::{ServeError, Server, ServerConfig};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Far beyond what any of these tests takes; it only turns a hang into a failure.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What a test may set.
pub(crate) struct Setup {
    pub(crate) memory: MemoryConfig,
    pub(crate) manager: ManagerConfig,
    pub(crate) server: ServerConfig,
    pub(crate) self_test: Option<Arc<dyn SelfTest>>,
}

impl Default for Setup {
    fn default() -> Self {
        let manager = ManagerConfig {
            concurrency: NonZeroUsize::new(4).unwrap(),
            queue: 16,
            queue_deadline: LONG,
            bounds: Bounds { wall: Duration::from_secs(600), ..Bounds::default() },
            pool: PoolConfig::off(),
        };
        let examples = Catalogue::builtin()
            .iter()
            .map(|folder| (folder.language().clone(), folder.manifest.example.clone()))
            .collect();
        let server = ServerConfig { examples, ..ServerConfig::default() };
        Self { memory: MemoryConfig::default(), manager, server, self_test: None }
    }
}

/// A running service.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) memory: Arc<Memory>,
    pub(crate) manager: Manager,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Service {
    pub(crate) async fn start(setup: Setup) -> Self {
        let memory = Arc::new(Memory::new(setup.memory));
        let provider: Arc<dyn Provider> = memory.clone();
        let manager = Manager::new(provider, setup.manager);
        let server = Server::with_self_test(manager.clone(), setup.server, setup.self_test);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(
            listener,
            shutdown.clone().cancelled_owned(),
            std::future::pending(),
        ));
        Self { address, memory, manager, shutdown, serving }
    }

    /// A service of which the readiness runs are over, so that all runs are the test's.
    pub(crate) async fn ready(setup: Setup) -> Self {
        let service = Self::start(setup).await;
        while service.get("/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        service.manager.idle().await;
        service
    }

    pub(crate) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Waits for the end of the service, and checks that every sandbox was destroyed.
    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LONG, self.serving).await.expect("it ends").unwrap().unwrap();
        let census = self.memory.census();
        assert_eq!((census.live, census.running), (0, 0));
        assert_eq!(census.created, census.destroyed);
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        self.exchange(request.as_bytes()).await
    }

    /// Posts a body with one more header.
    pub(crate) async fn post_with(&self, header: &str, body: &[u8]) -> Answer {
        let request = post_request(body);
        let line = b"POST /run HTTP/1.1\r\n";
        let (line, rest) = request.split_at(line.len());
        self.exchange(&[line, header.as_bytes(), b"\r\n", rest].concat()).await
    }

    pub(crate) async fn post(&self, body: &[u8]) -> Answer {
        self.exchange(&post_request(body)).await
    }

    /// Runs a script as Python, without arguments.
    pub(crate) async fn run(&self, script: &Value) -> Value {
        let answer = self.post(run_body(script).to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }

    /// Sends bytes on a connection of their own and reads until it is closed.
    pub(crate) async fn exchange(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        Answer::read(&mut stream).await
    }
}

/// The body of `/run` for a script.
pub(crate) fn run_body(script: &Value) -> Value {
    json!({ "code_b64": STANDARD.encode(script.to_string()), "language": "python" })
}

pub(crate) fn post_request(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut request = format!(
        "POST /run HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("in time").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no answer: {text:?}")),
            head: head.to_ascii_lowercase(),
            text: body.to_owned(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}
