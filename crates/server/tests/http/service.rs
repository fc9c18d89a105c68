//! The life of the service: health, readiness, load, clients that go away, and the end.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ampoule_core::{Crossing, Error, ErrorKind, FenceProof, Language, Layer, SelfTest};
use ampoule_manager::{ManagerConfig, PoolConfig};
use ampoule_providers::memory::{MemoryConfig, Script};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Answer, LONG, Service, Setup, post_request, run_body};

fn hang() -> Vec<u8> {
    post_request(run_body(&json!([{"stdout": "began"}, "hang"])).to_string().as_bytes())
}

/// One place, and so many that may wait for it; runs that hang do it for long.
fn narrow(queue: usize) -> Setup {
    let mut setup = Setup::default();
    setup.manager.concurrency = NonZeroUsize::MIN;
    setup.manager.queue = queue;
    setup.server.limits.wall = Duration::from_secs(600);
    setup
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_run() {
    let service = Service::ready(narrow(16)).await;
    let mut stream = service.connect().await;
    stream.write_all(&hang()).await.unwrap();
    service.memory.until(|census| census.running == 1).await;
    drop(stream);
    tokio::time::timeout(LONG, service.memory.until(|census| census.live == 0)).await.unwrap();
    // Its place is free again.
    assert_eq!(service.run(&json!([{"value": 1}])).await["status"], "success");
    service.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_the_queue() {
    let service = Service::ready(narrow(16)).await;
    let mut running = service.connect().await;
    running.write_all(&hang()).await.unwrap();
    service.memory.until(|census| census.running == 1).await;
    let mut waiting = service.connect().await;
    waiting.write_all(&hang()).await.unwrap();
    until_waiting(&service, 1).await;
    drop(waiting);
    until_waiting(&service, 0).await;
    assert_eq!(service.manager.load().running, 1);
    service.end_cancelling().await;
}

async fn until_waiting(service: &Service, count: usize) {
    let waits = async {
        while service.manager.load().waiting != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, waits).await.expect("the queue changes");
}

impl Service {
    /// Ends a service whose runs would outlast the grace.
    async fn end_cancelling(self) {
        self.manager.shutdown(Duration::ZERO).await.unwrap();
        self.end().await;
    }
}

#[tokio::test]
async fn a_full_queue_is_a_busy_pool() {
    let service = Service::ready(narrow(0)).await;
    let mut running = service.connect().await;
    running.write_all(&hang()).await.unwrap();
    service.memory.until(|census| census.running == 1).await;
    let answer = service.run(&json!([{"value": 1}])).await;
    assert_eq!(answer["status"], "program_runner_error");
    assert_eq!(answer["exit_code"], -10);
    assert_eq!(answer["stderr"], "Container pool is busy");
    assert_eq!(answer["detail"], "no_available_container");
    assert_eq!(answer["runtime_error_type"], "no_available_container");
    assert_eq!(answer["result"], Value::Null);
    service.end_cancelling().await;
}

#[tokio::test]
async fn the_queue_has_a_deadline_on_the_wire_too() {
    let mut setup = narrow(16);
    setup.manager.queue_deadline = Duration::from_millis(20);
    let service = Service::ready(setup).await;
    let mut running = service.connect().await;
    running.write_all(&hang()).await.unwrap();
    service.memory.until(|census| census.running == 1).await;
    assert_eq!(service.run(&json!([{"value": 1}])).await["exit_code"], -10);
    service.end_cancelling().await;
}

#[tokio::test]
async fn health_is_answered_under_full_load() {
    let service = Service::ready(narrow(64)).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = service.connect().await;
        stream.write_all(&hang()).await.unwrap();
        streams.push(stream);
    }
    until_waiting(&service, 49).await;
    for path in ["/", "/healthz", "/livez"] {
        // RAGFlow's client waits for five seconds.
        let answer = tokio::time::timeout(Duration::from_secs(5), service.get(path)).await.unwrap();
        assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"status":"ok"}"#));
    }
    drop(streams);
    service.end_cancelling().await;
}

#[tokio::test]
async fn many_requests_on_one_connection_are_served_in_turn() {
    let service = Service::ready(Setup::default()).await;
    let body = run_body(&json!([{"value": 1}])).to_string();
    let request =
        format!("POST /run HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = service.connect().await;
    for _ in 0..20 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["status"], "success");
    }
    drop(stream);
    service.end().await;
}

