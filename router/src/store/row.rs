use std::{fmt, sync::Arc};

use jiff::Timestamp;
use jobgate_proto::job::v1 as wire;

use super::StoreError;
use crate::{
    handle::JobEvent,
    job::{JobId, JobRecord, JobState, Lease},
    path::ProjectPath,
};

/// A job as it is kept: everything that is needed to go on with it after a restart, and its record and events once it is over.
///
/// Encoded as protobuf, so that a field can be added; numbers are never used again. Times are microseconds since 1970.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JobRow {
    /// The router's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Full path of its project.
    #[prost(string, tag = "2")]
    pub project: String,
    /// Id in the system it came from.
    #[prost(string, optional, tag = "3")]
    pub source_id: Option<String>,
    /// Its name.
    #[prost(string, optional, tag = "4")]
    pub name: Option<String>,
    /// Tags it asks for.
    #[prost(string, repeated, tag = "5")]
    pub tags: Vec<String>,
    /// Whether its ref is protected.
    #[prost(bool, tag = "6")]
    pub protected: bool,
    /// Whether it runs again when its runner is lost.
    #[prost(bool, tag = "7")]
    pub retry_on_lost: bool,
    /// Time it may run, in seconds.
    #[prost(int64, optional, tag = "8")]
    pub timeout_seconds: Option<i64>,
    /// Its class, higher first.
    #[prost(sint32, tag = "9")]
    pub priority: i32,
    /// Its place in the order of submission.
    #[prost(uint64, tag = "10")]
    pub sequence: u64,
    /// Where its document lies. The store fills this in for new jobs.
    #[prost(message, optional, tag = "11")]
    pub document: Option<DocumentRef>,
    /// Its state, as `JobState as i32` of the wire (`jobgate.job.v1.JobState`).
    #[prost(int32, tag = "12")]
    pub state: i32,
    /// Why it is there.
    #[prost(string, tag = "13")]
    pub reason: String,
    /// When it was submitted.
    #[prost(int64, tag = "14")]
    pub submitted_at: i64,
    /// When its chain last admitted it.
    #[prost(int64, optional, tag = "15")]
    pub admitted_at: Option<i64>,
    /// When a runner got it.
    #[prost(int64, optional, tag = "16")]
    pub assigned_at: Option<i64>,
    /// When the runner started it.
    #[prost(int64, optional, tag = "17")]
    pub started_at: Option<i64>,
    /// When it came to a final state.
    #[prost(int64, optional, tag = "18")]
    pub finished_at: Option<i64>,
    /// The runner that has or had it.
    #[prost(string, optional, tag = "19")]
    pub runner: Option<String>,
    /// The runner's system.
    #[prost(string, optional, tag = "20")]
    pub system: Option<String>,
    /// Its latest lease.
    #[prost(uint64, optional, tag = "21")]
    pub lease: Option<u64>,
    /// Whether the runner that has it is an instance runner.
    #[prost(bool, tag = "22")]
    pub instance: bool,
    /// Exit code of its script.
    #[prost(sint32, optional, tag = "23")]
    pub exit_code: Option<i32>,
    /// Admissions begun so far.
    #[prost(uint32, tag = "24")]
    pub admissions: u32,
    /// Times a runner was lost with it before it was started.
    #[prost(uint32, tag = "25")]
    pub losses: u32,
    /// Version of the chain whose decision it was admitted under; set in states admitted, assigned and running.
    #[prost(string, optional, tag = "26")]
    pub chain_version: Option<String>,
    /// When that decision was made.
    #[prost(int64, optional, tag = "27")]
    pub decided_at: Option<i64>,
    /// What happened to it, oldest first.
    #[prost(message, repeated, tag = "28")]
    pub events: Vec<EventRow>,
    /// Number of the leadership its runner got it under.
    #[prost(uint64, optional, tag = "29")]
    pub fence: Option<u64>,
}

/// Something that happened to a job.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EventRow {
    /// When, in microseconds since 1970.
    #[prost(int64, tag = "1")]
    pub time: i64,
    /// Its state then, as in [`JobRow::state`].
    #[prost(int32, tag = "2")]
    pub state: i32,
    /// What happened.
    #[prost(string, tag = "3")]
    pub text: String,
}

