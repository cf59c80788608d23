//! Bodies of requests: as much as is allowed, and nothing that is not known.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jobgate_yaml::{Document, Fault, Limits, Node, Reader, Source};

use crate::faces::error::{ApiError, Kind, shown};

/// Bytes of a body that is no job document.
const SMALL: usize = 16 * 1024;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It has more bytes than it may.
    TooLarge,
    /// The request ended early.
    Broken,
}

/// Forms and plain text are what a web page can send without being asked; they are refused.
pub(super) fn media_type(headers: &HeaderMap, what: &str) -> Result<(), ApiError> {
    const TAKEN: [&str; 5] = ["application/json", "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"];
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if TAKEN.contains(&&*essence) {
        return Ok(());
    }
    let message = format!("{what} are `application/json` or `application/yaml`, not `{}`", shown(&essence));
    Err(ApiError::new(Kind::UnsupportedMediaType, message))
}

pub(super) async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Unread> {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > limit as u64) {
        return Err(Unread::TooLarge);
    }
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
        Err(_) => Err(Unread::Broken),
    }
}

pub(super) fn broken() -> ApiError {
    ApiError::invalid("the request ended before its body did")
}

/// The mapping of a small body, read by `fields`; an absent body is an empty one. Every fault of it is told.
pub(super) async fn small<T>(
    headers: &HeaderMap,
    body: Body,
    fields: impl FnOnce(&Reader<'_>, &Node) -> Option<T>,
) -> Result<T, ApiError> {
    media_type(headers, "bodies")?;
    let bytes = read(headers, body, SMALL).await.map_err(|error| match error {
        Unread::TooLarge => ApiError::new(Kind::TooLarge, format!("this body may have {SMALL} bytes")),
        Unread::Broken => broken(),
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ApiError::invalid("the body is not UTF-8"))?;
    let text = if text.trim().is_empty() { "{}" } else { text };
    Document::read(&Source::new("body", text), Limits::default(), fields)
        .map_err(|faults| ApiError::invalid("the body has faults").with_faults(faults.iter().map(Fault::one_line)))
}
