use std::sync::Arc;

use bytes::Bytes;
use jobgate_yaml::{Fault, Faults};

use crate::{
    document::{JobDocument, MAX_DOCUMENT_BYTES, read_documents},
    job::{JobId, NewJob},
    view::view,
};

/// GitLab refuses a job with so many tags.
const MOST_TAGS: usize = 50;

/// Reads job documents into jobs, all or none; `name` is what people know the input by. Each gets a fresh id.
///
/// A document that contradicts itself is a job all the same: it is rejected with a decision that says why.
///
/// # Errors
///
/// All faults of all documents. None quotes a value.
pub fn jobs_from_documents(bytes: &Bytes, name: &str) -> Result<Vec<NewJob>, Faults> {
    let documents = read_documents(bytes, name, MAX_DOCUMENT_BYTES)?;
    if documents.is_empty() {
        return Err(Fault::new(name, "there is no job document in it").into());
    }
    let mut faults = Vec::new();
    let mut jobs = Vec::with_capacity(documents.len());
    for (index, document) in documents.iter().enumerate() {
        let job = NewJob::new(JobId::fresh(), document);
        if job.tags.len() >= MOST_TAGS {
            let message = format!("document {}: {} tags; a job has fewer than {MOST_TAGS}", index + 1, job.tags.len());
            faults.push(Fault::new(name, message));
        }
        jobs.push(job);
    }
    Faults::collect(faults).map_or(Ok(jobs), Err)
}

impl NewJob {
    /// The job of a document.
    #[must_use]
    pub fn new(id: JobId, document: &JobDocument) -> Self {
        let view = view(document, id.as_str()).map(Arc::new);
        let seen = view.as_ref().ok().map(|view| view.job().clone()).unwrap_or_default();
        Self {
            id,
            document: document.bytes().clone(),
            view,
            project: document.project().clone(),
            tags: seen.tags.as_ref().map(|tags| tags.values.clone()).unwrap_or_default(),
            protected: seen.protected.unwrap_or_default(),
            retry_on_lost: document.retry_on_lost(),
            source_id: document.source_id().map(str::to_owned),
            name: document.name().map(str::to_owned),
            timeout_seconds: seen.timeout_seconds,
            priority: 0,
        }
    }
}
