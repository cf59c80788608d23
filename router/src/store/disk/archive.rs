use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::{
    checkpoint::Shared,
    error::Fault,
    frame::{Kind, Place},
    rows::DecisionRow,
    segment::name,
};
use crate::{
    decision::Decision,
    handle::JobEvent,
    job::{JobId, JobRecord},
    store::{Archive, DocumentRef, JobRow, StoreError},
};

/// Reads what the store holds: first what was committed last, then the index; the log has what both point at.
#[derive(Debug)]
pub(super) struct DiskArchive {
    shared: Arc<Shared>,
}

impl DiskArchive {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn fault(&self, place: Place, what: impl Into<String>) -> StoreError {
        Fault::new(self.shared.medium.path(&name(place.segment)), Some(place.offset), what).into()
    }

    /// `None` when it was forgotten meanwhile.
    fn row(&self, place: Place) -> Result<Option<JobRow>, StoreError> {
        let Some(bytes) = self.shared.segments.entry(Kind::Row, place)? else { return Ok(None) };
        JobRow::decode(bytes.as_slice()).map(Some).map_err(|error| self.fault(place, error.to_string()))
    }

    fn decision(&self, place: Place) -> Result<Option<Decision>, StoreError> {
        let Some(bytes) = self.shared.segments.entry(Kind::Decision, place)? else { return Ok(None) };
        let row = DecisionRow::decode(bytes.as_slice()).map_err(|error| self.fault(place, error.to_string()))?;
        row.decision().map(Some).map_err(|what| self.fault(place, what))
    }
}

impl Archive for DiskArchive {
    fn document(&self, at: DocumentRef) -> Result<Bytes, StoreError> {
        let place = Place { segment: at.segment, offset: at.offset, length: at.length };
        let bytes = self.shared.segments.entry(Kind::Document, place)?;
        bytes.map(Bytes::from).ok_or_else(|| self.fault(place, "the segment of this document is not there any more"))
    }

    fn finished(&self, job: &JobId) -> Result<Option<(JobRecord, Vec<JobEvent>)>, StoreError> {
        let id = job.as_str();
        let mut pending = None;
        for delta in self.shared.pending().deltas() {
            if delta.live.contains_key(id) {
                return Ok(None);
            }
            pending = delta.over.get(id).copied();
            if pending.is_some() {
                break;
            }
        }
        let place = match pending {
            Some(place) => Some(place),
            None => self.shared.index.over(id)?,
        };
        let Some(row) = place.map(|place| self.row(place)).transpose()?.flatten() else { return Ok(None) };
        Ok(Some((row.record()?, row.events())))
    }

    fn list_finished(&self, before: Option<&JobId>, limit: usize) -> Result<Vec<JobRecord>, StoreError> {
        let before = before.map(JobId::as_str);
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        for delta in self.shared.pending().deltas() {
            for (id, place) in delta.over_before(before).take(limit) {
                places.entry(id.to_owned()).or_insert(place);
            }
        }
        for (id, place) in self.shared.index.over_before(before, limit)? {
            places.entry(id).or_insert(place);
        }
        let rows = places.into_values().rev().filter_map(|place| self.row(place).transpose());
        rows.take(limit).map(|row| row?.record()).collect()
    }

    fn decisions(&self, job: &JobId, limit: usize) -> Result<Vec<Decision>, StoreError> {
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        for delta in self.shared.pending().deltas() {
            for (admission, place) in delta.decisions_of(job.as_str()) {
                places.entry(admission.to_owned()).or_insert(place);
            }
        }
        for (admission, place) in self.shared.index.decisions_of(job.as_str())? {
            places.entry(admission).or_insert(place);
        }
        let mut decisions = Vec::new();
        for place in places.into_values() {
            decisions.extend(self.decision(place)?);
        }
        // Stable: those of one moment stay in the order of their admissions.
        decisions.reverse();
        decisions.sort_by_key(|decision| std::cmp::Reverse(decision.time));
        decisions.truncate(limit);
        Ok(decisions)
    }
}
