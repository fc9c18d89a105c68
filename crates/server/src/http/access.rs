//! Who may call: the token, and how often.
//!
//! ```text
//! health, readiness -> served; readiness gives its reasons only to who holds the token
//! anything else     -> failed too often from this address: 429, whatever token there is
//!                   -> no token or a wrong one: 401, counted
//!                   -> no token is asked for, and a page in a browser calls: 403
//!                   -> `/run` too often from this address: 429
//!                   -> served
//! ```
//!
//! Whatever is not on the list of open paths needs the token, so that a new route is closed until
//! somebody decides otherwise. Where no token is asked for, what a browser sends for a page is refused:
//! else any page that somebody looks at could run programs on a machine that only listens to itself.
//! The address is the connection's: what a proxy says of others could be
//! said by anybody.

use std::net::{IpAddr, Ipv4Addr};

use axum::{
    extract::{Request, State},
    http::{Extensions, HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tracing::warn;

use super::{App, body, rate_limit::RateLimit};
use crate::{ServerConfig, compat::ragflow, error::ApiError};

/// What is answered without a token.
const OPEN: [&str; 4] = ["/", "/healthz", "/livez", "/readyz"];

/// Where the later executor manager takes the token from, beside `Authorization`.
const TOKEN_HEADER: &str = "x-sandbox-token";

/// The token that callers must show. Only its digest is kept, and `Debug` shows nothing of it.
#[derive(Clone)]
pub struct ApiToken([u8; 32]);

impl ApiToken {
    /// Takes the token's text.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Whether `shown` is this token. Digests are compared, and all of them, so that the time taken
    /// says nothing of how much was right or how long the token is.
    fn is(&self, shown: &str) -> bool {
        Self::new(shown).0.ct_eq(&self.0).into()
    }
}

impl std::fmt::Debug for ApiToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ApiToken(set)")
    }
}

/// The address at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What is known of callers.
#[derive(Debug)]
pub(crate) struct Access {
    token: Option<ApiToken>,
    run: Option<RateLimit>,
    preauth: Option<RateLimit>,
}

impl Access {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        Self {
            token: config.token.clone(),
            run: config.run_rate.map(RateLimit::new),
            preauth: config.preauth_rate.map(RateLimit::new),
        }
    }

    /// Whether a caller may know more than the public does: it shows the token, or there is none. A
    /// wrong one counts here too, else this would be the place to guess.
    pub(super) fn trusts(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let shows_none = self.token.is_some() && shown(headers).is_none();
        !shows_none && self.authenticate(peer, headers).is_ok()
    }

    fn authenticate(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(token) = &self.token else { return Ok(()) };
        let refused = |retry_after| ApiError::TooMany { retry_after };
        if let Some(failures) = &self.preauth {
            failures.look(peer).map_err(refused)?;
        }
        if shown(headers).is_some_and(|shown| token.is(shown)) {
            return Ok(());
        }
        warn!(%peer, "a caller did not show the token");
        if let Some(failures) = &self.preauth {
            failures.take(peer).map_err(refused)?;
        }
        Err(ApiError::Unauthorized)
    }

    fn check(&self, peer: IpAddr, request: &Request) -> Result<(), ApiError> {
        self.authenticate(peer, request.headers())?;
        if self.token.is_none() && request.headers().contains_key(header::ORIGIN) {
            return Err(ApiError::FromAPage);
        }
        if is_run(request) && request.method() == Method::POST {
            let taken = self.run.as_ref().map_or(Ok(()), |run| run.take(peer));
            return taken.map_err(|retry_after| ApiError::TooMany { retry_after });
        }
        Ok(())
    }
}

/// The token that a caller shows: `Authorization: Bearer …`, else `X-Sandbox-Token`.
fn shown(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    let own = || headers.get(TOKEN_HEADER).and_then(|value| value.to_str().ok());
    bearer.or_else(own).map(str::trim)
}

/// The address that a request came from; nobody's, if the routes are used without connections.
pub(super) fn peer_of(extensions: &Extensions) -> IpAddr {
    extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0)
}

fn is_run(request: &Request) -> bool {
    request.uri().path() == "/run"
}

/// Serves a request whose caller may ask it.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let peer = peer_of(request.extensions());
    let Err(error) = app.access.check(peer, &request) else { return next.run(request).await };
    let is_run = is_run(&request);
    body::discard(request);
    match error {
        ApiError::TooMany { retry_after } if is_run => ragflow::too_many(retry_after),
        error => error.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_token_is_taken_from_either_header() {
        let token = ApiToken::new("a-token");
        let rows = [
            ("authorization", "Bearer a-token", true),
            ("authorization", "bearer  a-token ", true),
            ("x-sandbox-token", "a-token", true),
            ("authorization", "Basic a-token", false),
            ("authorization", "a-token", false),
            ("authorization", "Bearer", false),
            ("authorization", "Bearer ", false),
            ("x-sandbox-token", "a-toke", false),
            ("x-sandbox-token", "a-token1", false),
            ("x-sandbox-token", "", false),
        ];
        for (name, value, is_right) in rows {
            let headers = HeaderMap::from_iter([(
                name.parse().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )]);
            let admitted = shown(&headers).is_some_and(|shown| token.is(shown));
            assert_eq!(admitted, is_right, "{name}: {value}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let config =
            ServerConfig { token: Some(ApiToken::new("hidden")), ..ServerConfig::default() };
        let shown = format!("{config:?} {:?}", Access::new(&config));
        assert!(shown.contains("ApiToken(set)") && !shown.contains("hidden"), "{shown}");
    }
}
