//! What several test modules need.

use bytes::Bytes;

use crate::{
    document::{MAX_DOCUMENT_BYTES, read_documents},
    job::{JobId, NewJob},
};

/// A job of a small native document.
pub(crate) fn new_job(id: &str, project: &str) -> NewJob {
    job_of(id, serde_json::json!({ "job": { "name": "build" }, "project": { "path": project } }))
}

/// A job of this document.
#[expect(clippy::needless_pass_by_value, reason = "a literal is written at every call")]
pub(crate) fn job_of(id: &str, document: serde_json::Value) -> NewJob {
    let bytes = Bytes::from(document.to_string().into_bytes());
    let documents = read_documents(&bytes, "test", MAX_DOCUMENT_BYTES).unwrap();
    NewJob::new(JobId::new(id), &documents[0])
}
