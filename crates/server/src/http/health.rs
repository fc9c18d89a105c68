//! Whether the service lives, and whether it is of use.

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::App;
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

/// Answers 200 once every language has run, else 503 with what is missing.
pub(super) async fn ready(State(app): State<App>) -> Response {
    let not_ready = app.readiness.not_ready();
    match not_ready.as_slice() {
        [] => json(StatusCode::OK, &Status { status: "ready", not_ready }),
        [..] => json(StatusCode::SERVICE_UNAVAILABLE, &Status { status: "not_ready", not_ready }),
    }
    .into_response()
}
