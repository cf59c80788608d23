//! What lies in entries and in the index, besides jobs. Encoded as protobuf, so that a field can be added.

use jiff::Timestamp;
use prost::Message;

use crate::{
    decision::Decision,
    handle::IdempotencyKey,
    job::JobId,
    store::{StoreError, Submission},
};

/// A decision, as JSON, and its keys.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecisionRow {
    #[prost(string, tag = "1")]
    pub(super) job: String,
    #[prost(string, tag = "2")]
    pub(super) admission: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) json: Vec<u8>,
}

/// A submission that can be repeated.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubmissionRow {
    #[prost(string, tag = "1")]
    pub(super) token: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) digest: Vec<u8>,
    #[prost(string, repeated, tag = "4")]
    pub(super) jobs: Vec<String>,
    #[prost(int64, tag = "5")]
    pub(super) time: i64,
}

/// A setting; without a value it is taken away.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SettingRow {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(super) value: Option<Vec<u8>>,
}

impl DecisionRow {
    pub(super) fn new(decision: &Decision) -> Result<Self, StoreError> {
        let json = serde_json::to_vec(decision).map_err(|error| {
            StoreError::new(format!("decision {} cannot be written as JSON: {error}", decision.admission_id))
        })?;
        Ok(Self { job: decision.job_id.to_string(), admission: decision.admission_id.to_string(), json })
    }

    pub(super) fn decision(&self) -> Result<Decision, String> {
        serde_json::from_slice(&self.json)
            .map_err(|error| format!("decision {} cannot be read: {error}", self.admission))
    }
}

impl SubmissionRow {
    pub(super) fn new(submission: &Submission) -> Self {
        Self {
            token: submission.key.token.to_string(),
            key: submission.key.key.clone(),
            digest: submission.key.digest.to_vec(),
            jobs: submission.jobs.iter().map(ToString::to_string).collect(),
            time: micros(submission.time),
        }
    }

    pub(super) fn submission(self) -> Result<Submission, &'static str> {
        Ok(Submission {
            key: IdempotencyKey {
                token: self.token.into(),
                key: self.key,
                digest: self.digest.try_into().map_err(|_| "a submission whose digest is none")?,
            },
            jobs: self.jobs.into_iter().map(JobId::new).collect(),
            time: Timestamp::from_microsecond(self.time).map_err(|_| "a submission whose time is out of range")?,
        })
    }
}

impl SettingRow {
    pub(super) fn new(key: &str, value: Option<&[u8]>) -> Self {
        Self { key: key.to_owned(), value: value.map(<[u8]>::to_vec) }
    }
}

/// Microseconds since 1970.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// Appends a message to a buffer.
pub(super) fn append(message: &impl Message, into: &mut Vec<u8>) -> Result<(), StoreError> {
    message.encode(into).map_err(|error| StoreError::new(error.to_string()))
}
