//! Jobs, and what happened to them.

use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::{artifacts::Upload, dispatch::with, documents::JobDocument, shared::State};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Nobody has it.
    Queued,
    /// Assigned, and waits for the runner's acknowledgement (facts 5.1).
    Pending,
    Running,
    Canceling,
    Canceled,
    Success,
    Failed,
}

/// A job, and all that happened to it.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: u64,
    pub token: String,
    pub document: Bytes,
    /// The only runner that may have it.
    pub runner: Option<String>,
    pub status: Status,
    /// To whom it went. More than one would be a fault of the fake: GitLab assigns once.
    pub assignments: Vec<Assignment>,
    /// Each accepted `state`, in order; a run of the same once.
    pub updates: Vec<String>,
    /// Accepted updates that changed nothing, which keep a job alive.
    pub keep_alives: usize,
    /// Updates and trace that came when the job did not execute.
    pub refused: usize,
    /// As stored: an unknown one is `unknown_failure`.
    pub failure_reason: Option<String>,
    /// As sent.
    pub sent_reason: Option<String>,
    pub exit_code: Option<i64>,
    /// What the runner said about its trace at the end.
    pub checksum: Option<String>,
    pub trace: Vec<u8>,
    pub uploads: Vec<Upload>,
    /// Final states answered 202 so far.
    pub(super) persisting: usize,
}

/// Who got a job.
#[derive(Clone, Debug)]
pub struct Assignment {
    pub token: String,
    pub system_id: String,
    pub request_id: Option<String>,
    /// `info` of the request.
    pub info: Value,
    pub at: Instant,
    /// The place of the request in [`GitLab::all_calls`], when calls are kept.
    pub call: Option<usize>,
}

impl Status {
    pub fn is_final(self) -> bool {
        matches!(self, Self::Canceled | Self::Success | Self::Failed)
    }

    pub(super) fn executes(self) -> bool {
        matches!(self, Self::Running | Self::Canceling)
    }

    /// What `Job-Status` says.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued | Self::Pending => "pending",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Canceled => "canceled",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }
}

impl Assignment {
    pub fn has_feature(&self, feature: &str) -> bool {
        self.info["features"][feature] == true
    }
}

impl Job {
    pub(super) fn new(document: JobDocument, runner: Option<&str>) -> Self {
        Self {
            id: document.id,
            token: document.token,
            document: document.bytes,
            runner: runner.map(str::to_owned),
            status: Status::Queued,
            assignments: Vec::new(),
            updates: Vec::new(),
            keep_alives: 0,
            refused: 0,
            failure_reason: None,
            sent_reason: None,
            exit_code: None,
            checksum: None,
            trace: Vec::new(),
            uploads: Vec::new(),
            persisting: 0,
        }
    }

    pub fn trace_text(&self) -> String {
        String::from_utf8_lossy(&self.trace).into_owned()
    }

    /// The manager that has it.
    pub fn system_id(&self) -> Option<&str> {
        self.assignments.last().map(|to| to.system_id.as_str())
    }

    /// Every answer about a job says its status.
    pub(super) fn says(&self, response: Response) -> Response {
        with(response, [("job-status", self.status.name())])
    }

    pub(super) fn drop_with(&mut self, reason: &str) {
        self.status = Status::Failed;
        self.failure_reason = Some(reason.to_owned());
    }
}

impl State {
    /// The job of a call, if the token is its own. Which errors GitLab has here is not in the facts beyond 4.2 and 4.3: a
    /// job that is not there is 404, a token that does not fit 403.
    pub(super) fn job_of(&mut self, id: u64, token: Option<&str>) -> Result<&mut Job, u16> {
        match self.jobs.get_mut(&id) {
            None => Err(404),
            Some(job) if token != Some(job.token.as_str()) => Err(403),
            Some(job) => Ok(job),
        }
    }
}
