use axum::{
    Json,
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tonic::{Code, Status};

use crate::handle::CoreError;

/// Why a request is refused, in words that REST and gRPC share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    kind: Kind,
    message: String,
    faults: Vec<String>,
}

/// What REST and gRPC call the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Invalid,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    MethodNotAllowed,
    KeyReused,
    AlreadyFinished,
    NotInGroup,
    NotSingleLeader,
    TooLarge,
    UnsupportedMediaType,
    QueueFull,
    Internal,
    NotImplemented,
    Unavailable,
    TimedOut,
}

impl Kind {
    const fn names(self) -> (StatusCode, &'static str, Code) {
        match self {
            Self::Invalid => (StatusCode::BAD_REQUEST, "invalid", Code::InvalidArgument),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated", Code::Unauthenticated),
            Self::PermissionDenied => (StatusCode::FORBIDDEN, "permission_denied", Code::PermissionDenied),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", Code::NotFound),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", Code::Unimplemented),
            Self::KeyReused => (StatusCode::CONFLICT, "idempotency_key_reused", Code::AlreadyExists),
            Self::AlreadyFinished => (StatusCode::CONFLICT, "already_finished", Code::FailedPrecondition),
            Self::NotInGroup => (StatusCode::CONFLICT, "not_in_group", Code::FailedPrecondition),
            Self::NotSingleLeader => (StatusCode::CONFLICT, "not_single_leader", Code::FailedPrecondition),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", Code::InvalidArgument),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", Code::InvalidArgument)
            }
            Self::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "queue_full", Code::ResourceExhausted),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", Code::Internal),
            Self::NotImplemented => (StatusCode::NOT_IMPLEMENTED, "not_implemented", Code::Unimplemented),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", Code::Unavailable),
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, "timed_out", Code::DeadlineExceeded),
        }
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    error: Details<'a>,
}

#[derive(Serialize)]
struct Details<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    faults: &'a [String],
}

impl ApiError {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), faults: Vec::new() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(super) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(Kind::Unauthenticated, message)
    }

    pub(super) fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(Kind::PermissionDenied, message)
    }

    pub(super) fn no_such_job(id: &str) -> Self {
        // Its owner is GitLab: here are only the decisions about it.
        let of_gitlab =
            if id.starts_with("gitlab-") { "; what was decided about it: `jobgate decisions --job`" } else { "" };
        Self::new(Kind::NotFound, format!("there is no job `{}`, or this token may not see it{of_gitlab}", shown(id)))
    }

    /// Everything that is wrong, one line each.
    pub(super) fn with_faults(mut self, faults: impl IntoIterator<Item = String>) -> Self {
        self.faults.extend(faults);
        self
    }

    /// What is wrong, in one line.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// As the sender of the request understands it: a gRPC status, or JSON.
    pub(super) fn respond(self, grpc: bool) -> Response {
        if grpc { Status::from(self).into_http::<Body>() } else { self.into_response() }
    }
}

pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Text of a stranger, short enough for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code, _) = self.kind.names();
        let details = Details { code, message: &self.message, faults: &self.faults };
        let mut response = (status, Json(Answer { error: details })).into_response();
        let headers = response.headers_mut();
        match self.kind {
            Kind::Unauthenticated => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"jobgate\""));
            }
            Kind::QueueFull | Kind::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}

/// Bytes of a status message: proxies and clients take about 8 KiB of headers, and its text is percent-encoded.
const STATUS_MESSAGE: usize = 2048;

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let (_, _, code) = error.kind.names();
        let mut message = error.message;
        for (position, fault) in error.faults.iter().enumerate() {
            if message.len() + fault.len() > STATUS_MESSAGE {
                message.push_str(&format!("\n… and {} more", error.faults.len() - position));
                break;
            }
            message.push('\n');
            message.push_str(fault);
        }
        Self::new(code, message)
    }
}

impl From<CoreError> for ApiError {
    fn from(error: CoreError) -> Self {
        let kind = match &error {
            CoreError::NoSuchJob(id) => return Self::no_such_job(id.as_str()),
            CoreError::Closing | CoreError::StoreUnavailable => Kind::Unavailable,
            CoreError::QueueFull { .. } => Kind::QueueFull,
            CoreError::KeyReused => Kind::KeyReused,
            CoreError::AlreadyFinished(_) => Kind::AlreadyFinished,
            CoreError::NoSuchRunner(_) | CoreError::NoSuchRunnerGroup(_) => Kind::NotFound,
            CoreError::NotInGroup { .. } => Kind::NotInGroup,
            CoreError::NotSingleLeader(_) => Kind::NotSingleLeader,
            _ => Kind::Invalid,
        };
        Self::new(kind, error.to_string())
    }
}
