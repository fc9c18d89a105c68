//! What was wrong with a request, as an answer; and why the service could not go on.
//!
//! | error | status | body |
//! | --- | --- | --- |
//! | [`ApiError::Invalid`] | 422 | `{"detail": [{"loc", "msg", "type"}, …]}`, a problem per field |
//! | [`ApiError::TooLarge`] | 413 | the same shape, `loc` is `["body"]` |
//! | [`ApiError::TooSlow`] | 408 | the same shape |
//! | [`ApiError::Unauthorized`] | 401 | `{"detail": "Missing or invalid sandbox executor API token"}` |
//! | [`ApiError::FromAPage`] | 403 | `{"detail": …}` |
//! | [`ApiError::TooMany`] | 429 | `{"detail": "Too many requests, please try again later"}`; on `/run` a whole result |
//! | [`ApiError::Unreadable`] | 400 | the same shape |
//! | [`ApiError::NotFound`] | 404 | `{"detail": "Not Found"}` |
//! | [`ApiError::MethodNotAllowed`] | 405 | `{"detail": "Method Not Allowed"}` |
//! | [`ApiError::Panicked`] | 500 | `{"detail": "Internal Server Error"}`; never on `/run` |
//!
//! The shapes are FastAPI's and the types pydantic's, because RAGFlow's clients know them. What the
//! caller sent is never repeated.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// Why the service could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The listening socket failed.
    #[error("failed to use the listening socket")]
    Listen(#[source] std::io::Error),
    /// The provider could not be shut down.
    #[error("failed to shut the provider down")]
    Shutdown(#[source] ampoule_core::Error),
}

/// A request that is not served.
#[derive(Debug)]
pub(crate) enum ApiError {
    Invalid(Vec<Problem>),
    TooLarge { limit: usize },
    TooSlow,
    Unauthorized,
    FromAPage,
    TooMany { retry_after: Duration },
    Unreadable,
    NotFound,
    MethodNotAllowed,
    Panicked,
}

/// One thing that is wrong with a request.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    loc: Vec<Place>,
    msg: String,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// A step on the way to what is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Place {
    Name(&'static str),
    Offset(usize),
}

impl Problem {
    /// Something about the whole body.
    pub(crate) fn of_body(kind: &'static str, msg: impl Into<String>) -> Self {
        Self { loc: vec![Place::Name("body")], msg: msg.into(), kind }
    }

    /// Something at a byte of the body.
    pub(crate) fn at_offset(kind: &'static str, offset: usize, msg: impl Into<String>) -> Self {
        Self { loc: vec![Place::Name("body"), Place::Offset(offset)], msg: msg.into(), kind }
    }

    /// Something about one field.
    pub(crate) fn of_field(
        field: &'static str,
        kind: &'static str,
        msg: impl Into<String>,
    ) -> Self {
        Self { loc: vec![Place::Name("body"), Place::Name(field)], msg: msg.into(), kind }
    }

    /// Something about one limit.
    pub(crate) fn of_limit(
        limit: &'static str,
        kind: &'static str,
        msg: impl Into<String>,
    ) -> Self {
        let loc = [Place::Name("body"), Place::Name("limits"), Place::Name(limit)];
        Self { loc: loc.into(), msg: msg.into(), kind }
    }
}

#[derive(Serialize)]
struct Detail<T> {
    detail: T,
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::FromAPage => StatusCode::FORBIDDEN,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unreadable => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        // A body that was not read to its end leaves the connection unfit for another request.
        let closes = !matches!(
            self,
            Self::Invalid(_) | Self::NotFound | Self::MethodNotAllowed | Self::Panicked
        );
        let of_body = |kind, msg: String| json(status, &detail([Problem::of_body(kind, msg)]));
        let mut response = match self {
            Self::Invalid(problems) => json(status, &detail(problems)),
            Self::TooLarge { limit } => of_body(
                "too_large",
                format!(
                    "the body is larger than the limit of {limit} bytes; hint: send less, or let the \
                     operator raise it with `ampoule serve --max-body`"
                ),
            ),
            Self::TooSlow => of_body("timeout", "the body came too slowly".to_owned()),
            Self::Unreadable => of_body("unreadable", "the body could not be read".to_owned()),
            Self::Unauthorized => {
                let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
                (challenge, json(status, &detail(UNAUTHORIZED))).into_response()
            }
            Self::FromAPage => json(status, &detail(FROM_A_PAGE)),
            Self::TooMany { retry_after } => {
                with_retry_after(json(status, &detail(TOO_MANY)), retry_after)
            }
            Self::NotFound => json(status, &detail("Not Found")),
            Self::MethodNotAllowed => json(status, &detail("Method Not Allowed")),
            Self::Panicked => json(status, &detail("Internal Server Error")),
        };
        if closes {
            close_after(&mut response);
        }
        response
    }
}

/// Ends the connection with this answer.
pub(crate) fn close_after(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// What a caller without the token is told, in the words of the contract.
const UNAUTHORIZED: &str = "Missing or invalid sandbox executor API token";

/// What a page in a browser is told where no token is asked for.
const FROM_A_PAGE: &str = "a page in a browser may call only with a token; hint: set \
                           SANDBOX_EXECUTOR_MANAGER_API_TOKEN for the service and show it";

/// What a caller beyond a rate limit is told, in the words of the contract.
pub(crate) const TOO_MANY: &str = "Too many requests, please try again later";

/// Says in whole seconds when to come again.
pub(crate) fn with_retry_after(mut response: Response, retry_after: Duration) -> Response {
    let seconds = retry_after.as_millis().div_ceil(1000).max(1);
    if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

fn detail<T: Serialize>(detail: T) -> Detail<T> {
    Detail { detail }
}

/// An answer in JSON.
pub(crate) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => {
            let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            (status, kind, body).into_response()
        }
        // Our own types always serialise; a value of the user's is JSON text already.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
