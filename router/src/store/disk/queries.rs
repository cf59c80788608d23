//! Questions to the index about what is over.

use redb::ReadableTable;

use super::{
    frame::Place,
    index::{DECISIONS, DecisionKey, Index, OVER},
};
use crate::store::StoreError;

impl Index {
    /// Where the last row of a job that is over lies.
    pub(super) fn over(&self, job: &str) -> Result<Option<Place>, StoreError> {
        self.read(|read| Ok(read.open_table(OVER)?.get(job)?.map(|place| Place::from_row(place.value()))))
    }

    /// Jobs that are over, newest id first, from the one before `before`.
    pub(super) fn over_before(&self, before: Option<&str>, limit: usize) -> Result<Vec<(String, Place)>, StoreError> {
        self.read(|read| {
            let table = read.open_table(OVER)?;
            let range = match before {
                Some(before) => table.range(..before)?,
                None => table.range::<&str>(..)?,
            };
            let mut found = Vec::new();
            for row in range.rev().take(limit) {
                let (id, place) = row?;
                found.push((id.value().to_owned(), Place::from_row(place.value())));
            }
            Ok(found)
        })
    }

    /// Where the decisions about a job lie, by admission.
    pub(super) fn decisions_of(&self, job: &str) -> Result<Vec<(String, Place)>, StoreError> {
        self.read(|read| {
            let mut found = Vec::new();
            for row in read.open_table(DECISIONS)?.range((job, "")..)? {
                let (key, place) = row?;
                if key.value().0 != job {
                    break;
                }
                found.push((key.value().1.to_owned(), Place::from_row(place.value())));
            }
            Ok(found)
        })
    }

    /// Decisions about the newest jobs.
    pub(super) fn newest_decisions(&self, limit: usize) -> Result<Vec<(DecisionKey, Place)>, StoreError> {
        self.read(|read| {
            let mut found = Vec::new();
            for row in read.open_table(DECISIONS)?.iter()?.rev().take(limit) {
                let (key, place) = row?;
                let (job, admission) = key.value();
                found.push(((job.to_owned(), admission.to_owned()), Place::from_row(place.value())));
            }
            Ok(found)
        })
    }
}
