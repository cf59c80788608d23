//! Takes what commits changed into the index, every few seconds.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    DiskOptions,
    frame::Encoded,
    index::Index,
    log::Position,
    medium::Medium,
    pending::{Delta, Pending},
    recover::Recovered,
    rows::micros,
    segment::Segments,
};
use crate::{
    job::JobState,
    store::{Batch, StoreError},
};

/// Submissions can be repeated for this long.
pub(super) const REPEATABLE: Duration = Duration::from_secs(24 * 3600);

/// Commits wait for a running checkpoint when it is this many times its usual size behind.
const BEHIND: u64 = 8;

/// What reading and writing threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) medium: Arc<dyn Medium>,
    pub(super) segments: Segments,
    pub(super) index: Index,
    pending: Mutex<Pending>,
}

/// Writes checkpoints, and forgets what is older than the retention.
#[derive(Debug)]
pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    pub(super) options: DiskOptions,
    work: Mutex<Work>,
    changed: Condvar,
    /// Held while a checkpoint is written: one at a time.
    pub(super) writing: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Work {
    /// Bytes of the log that are not in the index.
    bytes: u64,
    writing: bool,
    failed: bool,
    stopping: bool,
}

/// What is in the index.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) until: Position,
    pub(super) first_segment: u64,
}

impl Shared {
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checkpointer {
    pub(super) fn new(medium: Arc<dyn Medium>, recovered: Recovered, options: &DiskOptions) -> Self {
        let written = Written { until: recovered.contained, first_segment: recovered.first_segment };
        let shared = Shared {
            segments: Segments::new(medium.clone()),
            medium,
            index: recovered.index,
            pending: Mutex::new(Pending { current: recovered.delta, flushing: None }),
        };
        Self {
            shared: Arc::new(shared),
            options: options.clone(),
            work: Mutex::default(),
            changed: Condvar::new(),
            writing: Mutex::new(written),
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Notes what a batch changed; `at` is where its frame lies.
    pub(super) fn note(&self, batch: &Batch, encoded: &Encoded, before: Position, after: Position) {
        let mut pending = self.shared.pending();
        let delta = &mut pending.current;
        let documents: std::collections::HashMap<&str, _> =
            batch.documents.iter().map(|(job, _)| job.as_str()).zip(&encoded.documents).collect();
        for (row, place) in batch.rows.iter().zip(&encoded.rows) {
            let document = documents.get(row.id.as_str()).map(|at| **at).or(row.document);
            let is_over = row.job_state().is_some_and(JobState::is_final);
            delta.job(&row.id, *place, is_over, document);
            delta.highest.see(row.lease, row.sequence);
        }
        for (decision, place) in batch.decisions.iter().zip(&encoded.decisions) {
            delta.decision(decision.job_id.as_str(), &decision.admission_id, *place);
        }
        delta.submissions.extend(batch.submissions.iter().cloned());
        delta.settings.extend(batch.settings.clone());
        delta.until = after;
        drop(pending);
        let from = if before.segment == after.segment { before.offset } else { 0 };
        let mut work = self.work();
        work.bytes += after.offset.saturating_sub(from);
        if work.bytes >= self.options.checkpoint_bytes && !work.writing {
            self.changed.notify_all();
        }
    }

    /// Waits while a checkpoint is far behind: memory must not grow with what is not in the index.
    pub(super) fn wait_for_room(&self) {
        let limit = self.options.checkpoint_bytes.saturating_mul(BEHIND);
        let mut work = self.work();
        while work.writing && !work.failed && work.bytes > limit {
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes checkpoints until it is told to stop.
    pub(super) fn run(&self) {
        loop {
            let work = self.work();
            let early = |work: &mut Work| !work.stopping && (work.failed || work.bytes < self.options.checkpoint_bytes);
            let (work, _) = self
                .changed
                .wait_timeout_while(work, self.options.checkpoint_interval, early)
                .unwrap_or_else(PoisonError::into_inner);
            if work.stopping {
                return;
            }
            drop(work);
            if let Err(error) = self.checkpoint() {
                tracing::error!("the index cannot be written, and the log grows until it can: {error}");
            } else if let Err(error) = self.retire() {
                tracing::error!("what is older than the retention cannot be forgotten: {error}");
            }
        }
    }

    pub(super) fn stop(&self) {
        self.work().stopping = true;
        self.changed.notify_all();
    }

    /// Takes everything committed so far into the index.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        let mut written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(delta) = self.take() else { return Ok(()) };
        let bytes = {
            let mut work = self.work();
            work.writing = true;
            work.bytes
        };
        let result = self.shared.index.apply(&delta, &self.shared.segments, self.repeatable_since());
        if result.is_ok() {
            written.until = delta.until;
            self.shared.pending().flushing = None;
        }
        let mut work = self.work();
        work.writing = false;
        work.failed = result.is_err();
        if result.is_ok() {
            work.bytes = work.bytes.saturating_sub(bytes);
        }
        drop(work);
        self.changed.notify_all();
        result
    }

    /// What is to be written: what came since, and what could not be written the last time.
    fn take(&self) -> Option<Arc<Delta>> {
        let mut pending = self.shared.pending();
        let empty = Delta::new(pending.current.until, pending.current.highest);
        let current = std::mem::replace(&mut pending.current, empty);
        let delta = match pending.flushing.take() {
            None if current.is_empty() => return None,
            None => Arc::new(current),
            Some(mut older) => {
                Arc::make_mut(&mut older).absorb(current);
                older
            }
        };
        pending.flushing = Some(delta.clone());
        Some(delta)
    }

    fn repeatable_since(&self) -> i64 {
        let seconds = micros((self.options.clock)()) - i64::try_from(REPEATABLE.as_micros()).unwrap_or(i64::MAX);
        seconds.max(micros(Timestamp::MIN))
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
