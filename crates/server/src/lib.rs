//! The front doors of Ampoule over HTTP.
//!
//! ```text
//! serve        connections: accept, time limits, graceful end
//! http/        what every door shares: routes, the token and rate limits, bodies, health, the access log
//! compat/      one file per foreign wire; each maps outcomes to its own statuses, and nobody else does
//! readiness    real runs that prove that every language works
//! error        what was wrong with a request, as an answer
//! ```
//!
//! Code, arguments and output of users are never logged.
#![forbid(unsafe_code)]

mod compat;
mod config;
mod error;
mod http;
mod languages;
mod readiness;
mod serve;

pub use config::ServerConfig;
pub use error::ServeError;
pub use http::{ApiToken, Rate, RateError};
pub use languages::Languages;
pub use serve::Server;