#[tokio::test]
async fn readiness_waits_for_a_real_run_of_each_language() {
    let failures = Arc::new(AtomicUsize::new(3));
    let left = Arc::clone(&failures);
    let memory = MemoryConfig {
        behaviour: Arc::new(move |request| {
            let fails = request.language == Language::new("javascript")
                && left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                    .is_ok();
            let script = if fails { r#"[{"exit": 7}]"# } else { r#"["arguments"]"# };
            Ok(serde_json::from_str::<Script>(script).unwrap())
        }),
        ..MemoryConfig::default()
    };
    let mut setup = Setup { memory, ..Setup::default() };
    setup.server.readiness_retry = Duration::from_millis(100);
    let service = Service::start(setup).await;
    service.memory.until(|census| census.destroyed >= 2).await;
    let reason = "the program exited with code 7 before main returned";
    let mut seen = Vec::new();
    loop {
        let answer = service.get("/readyz").await;
        if answer.status == 200 {
            assert_eq!(answer.json(), json!({"status": "ready"}));
            break;
        }
        assert_eq!(answer.status, 503);
        seen.push(answer.json()["not_ready"].clone());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(seen.contains(&json!([{"name": "javascript", "reason": reason}])), "{seen:?}");
    assert_eq!(failures.load(Ordering::SeqCst), 0);
    service.end().await;
}

/// Fences of which one does not hold for the first times that it is tried.
#[derive(Debug)]
struct Leaky(AtomicUsize);

#[async_trait::async_trait]
impl SelfTest for Leaky {
    async fn prove(&self) -> Vec<FenceProof> {
        let leaks = self
            .0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        let held = Crossing::Stopped { by: "EPERM".to_owned() };
        let crossing =
            if leaks { Crossing::Crossed { how: "it got out".to_owned() } } else { held.clone() };
        vec![
            FenceProof { layer: Layer::Seccomp, crossing: held },
            FenceProof { layer: Layer::Landlock, crossing },
        ]
    }
}

#[tokio::test]
async fn readiness_waits_for_every_fence_and_names_the_one_that_does_not_hold() {
    let mut setup =
        Setup { self_test: Some(Arc::new(Leaky(AtomicUsize::new(2)))), ..Setup::default() };
    setup.server.readiness_retry = Duration::from_millis(100);
    let service = Service::start(setup).await;
    let reason = "landlock is not enforced: it got out";
    let mut seen = Vec::new();
    loop {
        let answer = service.get("/readyz").await;
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 503);
        seen.push(answer.json()["not_ready"].clone());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(seen.contains(&json!([{"name": "fences", "reason": reason}])), "{seen:?}");
    service.end().await;
}

#[tokio::test]
async fn an_unhealthy_provider_is_not_ready_but_alive() {
    let memory = MemoryConfig {
        on_health: Some(Arc::new(|| {
            Err(Error::new(ErrorKind::Unavailable, "check the provider", "the back-end is away"))
        })),
        ..MemoryConfig::default()
    };
    let service = Service::start(Setup { memory, ..Setup::default() }).await;
    let expected = json!({"name": "provider", "reason": "the back-end is away"});
    loop {
        let answer = service.get("/readyz").await;
        assert_eq!(answer.status, 503);
        if answer.json()["not_ready"].as_array().unwrap().contains(&expected) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(service.get("/healthz").await.status, 200);
    assert_eq!(service.memory.census().created, 0);
    service.end().await;
}

#[tokio::test]
async fn a_language_that_the_provider_lacks_is_not_ready_and_no_5xx() {
    let mut memory = MemoryConfig::default();
    memory.capabilities.languages = vec![Language::new("python")];
    let service = Service::start(Setup { memory, ..Setup::default() }).await;
    service.memory.until(|census| census.destroyed == 1).await;
    let answer = loop {
        let answer = service.get("/readyz").await.json();
        if answer["not_ready"].as_array().unwrap().len() == 1
            && answer["not_ready"][0]["reason"] != "not tried yet"
        {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!(answer["not_ready"][0]["name"], "javascript");
    let answer = service.post(br#"{"code_b64": "eA==", "language": "nodejs"}"#).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["exit_code"], -3);
    assert!(answer.json()["stderr"].as_str().unwrap().contains("language `javascript`"));
    service.end().await;
}

#[tokio::test]
async fn shutdown_lets_a_run_finish_and_its_answer_arrive() {
    let mut setup = narrow(16);
    setup.server.grace = LONG;
    let service = Service::ready(setup).await;
    let mut running = service.connect().await;
    let script = json!([{"sleep_ms": 300}, {"value": "done"}]);
    running.write_all(&post_request(run_body(&script).to_string().as_bytes())).await.unwrap();
    service.memory.until(|census| census.running == 1).await;
    let mut waiting = service.connect().await;
    waiting.write_all(&hang()).await.unwrap();
    until_waiting(&service, 1).await;
    let idle = service.connect().await;
    service.begin_shutdown();
    let (running, waiting) = tokio::join!(Answer::read(&mut running), Answer::read(&mut waiting));
    assert_eq!(running.json()["result"]["value"], "done");
    let refused = waiting.json();
    assert_eq!((waiting.status, &refused["exit_code"]), (200, &json!(-3)));
    assert!(refused["stderr"].as_str().unwrap().contains("shutting down"));
    let address = service.address;
    service.end().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop(idle);
}

#[tokio::test]
async fn shutdown_cancels_what_outlasts_the_grace() {
    let mut setup = narrow(16);
    setup.server.grace = Duration::from_millis(50);
    let service = Service::ready(setup).await;
    let mut running = service.connect().await;
    running.write_all(&hang()).await.unwrap();
    service.memory.until(|census| census.running == 1).await;
    service.begin_shutdown();
    let answer = Answer::read(&mut running).await.json();
    assert_eq!(answer["status"], "program_runner_error");
    assert_eq!(answer["exit_code"], -3);
    assert_eq!(answer["detail"], "internal_error");
    assert_eq!(answer["partial_stdout"], "began");
    service.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_keep_the_service_from_ending() {
    let service = Service::ready(Setup::default()).await;
    let script = json!([{"artifact_of_size": ["a.json", 10485760]}, {"artifact_of_size": ["b.json", 10485760]}, {"value": 1}]);
    let mut stuck = service.connect().await;
    stuck.write_all(&post_request(run_body(&script).to_string().as_bytes())).await.unwrap();
    service.memory.until(|census| census.destroyed == 3).await;
    service.end().await;
    drop(stuck);
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut() {
    let mut setup = Setup::default();
    setup.server.read_timeout = Duration::from_millis(300);
    let service = Service::ready(setup).await;
    let script = json!([{"artifact_of_size": ["a.json", 10485760]}, {"value": 1}]);
    let mut stuck = service.connect().await;
    stuck.write_all(&post_request(run_body(&script).to_string().as_bytes())).await.unwrap();
    let cut = async {
        // Only a connection that the other side has given up answers this with an error.
        while stuck.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, cut).await.expect("the connection is reset");
    service.end().await;
}

#[tokio::test]
async fn a_panic_of_the_provider_ends_neither_service_nor_readiness() {
    let asked = Arc::new(AtomicUsize::new(0));
    let memory = MemoryConfig {
        on_health: Some(Arc::new(move || {
            assert!(asked.fetch_add(1, Ordering::SeqCst) > 0, "the first question panics");
            Ok(())
        })),
        ..MemoryConfig::default()
    };
    let mut setup = Setup { memory, ..Setup::default() };
    setup.server.readiness_retry = Duration::from_millis(1);
    let service = Service::ready(setup).await;
    service.end().await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_and_are_answered() {
    let mut setup = narrow(16);
    setup.server.connections = 2;
    let service = Service::ready(setup).await;
    let idle = [service.connect().await, service.connect().await];
    let mut answer = Box::pin(service.get("/healthz"));
    let early = tokio::time::timeout(Duration::from_millis(100), answer.as_mut()).await;
    assert!(early.is_err(), "both are taken");
    drop(idle);
    assert_eq!(answer.await.status, 200);
    service.end().await;
}

/// A thousand programs sent at once are all answered by default.
#[tokio::test]
async fn a_thousand_at_once_are_all_answered() {
    let mut setup = narrow(ManagerConfig::default().queue);
    setup.manager.concurrency = NonZeroUsize::new(2).unwrap();
    setup.manager.pool = PoolConfig::default();
    let service = Service::ready(setup).await;
    // This process holds both ends of each connection, so that they come in some waves.
    for _ in 0..5 {
        let service = &service;
        let answers = (0..200)
            .map(|number| async move { (number, service.run(&json!([{"value": number}])).await) });
        for (number, answer) in futures_util::future::join_all(answers).await {
            assert_eq!(answer["result"]["value"], number, "{answer}");
        }
    }
    service.end().await;
}
