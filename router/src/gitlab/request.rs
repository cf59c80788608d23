//! What a runner says when it asks for a job: the body of `POST /jobs/request`, the same over gRPC (facts 2.1).

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::config::Secret;

/// Largest request; a real one has a few kilobytes, the certificate of its session server included.
pub(crate) const LARGEST_REQUEST: usize = 256 * 1024;
/// Requests up to this size are read without waiting for anybody.
const USUAL_REQUEST: usize = 16 * 1024;
/// Time for one to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// Longest word of a runner about itself that is shown to controllers.
const LONGEST_WORD: usize = 255;

/// The part of a poll that is read here. What goes to GitLab are the bytes as they came.
pub(crate) struct PollRequest {
    pub(crate) token: Secret,
    pub(crate) system_id: String,
    /// `info` as it came, for `POST /runners/verify`.
    info: Option<Box<RawValue>>,
    pub(crate) version: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) executor: Option<String>,
}

/// Why a poll cannot be read. Quotes nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    #[error("the body is not the JSON of a job request (line {line}, column {column})")]
    NotJson { line: usize, column: usize },
    #[error("token is missing")]
    NoToken,
    #[error("token is none: it has characters that no token has")]
    BadToken,
    #[error("the token of the call is not the one in its job request")]
    OtherToken,
}

/// Why the body of a request cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    TooLarge,
    Broken,
    Late,
}

/// Reads the body of a request, of `most` bytes. Strangers may send such bodies: only so many large ones are held at once.
pub(crate) async fn collect(mut body: axum::body::Body, most: usize, large: &Semaphore) -> Result<Bytes, Unread> {
    let reading = async {
        let (mut read, mut turn) = (BytesMut::new(), None);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            let length = read.len() + data.len();
            if length > most {
                return Err(Unread::TooLarge);
            }
            if length > USUAL_REQUEST && turn.is_none() {
                // Nobody closes the semaphore.
                turn = large.acquire().await.ok();
            }
            read.extend_from_slice(&data);
        }
        Ok(read.freeze())
    };
    tokio::time::timeout(ARRIVES_WITHIN, reading).await.unwrap_or(Err(Unread::Late))
}

#[derive(Deserialize)]
struct Body<'a> {
    token: Option<String>,
    system_id: Option<String>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
}

/// Unknown keys are GitLab's business, and so are odd types: what is not as expected is not known.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Info {
    version: serde_json::Value,
    platform: serde_json::Value,
    architecture: serde_json::Value,
    executor: serde_json::Value,
}

impl PollRequest {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// When it is no JSON object, says a key twice, or has no token that could be one.
    pub(crate) fn read(body: &[u8]) -> Result<Self, BadRequest> {
        let body: Body<'_> = serde_json::from_slice(body)
            .map_err(|error| BadRequest::NotJson { line: error.line(), column: error.column() })?;
        let token = body.token.filter(|token| !token.is_empty()).ok_or(BadRequest::NoToken)?;
        if token.chars().any(|c| !c.is_ascii_graphic()) {
            return Err(BadRequest::BadToken);
        }
        let info: Info = body.info.and_then(|info| serde_json::from_str(info.get()).ok()).unwrap_or_default();
        let platform = match (word(&info.platform), word(&info.architecture)) {
            (Some(platform), Some(architecture)) => Some(format!("{platform}/{architecture}")),
            (platform, _) => platform,
        };
        Ok(Self {
            token: Secret::new(token),
            system_id: body.system_id.unwrap_or_default(),
            info: body.info.map(ToOwned::to_owned),
            version: word(&info.version),
            platform,
            executor: word(&info.executor),
        })
    }

    /// The body of `POST /runners/verify`: the same words about itself, complete, since GitLab keeps what it is told (facts
    /// 7.27).
    pub(crate) fn verification(&self) -> Vec<u8> {
        let mut body = serde_json::Map::new();
        body.insert("token".into(), self.token.expose().into());
        // Left out where it is not known (facts 2.1): an empty one would be one.
        if !self.system_id.is_empty() {
            body.insert("system_id".into(), self.system_id.as_str().into());
        }
        let info = self.info.as_ref().and_then(|info| serde_json::from_str(info.get()).ok());
        if let Some(info) = info {
            body.insert("info".into(), info);
        }
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl fmt::Debug for PollRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollRequest")
            .field("token", &self.token)
            .field("system_id", &self.system_id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

fn word(value: &serde_json::Value) -> Option<String> {
    let text = value.as_str().filter(|text| !text.is_empty())?;
    Some(text.chars().filter(|c| !c.is_control()).take(LONGEST_WORD).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_does_not_print_its_token() {
        let body = br#"{"token":"glrt-1","system_id":"s_1","info":{"version":"19.4.0","platform":"linux","architecture":"amd64",
            "executor":"shell","features":{"refspecs":true}},"session":{"authorization":"x"},"last_update":"ab"}"#;
        let request = PollRequest::read(body).unwrap();
        assert_eq!((request.token.expose(), &*request.system_id), ("glrt-1", "s_1"));
        assert_eq!((request.version.as_deref(), request.platform.as_deref()), (Some("19.4.0"), Some("linux/amd64")));
        assert!(!format!("{request:?}").contains("glrt"), "{request:?}");
        let verification: serde_json::Value = serde_json::from_slice(&request.verification()).unwrap();
        assert_eq!(verification["info"]["features"]["refspecs"], true);
        assert_eq!(verification["token"], "glrt-1");
    }

    #[test]
    fn what_is_no_request_is_refused_without_being_quoted() {
        for bad in ["", "[]", "{", "\"glrt-1\"", r#"{"token":"glrt-1","token":"glrt-2"}"#, r#"{"token":7}"#] {
            let error = PollRequest::read(bad.as_bytes()).unwrap_err();
            assert!(!error.to_string().contains("glrt"), "{error}");
        }
        assert_eq!(PollRequest::read(b"{}").unwrap_err(), BadRequest::NoToken);
        assert_eq!(PollRequest::read(b"{\"token\":\"a\\nb\"}").unwrap_err(), BadRequest::BadToken);
        assert_eq!(PollRequest::read(br#"{"token":""}"#).unwrap_err(), BadRequest::NoToken);
    }

    #[test]
    fn odd_words_of_a_runner_about_itself_are_unknown() {
        let request = PollRequest::read(br#"{"token":"t","info":{"version":7,"platform":null}}"#).unwrap();
        assert_eq!((request.version, request.platform, request.executor), (None, None, None));
        assert!(PollRequest::read(br#"{"token":"t","info":"none"}"#).is_ok());
    }
}
