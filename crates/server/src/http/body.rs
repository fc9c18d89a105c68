//! Bodies, read under a limit of size and of time.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::header,
};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::{ServerConfig, error::ApiError};

/// How long, and for how many bytes beyond its limit, a refused body is still taken in and thrown
/// away: closing at once would reset the connection and lose the answer in it.
const DRAIN_TIME: Duration = Duration::from_secs(10);
const DRAIN_BYTES: usize = 256 << 20;

/// Reads a whole body; never holds more than the limit.
pub(crate) async fn read(request: Request, config: &ServerConfig) -> Result<Vec<u8>, ApiError> {
    let limit = config.max_body;
    let waits_for_consent = request.headers().contains_key(header::EXPECT);
    let mut body = request.into_body();
    let announced = body.size_hint().exact();
    if announced.is_some_and(|announced| announced > limit as u64) {
        // A client that waits for consent has sent nothing: the answer alone is enough.
        if !waits_for_consent {
            drain(body);
        }
        return Err(ApiError::TooLarge { limit });
    }
    let mut bytes = Vec::new();
    let deadline = Instant::now() + config.read_timeout * 10;
    loop {
        let next = deadline.min(Instant::now() + config.read_timeout);
        let frame = match timeout_at(next, body.frame()).await {
            Err(_) => return Err(ApiError::TooSlow),
            Ok(None) => return Ok(bytes),
            Ok(Some(Err(_))) => return Err(ApiError::Unreadable),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - bytes.len() {
            drain(body);
            return Err(ApiError::TooLarge { limit });
        }
        bytes.extend_from_slice(&data);
    }
}

/// Throws a body away that nobody will read.
pub(super) fn discard(request: Request) {
    if !request.headers().contains_key(header::EXPECT) {
        drain(request.into_body());
    }
}

/// Throws away what is still coming, in the background, for a bounded time and size.
fn drain(mut body: Body) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(DRAIN_TIME, async move {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
            if left == 0 {
                break;
            }
        }
    }));
}
