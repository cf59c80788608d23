//! Where state is kept. The router speaks to it through [`Store`]; what is written are [`Batch`]es, what is read back at a
//! start is [`Restored`].

mod disk;
pub(crate) mod row;

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;

#[doc(hidden)]
pub use disk::fuzz_store_frame;
pub use disk::{CheckReport, DiskOptions, DiskStore, Fault, OpenError, Repair, Repairs, check};
pub use row::{DocumentRef, EventRow, JobRow};

use crate::{
    decision::Decision,
    handle::{IdempotencyKey, JobEvent},
    job::{JobId, JobRecord},
};

/// Where jobs, decisions and what operators said of runners are kept. A batch is durable, as a whole, when
/// [`Store::commit`] returns; nothing of it has left the process before.
pub trait Store: Send + 'static {
    /// Writes a batch, all or nothing, and tells where the documents of its new jobs lie, in the order of
    /// [`Batch::documents`]; nothing where the store does not keep them.
    ///
    /// # Errors
    ///
    /// When it is not durable. The router then delivers nothing, and offers the same batch again, with more in it.
    fn commit(&mut self, batch: &Batch) -> Result<Vec<DocumentRef>, StoreError>;

    /// Reads back what is not held in memory; `None` where nothing can be read back.
    fn archive(&self) -> Option<Arc<dyn Archive>> {
        None
    }
}

/// Reads documents of waiting jobs, and what is over. Any thread may read while the store is written.
pub trait Archive: Send + Sync + 'static {
    /// The document of a job, byte for byte as it came.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is damaged.
    fn document(&self, at: DocumentRef) -> Result<Bytes, StoreError>;

    /// A job that is over, with its events; `None` when it is not known, or not any more.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is damaged.
    fn finished(&self, job: &JobId) -> Result<Option<(JobRecord, Vec<JobEvent>)>, StoreError>;

    /// Jobs that are over, newest id first, from the one before `before`; at most `limit`.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or are damaged.
    fn list_finished(&self, before: Option<&JobId>, limit: usize) -> Result<Vec<JobRecord>, StoreError>;

    /// Decisions about a job, newest first, each as last added to; at most `limit`.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or are damaged.
    fn decisions(&self, job: &JobId, limit: usize) -> Result<Vec<Decision>, StoreError>;
}

/// What one step changed.
#[derive(Clone, Default)]
pub struct Batch {
    /// Records of jobs that changed, in order: every state a job went through. For those who watch; [`Batch::rows`] has
    /// what is to be kept.
    pub records: Vec<Arc<JobRecord>>,
    /// Jobs as they are after the step, one row each.
    pub rows: Vec<JobRow>,
    /// Documents of new jobs. Hold secrets.
    pub documents: Vec<(JobId, Bytes)>,
    /// Decisions made, or added to: a later one with the same admission id takes the place of the earlier.
    pub decisions: Vec<Arc<Decision>>,
    /// Submissions that can be repeated.
    pub submissions: Vec<Submission>,
    /// What else is to be kept, by key: taints, pins, leaders. `None` takes a key away.
    pub settings: BTreeMap<String, Option<Vec<u8>>>,
}

/// A submission that can be repeated, and the jobs it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    /// Its key.
    pub key: IdempotencyKey,
    /// Its jobs, in the order of its documents.
    pub jobs: Vec<JobId>,
    /// When it was made.
    pub time: Timestamp,
}

/// What a store held when it was opened.
#[derive(Debug, Default)]
pub struct Restored {
    /// Jobs that are not over.
    pub jobs: Vec<JobRow>,
    /// Jobs that were over last, newest last; so many as the store sees fit.
    pub finished: Vec<JobRow>,
    /// Decisions made last, newest last; so many as the store sees fit.
    pub decisions: Vec<Decision>,
    /// Submissions of the last 24 h, oldest first.
    pub submissions: Vec<Submission>,
    /// What else was kept.
    pub settings: BTreeMap<String, Vec<u8>>,
    /// The highest lease ever given, also to jobs that are over.
    pub highest_lease: u64,
    /// The highest sequence number ever given.
    pub highest_sequence: u64,
}

/// Why a store could not write or read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    message: String,
}

/// A store that keeps nothing beyond the process.
#[derive(Debug, Default)]
pub struct MemoryStore;

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.rows.is_empty()
            && self.documents.is_empty()
            && self.decisions.is_empty()
            && self.submissions.is_empty()
            && self.settings.is_empty()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("records", &self.records)
            .field("rows", &self.rows)
            .field("documents", &format_args!("{} [redacted]", self.documents.len()))
            .field("decisions", &self.decisions)
            .field("submissions", &self.submissions)
            .field("settings", &self.settings.keys())
            .finish()
    }
}

impl StoreError {
    /// An error for this reason.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

impl Store for MemoryStore {
    fn commit(&mut self, _: &Batch) -> Result<Vec<DocumentRef>, StoreError> {
        // The task that owns the state holds everything a batch says already.
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_prints_nothing_of_its_documents() {
        let document = Bytes::from_static(b"glcbt-secret");
        let batch = Batch { documents: vec![(JobId::new("j1"), document)], ..Batch::default() };
        let text = format!("{batch:?}");
        assert!(text.contains("1 [redacted]"), "{text}");
        assert!(!text.contains("glcbt") && !text.contains("103, 108"), "{text}");
    }
}
