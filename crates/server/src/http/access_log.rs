//! One line per request, whatever becomes of it; and no panic past this point.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
    time::Instant,
};

use ampoule_core::ExecutionId;
use axum::{
    extract::Request,
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tracing::{debug, info};

use crate::error::ApiError;

/// Where a handler says which execution a request became.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExecutionSlot(Arc<OnceLock<ExecutionId>>);

impl ExecutionSlot {
    pub(crate) fn set(&self, id: ExecutionId) {
        // A request becomes one execution at most; a second name would be dropped.
        let _ = self.0.set(id);
    }
}

/// Serves a request and logs method, path, status, duration and execution.
pub(super) async fn log(mut request: Request, next: Next) -> Response {
    let slot = ExecutionSlot::default();
    request.extensions_mut().insert(slot.clone());
    let mut entry = Entry {
        method: request.method().clone(),
        path: request.uri().path().chars().take(200).collect(),
        began: Instant::now(),
        slot,
        status: None,
    };
    let response = AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| ApiError::Panicked.into_response());
    entry.status = Some(response.status());
    response
}

/// The line, written when the request is over: also when its client went away and the future was
/// dropped.
struct Entry {
    method: Method,
    path: String,
    began: Instant,
    slot: ExecutionSlot,
    status: Option<StatusCode>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (method, path) = (self.method.as_str(), self.path.as_str());
        let duration_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let execution_id = self.slot.0.get().map(ExecutionId::as_str);
        match self.status {
            // Asked twice per run and by every health check: not worth a line.
            Some(StatusCode::OK) if method == "GET" => {
                debug!(method, path, status = 200, duration_us, "request");
            }
            Some(status) => {
                let status = status.as_u16();
                info!(method, path, status, duration_us, execution_id, "request");
            }
            None => info!(method, path, duration_us, execution_id, "request dropped by its client"),
        }
    }
}
