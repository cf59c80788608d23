//! What a start hands to the router.

use std::collections::HashMap;

use prost::Message;

use super::{
    DiskOptions,
    checkpoint::REPEATABLE,
    error::OpenError,
    frame::{Kind, Place},
    index::{Index, Loaded},
    replay::Replay,
    rows::{DecisionRow, micros},
    segment::Segments,
};
use crate::{
    decision::Decision,
    store::{JobRow, Restored},
};

/// How much of what is over is read back at a start.
const RECENT_JOBS: usize = 1_000;
const RECENT_DECISIONS: usize = 2_000;

/// All that is live, and what was over last.
pub(super) fn restore(
    loaded: &mut Loaded,
    replay: &mut Replay,
    index: Option<&Index>,
    reader: &Segments,
    options: &DiskOptions,
) -> Result<Restored, OpenError> {
    let mut restored = Restored {
        jobs: std::mem::take(&mut loaded.jobs),
        submissions: std::mem::take(&mut loaded.submissions),
        settings: std::mem::take(&mut loaded.settings),
        highest_lease: replay.delta.highest.lease,
        highest_sequence: replay.delta.highest.sequence,
        ..Restored::default()
    };
    if !replay.jobs.is_empty() {
        restored.jobs.retain(|job| !replay.jobs.contains_key(&job.id));
    }
    restored.jobs.extend(std::mem::take(&mut replay.jobs).into_values().flatten());
    restored.jobs.sort_by_key(|job| job.sequence);
    for (key, value) in &replay.delta.settings {
        match value {
            Some(value) => restored.settings.insert(key.clone(), value.clone()),
            None => restored.settings.remove(key),
        };
    }
    let now = micros((options.clock)());
    restored.submissions.extend(replay.delta.submissions.iter().cloned());
    restored.submissions.retain(|one| micros(one.time).saturating_add(REPEATABLE.as_micros() as i64) >= now);
    restored.submissions.sort_by_key(|submission| submission.time);
    restored.finished = recent_jobs(replay, index, reader)?;
    restored.decisions = recent_decisions(replay, index, reader)?;
    Ok(restored)
}

/// Jobs that were over last, among those submitted last: ids are in the order of submission.
fn recent_jobs(replay: &Replay, index: Option<&Index>, reader: &Segments) -> Result<Vec<JobRow>, OpenError> {
    let mut places: HashMap<String, Place> = HashMap::new();
    if let Some(index) = index {
        places.extend(index.over_before(None, RECENT_JOBS).map_err(fault)?);
    }
    places.extend(replay.delta.over_before(None).take(RECENT_JOBS).map(|(id, place)| (id.to_owned(), place)));
    places.retain(|id, _| !replay.delta.live.contains_key(id.as_str()));
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    places.truncate(RECENT_JOBS);
    let mut rows = Vec::with_capacity(places.len());
    for (_, place) in places {
        if let Some(bytes) = reader.entry(Kind::Row, place).map_err(fault)? {
            rows.push(JobRow::decode(bytes.as_slice()).map_err(fault)?);
        }
    }
    rows.sort_by(|a, b| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
    Ok(rows)
}

/// Decisions made last, among those about jobs submitted last.
fn recent_decisions(replay: &Replay, index: Option<&Index>, reader: &Segments) -> Result<Vec<Decision>, OpenError> {
    let mut places: HashMap<(String, String), Place> = HashMap::new();
    if let Some(index) = index {
        places.extend(index.newest_decisions(RECENT_DECISIONS).map_err(fault)?);
    }
    let newest = replay.delta.decisions.iter().rev().take(RECENT_DECISIONS);
    places.extend(newest.map(|((job, admission), place)| ((job.to_string(), admission.to_string()), *place)));
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    places.truncate(RECENT_DECISIONS);
    let mut decisions = Vec::with_capacity(places.len());
    for (_, place) in places {
        if let Some(bytes) = reader.entry(Kind::Decision, place).map_err(fault)? {
            let row = DecisionRow::decode(bytes.as_slice()).map_err(fault)?;
            decisions.push(row.decision().map_err(fault)?);
        }
    }
    decisions.reverse();
    decisions.sort_by_key(|decision| decision.time);
    Ok(decisions)
}

fn fault(error: impl std::fmt::Display) -> OpenError {
    OpenError::Unreadable(error.to_string())
}
