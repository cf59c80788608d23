use std::{fmt, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use jobgate_proto::job::v1 as wire;

use crate::{
    path::ProjectPath,
    view::{View, ViewRejection},
};

/// The router's own id of a job.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(Arc<str>);

/// Number of a lease: the right of one runner to one job. A later lease of the job voids this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(pub u64);

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobState {
    /// Its chain is being asked, or will be.
    Routing,
    /// Its chain admitted it; it waits for a runner.
    Admitted,
    /// A runner has it and has not started it.
    Assigned,
    /// A runner executes it.
    Running,
    /// Its chain refused it.
    Rejected,
    /// It ran and succeeded.
    Success,
    /// It ran and failed, or its runner was lost.
    Failed,
    /// Somebody canceled it.
    Canceled,
    /// The router gave up on it.
    Dropped,
}

/// A job as it arrives: its document, its view, and what scheduling needs of them.
#[derive(Clone)]
pub struct NewJob {
    /// The router's id, made at the edge.
    pub id: JobId,
    /// The document, byte for byte as it came. Holds secrets.
    pub document: Bytes,
    /// What controllers may be told of it; or why it is rejected before any of them is asked.
    pub view: Result<Arc<View>, ViewRejection>,
    /// Whose it is.
    pub project: ProjectPath,
    /// Tags it asks for. Unknown ones count as none.
    pub tags: Vec<String>,
    /// Whether its ref is protected. Unknown counts as not.
    pub protected: bool,
    /// Run it again when its runner is lost.
    pub retry_on_lost: bool,
    /// Id in the system it came from.
    pub source_id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Time it may run, in seconds.
    pub timeout_seconds: Option<i64>,
    /// Its class, higher first. The router sets it by the rules of its configuration.
    pub priority: i32,
}

/// A job without its document, as people and programs look at it.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// The router's id.
    pub id: JobId,
    /// Whose it is.
    pub project: ProjectPath,
    /// Id in the system it came from.
    pub source_id: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Where it is.
    pub state: JobState,
    /// Why it is there; may be empty.
    pub reason: String,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When its chain last admitted it.
    pub admitted_at: Option<Timestamp>,
    /// When a runner got it.
    pub assigned_at: Option<Timestamp>,
    /// When the runner started it.
    pub started_at: Option<Timestamp>,
    /// When it came to a final state.
    pub finished_at: Option<Timestamp>,
    /// The runner that has or had it.
    pub runner: Option<Arc<str>>,
    /// Its latest lease.
    pub lease: Option<Lease>,
    /// Scheduling class, higher first.
    pub priority: i32,
    /// Exit code of its script.
    pub exit_code: Option<i32>,
}

impl JobId {
    /// An id from text that is one already.
    #[must_use]
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// A fresh id, in the order of time.
    #[must_use]
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().simple().to_string().into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JobState {
    /// All of them, those of a living job first.
    pub const ALL: [Self; 9] = [
        Self::Routing,
        Self::Admitted,
        Self::Assigned,
        Self::Running,
        Self::Rejected,
        Self::Success,
        Self::Failed,
        Self::Canceled,
        Self::Dropped,
    ];

    /// The states a job may come to from this one.
    #[must_use]
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::Routing => &[Self::Admitted, Self::Rejected, Self::Canceled, Self::Dropped],
            // Back to routing: its decision is stale, the chain is asked again.
            Self::Admitted => &[Self::Routing, Self::Assigned, Self::Canceled, Self::Dropped],
            // Back to admitted: the runner refused it, or was lost.
            Self::Assigned => &[Self::Admitted, Self::Running, Self::Failed, Self::Canceled],
            // Back to admitted: its runner was lost, and the job says `retry_on_lost`.
            Self::Running => &[Self::Success, Self::Failed, Self::Canceled, Self::Dropped, Self::Admitted],
            Self::Rejected | Self::Success | Self::Failed | Self::Canceled | Self::Dropped => &[],
        }
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.next().is_empty()
    }

    /// Its name, as records have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::Admitted => "admitted",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Rejected => "rejected",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Dropped => "dropped",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl From<JobState> for wire::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Routing => Self::Routing,
            JobState::Admitted => Self::Admitted,
            JobState::Assigned => Self::Assigned,
            JobState::Running => Self::Running,
            JobState::Rejected => Self::Rejected,
            JobState::Success => Self::Success,
            JobState::Failed => Self::Failed,
            JobState::Canceled => Self::Canceled,
            JobState::Dropped => Self::Dropped,
        }
    }
}

impl From<&JobRecord> for wire::JobRecord {
    fn from(record: &JobRecord) -> Self {
        let time =
            |time: Timestamp| prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() };
        Self {
            id: record.id.to_string(),
            source_id: record.source_id.clone(),
            state: wire::JobState::from(record.state).into(),
            reason: record.reason.clone(),
            submitted_at: Some(time(record.submitted_at)),
            admitted_at: record.admitted_at.map(time),
            assigned_at: record.assigned_at.map(time),
            started_at: record.started_at.map(time),
            finished_at: record.finished_at.map(time),
            runner: record.runner.as_deref().map(str::to_owned),
            lease: record.lease.map(|lease| lease.0),
            priority: record.priority,
            project: record.project.to_string(),
            name: record.name.clone(),
            exit_code: record.exit_code,
        }
    }
}

impl fmt::Debug for NewJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob").field("id", &self.id).field("document", &"[redacted]").finish_non_exhaustive()
    }
}
