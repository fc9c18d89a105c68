//! Whether the service lives, and whether it is of use.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use serde::Serialize;

use super::{App, access::peer_of};
use crate::{error::json, readiness::NotReady};

#[derive(Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_ready: Vec<NotReady>,
}

/// Answers at once, always: it looks at nothing.
pub(super) async fn alive() -> Response {
    json(StatusCode::OK, &Status { status: "ok", not_ready: Vec::new() })
}

/// Answers 200 once every language has run, else 503; with what is missing, for who may know.
pub(super) async fn ready(State(app): State<App>, request: Request) -> Response {
    let mut not_ready = app.readiness.not_ready();
    if not_ready.is_empty() {
        return json(StatusCode::OK, &Status { status: "ready", not_ready });
    }
    if !app.access.trusts(peer_of(request.extensions()), request.headers()) {
        not_ready.clear();
    }
    json(StatusCode::SERVICE_UNAVAILABLE, &Status { status: "not_ready", not_ready })
}
