//! Requests that are no good: each a clear error, and the service goes on.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Answer, Service, Setup, post_request};

fn code(source: &[u8]) -> Value {
    json!({ "code_b64": STANDARD.encode(source) })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = code(b"def main(): return 1");
    body[field] = value;
    body
}

/// Posts a body that must be refused with exactly one problem.
async fn refused(service: &Service, body: &[u8]) -> (Value, String, String) {
    let answer = service.post(body).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    let detail = answer.json()["detail"].clone();
    assert_eq!(detail.as_array().unwrap().len(), 1, "{detail}");
    let text = |field: &str| detail[0][field].as_str().unwrap().to_owned();
    (detail[0]["loc"].clone(), text("type"), text("msg"))
}

#[tokio::test]
async fn each_bad_field_is_named() {
    let service = Service::ready(Setup::default()).await;
    let deep = format!(
        r#"{{"code_b64": "eA==", "arguments": {{"a": {}{}}}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let rows: Vec<(Vec<u8>, &str, &str, &str)> = vec![
        (json!({}).to_string().into(), "code_b64", "missing", "Field required"),
        (json!({"code_b64": null}).to_string().into(), "code_b64", "string_type", "valid string"),
        (json!({"code_b64": 5}).to_string().into(), "code_b64", "string_type", "valid string"),
        (json!({"code_b64": "a b="}).to_string().into(), "code_b64", "value_error", "not base64"),
        (json!({"code_b64": "eA"}).to_string().into(), "code_b64", "value_error", "wrong padding"),
        (json!({"code_b64": "eA==\n"}).to_string().into(), "code_b64", "value_error", "not base64"),
        (json!({"code_b64": "eA-_"}).to_string().into(), "code_b64", "value_error", "not base64"),
        (
            code(b"x = '\xff'").to_string().into(),
            "code_b64",
            "value_error",
            "not UTF-8 (first bad byte at offset 5)",
        ),
        (code(b"").to_string().into(), "code_b64", "value_error", "empty"),
        (code(b" \r\n\t").to_string().into(), "code_b64", "value_error", "empty"),
        (code("\u{feff}".as_bytes()).to_string().into(), "code_b64", "value_error", "empty"),
        (
            with("language", json!("ruby")).to_string().into(),
            "language",
            "enum",
            "'python', 'python3', 'javascript', 'nodejs', 'js', 'node'",
        ),
        (with("language", json!("")).to_string().into(), "language", "enum", "'python'"),
        (
            with("language", json!(null)).to_string().into(),
            "language",
            "string_type",
            "valid string",
        ),
        (
            with("language", json!(["python"])).to_string().into(),
            "language",
            "string_type",
            "valid string",
        ),
        (with("arguments", json!([1])).to_string().into(), "arguments", "dict_type", "an array"),
        (with("arguments", json!("x")).to_string().into(), "arguments", "dict_type", "a string"),
        (with("arguments", json!(1)).to_string().into(), "arguments", "dict_type", "a number"),
        (with("arguments", json!(true)).to_string().into(), "arguments", "dict_type", "a boolean"),
        (deep.into(), "arguments", "value_error", "deeper than 100"),
        (
            with("base_image", json!("alpine:latest")).to_string().into(),
            "base_image",
            "value_error",
            "sandbox-base-python:latest",
        ),
        (
            with("base_image", json!(7)).to_string().into(),
            "base_image",
            "string_type",
            "valid string",
        ),
    ];
    for (body, field, kind, words) in rows {
        let (loc, got_kind, message) = refused(&service, &body).await;
        let context = format!(
            "{} gave {loc} {got_kind} {message}",
            String::from_utf8_lossy(&body[..body.len().min(80)])
        );
        assert_eq!(loc, json!(["body", field]), "{context}");
        assert_eq!(got_kind, kind, "{context}");
        assert!(message.contains(words), "{context}");
        assert!(!message.contains("ruby") && !message.contains("alpine"), "{context}");
    }
    assert_eq!(service.memory.census().created, 2, "only the readiness runs");
    service.end().await;
}

