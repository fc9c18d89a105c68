//! What every door shares.

mod access_log;
mod body;
mod health;

use std::sync::Arc;

use ampoule_manager::Manager;
use axum::{
    Router, middleware,
    routing::{get, post},
};

use crate::{ServerConfig, compat::ragflow, error::ApiError, readiness::Readiness};

pub(crate) use access_log::ExecutionSlot;
pub(crate) use body::read as read_body;

/// What the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) manager: Manager,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) readiness: Arc<Readiness>,
}

/// Every route of the service.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/", get(health::alive))
        .route("/healthz", get(health::alive))
        .route("/livez", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/run", post(ragflow::run))
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(middleware::from_fn(access_log::log))
        .with_state(app)
}
