//! Answers of our own where GitLab would answer, in its form.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// Whole seconds: runners read nothing else (facts 7.21).
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

/// An error as GitLab tells it (facts 2.0). Mind the status: runners give up on a 403, and on a 404 of a job.
pub(crate) fn error(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &Message { message })
}

/// Nobody can answer now. Runners come again after 5 s, and nothing is lost by that.
pub(crate) fn unavailable(message: &str) -> Response<Body> {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, message);
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    response
}

/// Any answer. Its content type is checked by runners (facts 7.12).
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Values of ours are plain structs, which always have a JSON form.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