#[tokio::test]
async fn what_is_no_json_object_is_named() {
    let service = Service::ready(Setup::default()).await;
    let too_deep = "[".repeat(100_000);
    let rows: Vec<(&[u8], Value, &str)> = vec![
        (b"", json!(["body"]), "missing"),
        (b"hello", json!(["body", 0]), "json_invalid"),
        (b"{\"code_b64\": }", json!(["body", 13]), "json_invalid"),
        (b"{\"a\": \"\xff\"}", json!(["body", 7]), "json_invalid"),
        (b"{\"a\": NaN}", json!(["body", 6]), "json_invalid"),
        (b"[1, 2]", json!(["body"]), "model_attributes_type"),
        (b"\"text\"", json!(["body"]), "model_attributes_type"),
        (too_deep.as_bytes(), json!(["body", 99_999]), "json_invalid"),
    ];
    for (body, place, kind) in rows {
        let (loc, got_kind, message) = refused(&service, body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
        assert_eq!(loc, place, "{shown}: {message}");
        assert_eq!(got_kind, kind, "{shown}: {message}");
    }
    service.end().await;
}

#[tokio::test]
async fn all_bad_fields_are_told_at_once() {
    let service = Service::ready(Setup::default()).await;
    let answer = service.post(br#"{"language": 5, "arguments": [], "base_image": "x"}"#).await;
    assert_eq!(answer.status, 422);
    let detail = answer.json()["detail"].clone();
    let fields: Vec<&str> =
        detail.as_array().unwrap().iter().map(|p| p["loc"][1].as_str().unwrap()).collect();
    assert_eq!(fields, ["code_b64", "language", "arguments", "base_image"]);
    service.end().await;
}

#[tokio::test]
async fn odd_but_good_requests_are_served() {
    let service = Service::ready(Setup::default()).await;
    let good = [
        code(b"def main():\r\n    return 1\r\n"),
        code(b"\xef\xbb\xbfdef main(): return 1"),
        // The interpreter says what it thinks of it.
        code(b"x = '\0'"),
        with("unknown_field", json!({"deep": [1]})),
        with("language", json!("PYTHON3")),
        with("language", json!("Js")),
        with("arguments", json!(null)),
        with("base_image", json!(null)),
        with("base_image", json!("")),
        with("base_image", json!("sandbox-base-nodejs:latest")),
    ];
    for body in good {
        let answer = service.post(body.to_string().as_bytes()).await;
        assert_eq!(answer.json()["status"], "success", "{body}: {}", answer.text);
    }
    // As `curl -d` sends it; and the last of two equal fields counts.
    let body = r#"{"code_b64": 1, "code_b64": "eA=="}"#;
    let request = format!(
        "POST /run HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(service.exchange(request.as_bytes()).await.json()["status"], "success");
    service.end().await;
}

#[tokio::test]
async fn unknown_routes_and_methods_are_told() {
    let service = Service::start(Setup::default()).await;
    let answer = service.get("/nowhere").await;
    assert_eq!((answer.status, answer.text.as_str()), (404, r#"{"detail":"Not Found"}"#));
    let answer = service.get("/run").await;
    assert_eq!((answer.status, answer.text.as_str()), (405, r#"{"detail":"Method Not Allowed"}"#));
    assert!(answer.head.contains("allow: post"), "{}", answer.head);
    service.end().await;
}

fn small() -> Setup {
    let mut setup = Setup::default();
    setup.server.max_body = 1 << 20;
    setup
}

fn assert_too_large(answer: &Answer) {
    assert_eq!(answer.status, 413, "{}", answer.text);
    let problem = &answer.json()["detail"][0];
    assert_eq!((&problem["loc"], &problem["type"]), (&json!(["body"]), &json!("too_large")));
    let message = problem["msg"].as_str().unwrap();
    assert!(message.contains("1048576 bytes") && message.contains("--max-body"), "{message}");
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_and_the_answer_arrives() {
    let service = Service::ready(small()).await;
    // The client reads only after it has sent everything, as simple clients do.
    assert_too_large(&service.exchange(&post_request(&vec![b'x'; 100 << 20])).await);
    service.end().await;
}

#[tokio::test]
async fn a_large_body_is_refused_before_it_is_sent() {
    let service = Service::ready(small()).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let head = format!(
            "POST /run HTTP/1.1\r\nhost: test\r\n{expect}content-length: 104857600\r\n\r\n"
        );
        let mut stream = service.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 413");
    }
    service.end().await;
}

#[tokio::test]
async fn a_large_chunked_body_is_refused() {
    let service = Service::ready(small()).await;
    let mut request =
        b"POST /run HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..64 {
        request.extend_from_slice(b"10000\r\n");
        request.extend_from_slice(&[b'x'; 0x10000]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    assert_too_large(&service.exchange(&request).await);
    service.end().await;
}

#[tokio::test]
async fn a_body_at_the_limit_is_served() {
    let service = Service::ready(small()).await;
    let mut body = r#"{"code_b64": "eA=="}"#.to_owned();
    body.push_str(&" ".repeat((1 << 20) - body.len()));
    assert_eq!(service.post(body.as_bytes()).await.status, 200);
    service.end().await;
}

#[tokio::test]
async fn a_client_that_waits_for_consent_gets_it() {
    let service = Service::ready(Setup::default()).await;
    let body = br#"{"code_b64": "eA=="}"#;
    let head = format!(
        "POST /run HTTP/1.1\r\nhost: test\r\nconnection: close\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = service.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut consent = [0; 25];
    stream.read_exact(&mut consent).await.unwrap();
    assert_eq!(&consent, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body).await.unwrap();
    assert_eq!(Answer::read(&mut stream).await.json()["status"], "success");
    service.end().await;
}

#[tokio::test]
async fn slow_clients_are_sent_away() {
    let mut setup = Setup::default();
    setup.server.read_timeout = Duration::from_millis(200);
    let service = Service::ready(setup).await;
    // Half a body.
    let answer = service
        .exchange(b"POST /run HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n{\"code")
        .await;
    assert_eq!(answer.status, 408);
    assert_eq!(answer.json()["detail"][0]["loc"], json!(["body"]));
    // Half a header, and none at all: the connection is closed, with or without a word.
    for half in [&b"POST /run HTTP/1.1\r\nhost: te"[..], b""] {
        let mut stream = service.connect().await;
        stream.write_all(half).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(crate::support::LONG, stream.read_to_end(&mut rest));
        drop(closed.await.expect("the connection is closed"));
    }
    service.end().await;
}

#[tokio::test]
async fn garbage_on_the_socket_is_survived() {
    let service = Service::ready(Setup::default()).await;
    for garbage in [
        &b"\0\x01\x02\xff\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"POST /run HTTP/1.1\r\nhost: t\r\ncontent-length: -1\r\n\r\n",
        b"POST /run HTTP/1.1\r\nhost: t\r\ncontent-length: 3\r\n\r\n{",
    ] {
        let mut stream = service.connect().await;
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(crate::support::LONG, stream.read_to_end(&mut rest));
        drop(closed.await.expect("the connection is closed"));
    }
    assert_eq!(service.get("/healthz").await.status, 200);
    service.end().await;
}
