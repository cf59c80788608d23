//! How the faces talk to the task that owns the state.

use std::{fmt, sync::Arc};

use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    config::RunnerConfig,
    decision::Decision,
    job::{JobId, JobRecord, JobState, Lease, NewJob},
    path::ProjectPath,
};

/// A client of the task that owns jobs and runners; cheap to clone. Every method is one message and its answer; what an
/// answer says is committed. While the store cannot write, questions are answered with [`CoreError::StoreUnavailable`]: what
/// the task knows then may not be durable.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) inbox: mpsc::Sender<Command>,
    pub(crate) changes: broadcast::Sender<Arc<JobRecord>>,
}

/// Why the router could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CoreError {
    /// The router shuts down.
    #[error("the router is shutting down")]
    Closing,
    /// The store cannot write: nothing new is taken until it can.
    #[error("the router cannot write its state; nothing is accepted until it can")]
    StoreUnavailable,
    /// There are too many jobs.
    #[error("the queue is full ({limit} jobs); try again later")]
    QueueFull {
        /// Jobs it may hold.
        limit: usize,
    },
    /// An idempotency key was used before with other documents.
    #[error("this idempotency key was used with other documents")]
    KeyReused,
    /// There is no such job.
    #[error("there is no job `{0}`")]
    NoSuchJob(JobId),
    /// The job is over.
    #[error("the job is already {}", .0.as_str())]
    AlreadyFinished(JobState),
    /// A page token that this router did not give out.
    #[error("this page token is not one of ours")]
    BadPageToken,
    /// There is no such attached runner.
    #[error("this runner is not attached")]
    NotAttached,
    /// The same system attached again; this stream ends.
    #[error("the same system attached again")]
    Superseded,
    /// The configuration of the runner changed; its stream ends, and it may attach again as what it is now.
    #[error("the configuration of this runner changed; attach again")]
    RunnerChanged,
    /// The runner was silent for too long; its stream ends.
    #[error("nothing was heard from the runner for too long")]
    Silent,
    /// The runner broke the protocol; its stream ends.
    #[error("{0}")]
    Protocol(String),
}

/// Makes a repeated submission harmless.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Name of the token that submits.
    pub token: Arc<str>,
    /// The key.
    pub key: String,
    /// SHA-256 of the documents.
    pub digest: [u8; 32],
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// In one of these states; empty: any.
    pub states: Vec<JobState>,
    /// Of this project.
    pub project: Option<ProjectPath>,
    /// At most so many.
    pub limit: usize,
    /// Only jobs before this one (newest first).
    pub before: Option<JobId>,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<Arc<JobRecord>>,
    /// Where the next page begins.
    pub next: Option<JobId>,
}

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
    },
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

/// A runner as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct RunnerStatus {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// `instance`, `group` or `project`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its group or project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What it offers.
    pub tags: Vec<String>,
    /// `online`, `draining` or `offline`.
    pub state: &'static str,
    /// Its streams.
    pub systems: Vec<SystemStatus>,
}

/// One stream of a runner as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct SystemStatus {
    /// The machine or process.
    pub system_id: String,
    /// Version of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Jobs it runs at once.
    pub capacity: u32,
    /// Free slots it granted.
    pub credits: u32,
    /// Jobs it has.
    pub running: usize,
}

/// How many jobs wait, and for how long.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueStatus {
    /// Jobs by state.
    pub jobs: std::collections::BTreeMap<&'static str, usize>,
    /// Age of the oldest job that waits for a runner, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_wait_seconds: Option<u64>,
    /// Free slots of all attached runners.
    pub free_slots: u64,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, CoreError>>;

/// A message to the task that owns the state.
#[derive(Debug)]
pub(crate) enum Command {
    Submit(Vec<NewJob>, Option<IdempotencyKey>, Reply<Vec<(JobId, JobState)>>),
    Job(JobId, Reply<Arc<JobRecord>>),
    List(JobFilter, Reply<JobPage>),
    Cancel(JobId, String, Reply<Arc<JobRecord>>),
    Decisions(Option<JobId>, usize, Reply<Vec<Arc<Decision>>>),
    Attach(RunnerHello, Reply<(Session, mpsc::Receiver<RunnerOrder>)>),
    Runner(Session, RunnerEvent),
    Detach(Session),
    Runners(Reply<Vec<RunnerStatus>>),
    Queue(Reply<QueueStatus>),
    Drain(Reply<()>),
}

impl Command {
    /// Answers a question with an error; gives back what is no question.
    pub(crate) fn refuse(self, error: CoreError) -> Option<Self> {
        fn tell<T>(reply: Reply<T>, error: CoreError) {
            // Who does not wait any more needs no answer.
            let _ = reply.send(Err(error));
        }
        match self {
            Self::Submit(_, _, reply) => tell(reply, error),
            Self::Job(_, reply) | Self::Cancel(_, _, reply) => tell(reply, error),
            Self::List(_, reply) => tell(reply, error),
            Self::Decisions(_, _, reply) => tell(reply, error),
            Self::Attach(_, reply) => tell(reply, error),
            Self::Runners(reply) => tell(reply, error),
            Self::Queue(reply) => tell(reply, error),
            Self::Runner(..) | Self::Detach(_) | Self::Drain(_) => return Some(self),
        }
        None
    }
}