/// Where a document lies in a store.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DocumentRef {
    /// The segment.
    #[prost(uint64, tag = "1")]
    pub segment: u64,
    /// Its first byte there.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Its length in bytes.
    #[prost(uint32, tag = "3")]
    pub length: u32,
}

impl EventRow {
    /// Where the job was; `None` for a number that no version of jobgate wrote.
    pub(crate) fn job_state(&self) -> Option<JobState> {
        state_from_wire(self.state)
    }
}

impl fmt::Display for DocumentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}, offset {}, {} bytes", self.segment, self.offset, self.length)
    }
}

impl JobRow {
    /// Its record, as people and programs look at it.
    ///
    /// # Errors
    ///
    /// When the row says what no job can be: it is damaged, or from a newer version.
    pub fn record(&self) -> Result<JobRecord, StoreError> {
        let unusable = |what: &str| StoreError::new(format!("job {}: its row in the store has {what}", self.id));
        let time = |micros: i64| Timestamp::from_microsecond(micros).map_err(|_| unusable("a time out of range"));
        Ok(JobRecord {
            id: JobId::new(self.id.as_str()),
            project: self.project.parse::<ProjectPath>().map_err(|_| unusable("a project path that is none"))?,
            source_id: self.source_id.clone(),
            name: self.name.clone(),
            state: self.job_state().ok_or_else(|| unusable("an unknown state"))?,
            reason: self.reason.clone(),
            submitted_at: time(self.submitted_at)?,
            admitted_at: self.admitted_at.map(time).transpose()?,
            assigned_at: self.assigned_at.map(time).transpose()?,
            started_at: self.started_at.map(time).transpose()?,
            finished_at: self.finished_at.map(time).transpose()?,
            runner: self.runner.as_deref().map(Arc::from),
            lease: self.lease.map(Lease),
            priority: self.priority,
            exit_code: self.exit_code,
        })
    }

    /// What happened to it, oldest first. An event that no version of jobgate could have written is left out.
    #[must_use]
    pub fn events(&self) -> Vec<JobEvent> {
        let event = |row: &EventRow| {
            Some(JobEvent {
                time: Timestamp::from_microsecond(row.time).ok()?,
                state: state_from_wire(row.state)?,
                text: row.text.clone(),
            })
        };
        self.events.iter().filter_map(event).collect()
    }

    /// Where it is; `None` for a number that no version of jobgate wrote.
    pub(crate) fn job_state(&self) -> Option<JobState> {
        state_from_wire(self.state)
    }
}

fn state_from_wire(number: i32) -> Option<JobState> {
    JobState::ALL.into_iter().find(|state| wire::JobState::from(*state) as i32 == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_record_or_says_why_not() {
        let row = JobRow {
            id: "1".to_owned(),
            project: "acme/x".to_owned(),
            state: wire::JobState::Failed.into(),
            submitted_at: 1_800_000_000_000_000,
            lease: Some(7),
            exit_code: Some(-1),
            events: vec![EventRow { time: 5, state: wire::JobState::Running.into(), text: "started".to_owned() }],
            ..JobRow::default()
        };
        let record = row.record().unwrap();
        assert_eq!((record.state, record.lease, record.exit_code), (JobState::Failed, Some(Lease(7)), Some(-1)));
        assert_eq!(record.submitted_at.as_microsecond(), row.submitted_at);
        let events = row.events();
        assert_eq!((events.len(), events[0].state, &*events[0].text), (1, JobState::Running, "started"));
        for (broken, what) in [
            (JobRow { state: 0, ..row.clone() }, "an unknown state"),
            (JobRow { project: "../x".to_owned(), ..row.clone() }, "a project path"),
            (JobRow { started_at: Some(i64::MAX), ..row.clone() }, "a time out of range"),
        ] {
            let error = broken.record().unwrap_err().to_string();
            assert!(error.contains("job 1") && error.contains(what), "{error}");
        }
    }
}
