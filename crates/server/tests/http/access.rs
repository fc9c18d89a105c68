//! The token and the rate limits, over the wire.

use ampoule_core::{Error, ErrorKind};
use ampoule_providers::memory::MemoryConfig;
use ampoule_server::{ApiToken, ServerConfig};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::support::{Answer, Service, Setup, post_request, run_body};

const TOKEN: &str = "a-token-of-the-test";

/// A service whose callers must show the token.
fn closed(change: impl FnOnce(&mut ServerConfig)) -> Setup {
    let mut setup = Setup::default();
    setup.server.token = Some(ApiToken::new(TOKEN));
    change(&mut setup.server);
    setup
}

fn body() -> Vec<u8> {
    run_body(&json!([{"value": 1}])).to_string().into()
}

async fn with_token(service: &Service) -> Answer {
    service.post_with(&format!("authorization: Bearer {TOKEN}"), &body()).await
}

fn assert_unauthorized(answer: &Answer) {
    assert_eq!(answer.status, 401, "{}", answer.text);
    assert_eq!(answer.text, r#"{"detail":"Missing or invalid sandbox executor API token"}"#);
    assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
}

fn assert_too_many(answer: &Answer, retry_after: &str) {
    assert_eq!(answer.status, 429, "{}", answer.text);
    let result = answer.json();
    assert_eq!(result["status"], "program_runner_error");
    assert_eq!(result["exit_code"], -429);
    for field in ["stderr", "detail"] {
        assert_eq!(result[field], "Too many requests, please try again later");
    }
    assert_eq!(result["runtime_error_type"], "too_many_requests");
    assert_eq!((&result["stdout"], &result["artifacts"]), (&json!(""), &json!([])));
    assert_eq!(result["result"], Value::Null);
    let head = &answer.head;
    assert!(head.contains("connection: close"), "{head}");
    assert!(head.contains(&format!("retry-after: {retry_after}\r\n")), "{head}");
}

#[tokio::test]
async fn a_run_needs_the_token_and_health_does_not() {
    let service = Service::ready(closed(|_| {})).await;
    assert_unauthorized(&service.post(&body()).await);
    for wrong in [
        "authorization: Bearer wrong",
        "authorization: Basic YTpi",
        "x-sandbox-token: wrong",
        "authorization: Bearer",
    ] {
        assert_unauthorized(&service.post_with(wrong, &body()).await);
    }
    // What it is does not matter: a route that does not exist is closed too.
    assert_unauthorized(&service.get("/run").await);
    assert_unauthorized(&service.get("/nowhere").await);
    assert_eq!(service.memory.census().created, 2, "only the readiness runs");
    assert_eq!(with_token(&service).await.json()["status"], "success");
    let answer = service.post_with(&format!("X-Sandbox-Token: {TOKEN}"), &body()).await;
    assert_eq!(answer.json()["status"], "success");
    for path in ["/", "/healthz", "/livez", "/readyz"] {
        assert_eq!(service.get(path).await.status, 200, "{path}");
    }
    service.end().await;
}

#[tokio::test]
async fn a_large_body_without_a_token_is_refused_and_the_answer_arrives() {
    let service = Service::ready(closed(|_| {})).await;
    assert_unauthorized(&service.exchange(&post_request(&vec![b'x'; 20 << 20])).await);
    service.end().await;
}

#[tokio::test]
async fn readiness_tells_its_reasons_to_who_holds_the_token() {
    let mut setup = closed(|server| server.preauth_rate = Some("2/day".parse().unwrap()));
    setup.memory = MemoryConfig {
        on_health: Some(Arc::new(|| {
            Err(Error::new(ErrorKind::Unavailable, "check the provider", "the back-end is away"))
        })),
        ..MemoryConfig::default()
    };
    let service = Service::start(setup).await;
    let ready = async |header: &str| {
        let request =
            format!("GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{header}\r\n");
        let answer = service.exchange(request.as_bytes()).await;
        assert_eq!(answer.status, 503);
        answer.json()["not_ready"].is_array()
    };
    assert!(!ready("").await);
    let right = format!("x-sandbox-token: {TOKEN}\r\n");
    assert!(ready(&right).await);
    for _ in 0..2 {
        assert!(!ready("x-sandbox-token: wrong\r\n").await);
    }
    assert!(!ready(&right).await, "who has guessed too often learns nothing more");
    service.end().await;
}

#[tokio::test]
async fn runs_beyond_the_rate_are_429_with_a_whole_result() {
    let mut setup = Setup::default();
    setup.server.run_rate = Some("3/day".parse().unwrap());
    let service = Service::ready(setup).await;
    for _ in 0..3 {
        assert_eq!(service.post(&body()).await.status, 200);
    }
    assert_too_many(&service.post(&body()).await, "28800");
    assert_eq!(service.memory.census().created, 5, "nothing ran, and readiness is not counted");
    assert_eq!(service.get("/healthz").await.status, 200);
    service.end().await;
}

#[tokio::test]
async fn failed_authentications_are_counted_and_then_not_even_looked_at() {
    let service = Service::ready(closed(|server| {
        server.preauth_rate = Some("3/day".parse().unwrap());
        server.run_rate = Some("2/day".parse().unwrap());
    }))
    .await;
    assert_eq!(with_token(&service).await.status, 200, "what is right is not counted there");
    for _ in 0..3 {
        assert_unauthorized(&service.post(&body()).await);
    }
    assert_too_many(&service.post(&body()).await, "28800");
    assert_too_many(&with_token(&service).await, "28800");
    let elsewhere = service.get("/nowhere").await;
    assert_eq!(elsewhere.status, 429);
    assert_eq!(elsewhere.text, r#"{"detail":"Too many requests, please try again later"}"#);
    service.end().await;
}

#[tokio::test]
async fn failed_authentications_do_not_use_up_the_rate_of_runs() {
    let service =
        Service::ready(closed(|server| server.run_rate = Some("1/day".parse().unwrap()))).await;
    for _ in 0..5 {
        assert_unauthorized(&service.post(&body()).await);
    }
    assert_eq!(with_token(&service).await.status, 200);
    assert_too_many(&with_token(&service).await, "86400");
    service.end().await;
}

/// A page that somebody looks at could else run programs on a machine that only listens to itself.
#[tokio::test]
async fn a_page_in_a_browser_needs_a_token() {
    let service = Service::ready(Setup::default()).await;
    // Also one of the service's own address, which a name that was pointed here would claim.
    for origin in ["https://a-page.example", "http://test", "null"] {
        let answer = service.post_with(&format!("origin: {origin}"), &body()).await;
        assert_eq!(answer.status, 403, "{}", answer.text);
        assert!(answer.text.contains("hint: set SANDBOX_EXECUTOR_MANAGER_API_TOKEN"));
    }
    assert_eq!(service.memory.census().created, 2, "only the readiness runs");
    service.end().await;
    let service = Service::ready(closed(|_| {})).await;
    let headers = format!("origin: https://a-page.example\r\nx-sandbox-token: {TOKEN}");
    assert_eq!(service.post_with(&headers, &body()).await.status, 200);
    service.end().await;
}