impl Handle {
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, CoreError> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(command(reply)).await.map_err(|_| CoreError::Closing)?;
        answer.await.map_err(|_| CoreError::Closing)?
    }

    /// Submits jobs, all or none; they are committed when it answers.
    ///
    /// # Errors
    ///
    /// [`CoreError::QueueFull`], [`CoreError::KeyReused`], [`CoreError::StoreUnavailable`], [`CoreError::Closing`].
    pub async fn submit(
        &self,
        jobs: Vec<NewJob>,
        key: Option<IdempotencyKey>,
    ) -> Result<Vec<(JobId, JobState)>, CoreError> {
        self.ask(|reply| Command::Submit(jobs, key, reply)).await
    }

    /// One job.
    ///
    /// # Errors
    ///
    /// [`CoreError::NoSuchJob`], [`CoreError::Closing`].
    pub async fn job(&self, id: &JobId) -> Result<Arc<JobRecord>, CoreError> {
        self.ask(|reply| Command::Job(id.clone(), reply)).await
    }

    /// A page of jobs, newest first.
    ///
    /// # Errors
    ///
    /// [`CoreError::Closing`].
    pub async fn list(&self, filter: JobFilter) -> Result<JobPage, CoreError> {
        self.ask(|reply| Command::List(filter, reply)).await
    }

    /// Every change of a job's state from now on, once it is committed. A receiver that lags is told so.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<JobRecord>> {
        self.changes.subscribe()
    }

    /// Cancels a job; a runner that has it is told.
    ///
    /// # Errors
    ///
    /// [`CoreError::NoSuchJob`], [`CoreError::AlreadyFinished`], [`CoreError::Closing`].
    pub async fn cancel(&self, id: &JobId, by: &str) -> Result<Arc<JobRecord>, CoreError> {
        self.ask(|reply| Command::Cancel(id.clone(), by.to_owned(), reply)).await
    }

    /// Decisions about one job, or the newest of all; newest first.
    ///
    /// # Errors
    ///
    /// [`CoreError::Closing`].
    pub async fn decisions(&self, job: Option<JobId>, limit: usize) -> Result<Vec<Arc<Decision>>, CoreError> {
        self.ask(|reply| Command::Decisions(job, limit, reply)).await
    }

    /// Attaches a runner's stream. What the runner is told comes through the receiver; its end ends the stream.
    ///
    /// # Errors
    ///
    /// [`CoreError::Protocol`] for a hello that makes no sense, [`CoreError::Closing`].
    pub async fn attach(&self, hello: RunnerHello) -> Result<(Session, mpsc::Receiver<RunnerOrder>), CoreError> {
        self.ask(|reply| Command::Attach(hello, reply)).await
    }

    /// Passes on what an attached runner said.
    ///
    /// # Errors
    ///
    /// [`CoreError::Closing`].
    pub async fn runner(&self, session: Session, event: RunnerEvent) -> Result<(), CoreError> {
        self.inbox.send(Command::Runner(session, event)).await.map_err(|_| CoreError::Closing)
    }

    /// The stream of a runner ended. Its leases live on until they expire.
    pub async fn detach(&self, session: Session) {
        // A closed inbox means that there is nothing left to detach from.
        let _ = self.inbox.send(Command::Detach(session)).await;
    }

    /// All configured runners.
    ///
    /// # Errors
    ///
    /// [`CoreError::Closing`].
    pub async fn runners(&self) -> Result<Vec<RunnerStatus>, CoreError> {
        self.ask(Command::Runners).await
    }

    /// How much waits.
    ///
    /// # Errors
    ///
    /// [`CoreError::Closing`].
    pub async fn queue(&self) -> Result<QueueStatus, CoreError> {
        self.ask(Command::Queue).await
    }

    /// Tells all runners to drain and assigns nothing from now on.
    ///
    /// # Errors
    ///
    /// [`CoreError::Closing`].
    pub async fn drain(&self) -> Result<(), CoreError> {
        self.ask(Command::Drain).await
    }
}

impl fmt::Debug for RunnerOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assign { job, lease, .. } => write!(f, "Assign({job}, {lease:?}, [redacted])"),
            Self::Cancel(job, lease, reason) => write!(f, "Cancel({job}, {lease:?}, {reason:?})"),
            Self::Recorded(job, lease) => write!(f, "Recorded({job}, {lease:?})"),
            Self::Heartbeat => f.write_str("Heartbeat"),
            Self::Drain => f.write_str("Drain"),
            Self::End(error) => write!(f, "End({error:?})"),
        }
    }
}
