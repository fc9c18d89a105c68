//! What every door shares.

mod access;
mod access_log;
mod body;
mod health;
mod rate_limit;

use std::sync::Arc;

use ampoule_manager::Manager;
use axum::{
    Router, middleware,
    routing::{get, post},
};

use crate::{ServerConfig, compat::ragflow, error::ApiError, readiness::Readiness};

pub use access::ApiToken;
pub(crate) use access::{Access, Peer};
pub(crate) use access_log::ExecutionSlot;
pub(crate) use body::read as read_body;
pub use rate_limit::{Rate, RateError};

/// What the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) manager: Manager,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) access: Arc<Access>,
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
        .layer(middleware::from_fn_with_state(app.clone(), access::guard))
        .layer(middleware::from_fn(access_log::log))
        .with_state(app)
}
