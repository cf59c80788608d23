use std::sync::Arc;

use crate::{decision::Decision, handle::IdempotencyKey, job::JobId, job::JobRecord};

/// Where decisions and states are kept. A batch is durable, as a whole, when [`Store::commit`] returns; nothing of it has
/// left the process before.
pub trait Store: Send + 'static {
    /// Writes a batch, all or nothing.
    ///
    /// # Errors
    ///
    /// When it is not durable. The router then delivers nothing, and offers the same batch again.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;
}

/// What one step changed.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Records of jobs that changed, in order.
    pub jobs: Vec<Arc<JobRecord>>,
    /// Decisions made, or added to.
    pub decisions: Vec<Arc<Decision>>,
    /// Submissions that can be repeated, and the jobs they made.
    pub submissions: Vec<(IdempotencyKey, Vec<JobId>)>,
}

/// Why a store could not write.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot write: {message}")]
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
        self.jobs.is_empty() && self.decisions.is_empty() && self.submissions.is_empty()
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
    fn commit(&mut self, _: &Batch) -> Result<(), StoreError> {
        // The task that owns the state holds everything a batch says already.
        Ok(())
    }
}
