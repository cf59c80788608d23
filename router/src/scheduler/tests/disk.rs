//! A store that keeps what is committed, as rows.

use std::collections::BTreeMap;

use super::super::*;
use crate::store::{DocumentRef, JobRow, Restored};

/// What a crash leaves.
#[derive(Clone, Default)]
pub(super) struct Disk {
    rows: BTreeMap<String, JobRow>,
    settings: BTreeMap<String, Vec<u8>>,
    highest_lease: u64,
    highest_sequence: u64,
    documents: u64,
}

impl Disk {
    /// Writes what a step changed, as the task that owns the state does.
    pub(super) fn commit(
        &mut self,
        scheduler: &mut Scheduler,
        rows: &[Slot],
        new: &[NewDocument],
        settings: &BTreeMap<String, Option<Vec<u8>>>,
        now: Now,
    ) {
        let mut places = BTreeMap::new();
        for document in new {
            self.documents += 1;
            let length = u32::try_from(document.document.len()).unwrap();
            let at = DocumentRef { segment: 1, offset: self.documents, length };
            places.insert(document.job.to_string(), (document.slot, at));
        }
        for row in rows.iter().filter_map(|slot| scheduler.row(*slot, now)) {
            let mut row = row;
            if row.document.is_none() {
                row.document = places.get(&row.id).map(|(_, at)| *at);
            }
            self.highest_lease = self.highest_lease.max(row.lease.unwrap_or(0));
            self.highest_sequence = self.highest_sequence.max(row.sequence);
            self.rows.insert(row.id.clone(), row);
        }
        for (slot, at) in places.into_values() {
            scheduler.stored(slot, at);
        }
        for (key, value) in settings {
            match value {
                Some(value) => drop(self.settings.insert(key.clone(), value.clone())),
                None => drop(self.settings.remove(key)),
            }
        }
    }

    /// What is read back when the router begins again.
    pub(super) fn read(&self) -> Restored {
        let is_over = |row: &&JobRow| row.job_state().is_none_or(JobState::is_final);
        let (finished, jobs) = self.rows.values().partition::<Vec<_>, _>(is_over);
        Restored {
            jobs: jobs.into_iter().cloned().collect(),
            finished: finished.into_iter().cloned().collect(),
            settings: self.settings.clone(),
            highest_lease: self.highest_lease,
            highest_sequence: self.highest_sequence,
            ..Restored::default()
        }
    }

    pub(super) fn row(&self, job: &JobId) -> Option<&JobRow> {
        self.rows.get(job.as_str())
    }

    /// Gives a job a document that was not written when it was submitted.
    pub(super) fn put_document(&mut self, job: &JobId) {
        let row = self.rows.get_mut(job.as_str()).unwrap();
        row.document = Some(DocumentRef { segment: 9, offset: 0, length: 1 });
    }

    /// Forgets a job that is over, as a store does in time.
    pub(super) fn forget(&mut self, job: &JobId) {
        self.rows.remove(job.as_str());
    }
}
