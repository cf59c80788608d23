//! Calls that the router makes itself: small bodies, read whole, within a time.

use std::{fmt, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use jiff::{Timestamp, fmt::rfc2822};

use super::upstream::{Outage, Upstream};

pub(super) const OWN_NAME: HeaderValue = HeaderValue::from_static(concat!("jobgate/", env!("CARGO_PKG_VERSION")));
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const RUNNER_TOKEN: HeaderName = HeaderName::from_static("runner-token");
pub(super) const JOB_TOKEN: HeaderName = HeaderName::from_static("job-token");
pub(super) const JOB_STATUS: HeaderName = HeaderName::from_static("job-status");
const RESET_TIME: HeaderName = HeaderName::from_static("ratelimit-resettime");
/// Longest pause that GitLab can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// GitLab's answer, read whole. Its body may be a job, which holds secrets.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Outage(#[from] Outage),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("GitLab did not answer within {0:?}")]
    Late(Duration),
    #[error("GitLab's answer broke off, or has more than {0} bytes")]
    Body(usize),
}

/// Sends a request and reads its answer, of so many bytes at most, within a time.
pub(super) async fn call(
    upstream: &Upstream,
    request: Request<Body>,
    most: usize,
    within: Duration,
) -> Result<Reply, CallError> {
    let answered = async {
        let (parts, body) = upstream.send(request).await?.into_parts();
        let body = Limited::new(body, most).collect().await.map_err(|_| CallError::Body(most))?.to_bytes();
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    };
    tokio::time::timeout(within, answered).await.unwrap_or(Err(CallError::Late(within)))
}

/// A request of our own.
pub(super) fn request(
    method: Method,
    path: &str,
    token: (HeaderName, &str),
    content_type: &'static str,
    body: impl Into<Body>,
) -> Result<Request<Body>, http::Error> {
    let mut request = unsigned(method, path, token, content_type, body)?;
    request.headers_mut().insert(header::USER_AGENT, OWN_NAME);
    request.headers_mut().insert(REQUEST_ID, own_id()?);
    Ok(request)
}

/// A request that does not say who asks. The token is marked, so that it is not printed.
pub(super) fn unsigned(
    method: Method,
    path: &str,
    token: (HeaderName, &str),
    content_type: &'static str,
    body: impl Into<Body>,
) -> Result<Request<Body>, http::Error> {
    let mut value = HeaderValue::from_str(token.1)?;
    value.set_sensitive(true);
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, content_type)
        .header(token.0, value)
        .body(body.into())
}

/// A number that no other request has.
pub(super) fn own_id() -> Result<HeaderValue, http::Error> {
    Ok(HeaderValue::from_str(&uuid::Uuid::new_v4().simple().to_string())?)
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

impl CallError {
    /// Whether GitLab may have had the request.
    pub(super) fn was_sent(&self) -> bool {
        !matches!(
            self,
            Self::Request(_)
                | Self::Outage(Outage::Unreachable { .. } | Outage::Certificate { .. } | Outage::Tls { .. })
        )
    }
}

impl Reply {
    /// How long to wait before asking again: `RateLimit-ResetTime` if it lies ahead, else `Retry-After` in seconds (facts
    /// 7.21).
    pub(super) fn pause(&self, now: Timestamp) -> Option<Duration> {
        let text = |name: &HeaderName| self.headers.get(name)?.to_str().ok();
        let reset = text(&RESET_TIME).and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok());
        let ahead = reset.and_then(|reset| Duration::try_from(reset.duration_since(now)).ok());
        let after = || text(&header::RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs);
        ahead.filter(|ahead| !ahead.is_zero()).or_else(after).map(|pause| pause.min(LONGEST_PAUSE))
    }

    pub(super) fn text(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(headers: &[(HeaderName, &'static str)]) -> Reply {
        let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        Reply { status: StatusCode::TOO_MANY_REQUESTS, headers, body: Bytes::new() }
    }

    #[test]
    fn row_21_retry_after_is_integer_seconds_and_a_reset_time_ahead_wins() {
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        let pause = |headers: &[_]| reply(headers).pause(now).map(|pause| pause.as_secs());
        assert_eq!(pause(&[]), None);
        assert_eq!(pause(&[(header::RETRY_AFTER, "7")]), Some(7));
        assert_eq!(pause(&[(header::RETRY_AFTER, "Fri, 27 Nov 2026 12:00:09 GMT")]), None);
        assert_eq!(pause(&[(header::RETRY_AFTER, "86400")]), Some(300), "no longer than is sane");
        let ahead = (RESET_TIME, "Fri, 27 Nov 2026 12:00:20 GMT");
        assert_eq!(pause(&[(header::RETRY_AFTER, "7"), ahead]), Some(20));
        let past = (RESET_TIME, "Fri, 27 Nov 2026 11:59:20 GMT");
        assert_eq!(pause(&[(header::RETRY_AFTER, "7"), past]), Some(7));
    }
}
