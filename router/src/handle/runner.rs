//! What runners say and are told, and what is done to them.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use serde::Serialize;

use super::CoreError;
use crate::{
    config::RunnerConfig,
    job::{JobId, JobState, Lease},
};

/// One stream of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session(pub(crate) u64);

/// What a runner says of itself when it attaches.
#[derive(Clone, Debug)]
pub struct RunnerHello {
    /// The runner its token belongs to.
    pub runner: Arc<RunnerConfig>,
    /// The machine or process.
    pub system_id: String,
    /// Version of its program.
    pub version: Option<String>,
    /// Operating system and architecture.
    pub platform: Option<String>,
    /// How it executes jobs.
    pub executor: Option<String>,
    /// Jobs it runs at once.
    pub capacity: u32,
    /// Leases it holds from before: job, lease, whether started.
    pub leases: Vec<HeldLease>,
    /// What it says keeps it away from leadership or from jobs, and why. They stay until somebody takes them away.
    pub taints: Vec<(TaintKind, String)>,
}

/// A lease a runner says it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// The job.
    pub job: JobId,
    /// The lease.
    pub lease: Lease,
    /// Whether its script has started.
    pub started: bool,
}

/// What an attached runner says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerEvent {
    /// More free slots.
    Credit(u32),
    /// The job is taken.
    Accepted(JobId, Lease),
    /// The job is not taken.
    Refused(JobId, Lease, String),
    /// Its script has started.
    Started(JobId, Lease),
    /// It printed something: a sign of life.
    Output(JobId, Lease),
    /// It is over.
    Finished(JobId, Lease, JobResult),
    /// Alive, with these leases.
    Heartbeat(Vec<HeldLease>),
    /// It wants no new jobs.
    Draining,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobResult {
    /// `Success`, `Failed` or `Canceled`.
    pub state: JobState,
    /// Exit code of the script.
    pub exit_code: Option<i32>,
    /// Why, for people.
    pub reason: String,
}

/// What an attached runner is told.
#[derive(Clone)]
pub enum RunnerOrder {
    /// Run this job.
    Assign {
        /// The job.
        job: JobId,
        /// Its lease.
        lease: Lease,
        /// Its document. Holds secrets.
        document: bytes::Bytes,
        /// Time it may run, in seconds.
        timeout_seconds: Option<i64>,
        /// Number of the leadership it is given under, in a runner group with a single leader.
        fence: Option<u64>,
    },
    /// How much work waits for runners like this one.
    Queue(QueueSignal),
    /// Stop this job.
    Cancel(JobId, Lease, String),
    /// Its result is recorded.
    Recorded(JobId, Lease),
    /// The router heard its heartbeat.
    Heartbeat,
    /// No new jobs from now on.
    Drain,
    /// The stream ends, for this reason.
    End(CoreError),
}

/// What a taint keeps a runner out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TaintKind {
    /// It does not lead its group.
    Leadership,
    /// It gets no jobs, and so does not lead either.
    Jobs,
}

/// What somebody who operates the router wants of its runners. `system` narrows it to one of a runner's systems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerAction {
    /// Keeps a runner out; it survives restarts of runner and router.
    Taint {
        /// Name of the runner.
        runner: String,
        /// One of its systems; all when absent.
        system: Option<String>,
        /// Out of what.
        kind: TaintKind,
        /// Why, for people.
        reason: String,
        /// Who says so.
        by: String,
    },
    /// Takes taints away, of one kind or of both; those of one system, or all of the runner.
    Untaint {
        /// Name of the runner.
        runner: String,
        /// One of its systems; all taints of the runner when absent.
        system: Option<String>,
        /// Of which kind; of both when absent.
        kind: Option<TaintKind>,
    },
    /// Makes a runner the leader of its group whenever it can be.
    Pin {
        /// The group.
        group: String,
        /// The runner.
        runner: String,
        /// Who says so.
        by: String,
    },
    /// Takes the pin of a group away; who leads goes on leading.
    Unpin {
        /// The group.
        group: String,
    },
    /// Has the present streams of a runner take no new jobs, until it attaches anew.
    Drain {
        /// Name of the runner.
        runner: String,
        /// One of its systems; all when absent.
        system: Option<String>,
    },
}

/// How much work waits for the runners of one capability group, as they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSignal {
    /// Jobs waiting that they could take.
    pub waiting: u64,
    /// Jobs they have.
    pub running: u64,
    /// Since when the oldest of the waiting ones waits.
    pub oldest: Option<Timestamp>,
    /// Slots of all attached runners of this kind.
    pub capacity: u64,
    /// When this was so.
    pub time: Timestamp,
}

impl TaintKind {
    /// Its name, as records have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leadership => "leadership",
            Self::Jobs => "jobs",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Leadership, Self::Jobs].into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Debug for RunnerOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assign { job, lease, .. } => write!(f, "Assign({job}, {lease:?}, [redacted])"),
            Self::Cancel(job, lease, reason) => write!(f, "Cancel({job}, {lease:?}, {reason:?})"),
            Self::Recorded(job, lease) => write!(f, "Recorded({job}, {lease:?})"),
            Self::Heartbeat => f.write_str("Heartbeat"),
            Self::Queue(signal) => write!(f, "Queue({signal:?})"),
            Self::Drain => f.write_str("Drain"),
            Self::End(error) => write!(f, "End({error:?})"),
        }
    }
}
