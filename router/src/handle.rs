//! How the faces talk to the task that owns the state.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
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
    /// There is no such runner.
    #[error("there is no runner `{0}`")]
    NoSuchRunner(String),
    /// There is no such runner group.
    #[error("there is no runner group `{0}`")]
    NoSuchRunnerGroup(String),
    /// A runner that is not in the group cannot lead it.
    #[error("runner `{runner}` is not in the runner group `{group}`")]
    NotInGroup {
        /// The runner.
        runner: String,
        /// The group.
        group: String,
    },
    /// Nobody leads a group of which everybody gets jobs.
    #[error("the runner group `{0}` has no leader: it is not `single_leader`")]
    NotSingleLeader(String),
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
    /// Whether it takes jobs without tags.
    pub run_untagged: bool,
    /// Whether it takes jobs of protected refs only.
    pub protected: bool,
    /// Spillover: higher ones get jobs first.
    pub priority: i32,
    /// Its runner group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    /// Its capability fingerprint, in hexadecimal.
    pub fingerprint: String,
    /// `online`, `draining`, `silent` (no heartbeat for 15 s) or `offline`.
    pub state: &'static str,
    /// Jobs it runs at once, over all its systems.
    pub capacity: u64,
    /// Jobs it has.
    pub running: u64,
    /// Whether one of its systems leads its runner group.
    pub leader: bool,
    /// Whether it is pinned as the leader.
    pub pinned: bool,
    /// What keeps it out.
    pub taints: Vec<TaintStatus>,
    /// Its streams.
    pub systems: Vec<SystemStatus>,
}

/// A taint as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct TaintStatus {
    /// Out of what.
    pub kind: TaintKind,
    /// One of its systems; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Arc<str>>,
    /// Why.
    pub reason: String,
    /// Who said so; `runner` for the runner itself.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

/// One stream of a runner as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct SystemStatus {
    /// The machine or process.
    pub system_id: String,
    /// Version of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `online`, `draining` or `silent`.
    pub state: &'static str,
    /// Jobs it runs at once.
    pub capacity: u32,
    /// Free slots it granted.
    pub credits: u32,
    /// Jobs it has.
    pub running: usize,
    /// Whether it leads its runner group.
    pub leader: bool,
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
    /// Demand and capacity of each capability group: those of attached and of configured runners, and those that waiting
    /// jobs lack.
    pub groups: Vec<GroupQueue>,
    /// Runner groups with a single leader.
    pub leaders: Vec<LeaderStatus>,
}

/// Demand for the runners of one capability group, and what they have.
#[derive(Clone, Debug, Serialize)]
pub struct GroupQueue {
    /// The capability fingerprint, in hexadecimal.
    pub fingerprint: String,
    /// `instance`, `group` or `project`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its group or project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What its runners offer.
    pub tags: Vec<String>,
    /// Whether they take jobs without tags.
    pub run_untagged: bool,
    /// Whether they take jobs of protected refs only.
    pub protected: bool,
    /// Whether any runner of the group is configured or attached. If not, this is what waiting jobs lack.
    pub served: bool,
    /// Jobs waiting that it could take. A job counts in every group that could take it.
    pub waiting: u64,
    /// Jobs its runners have.
    pub running: u64,
    /// Age of the oldest of the waiting ones, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_wait_seconds: Option<u64>,
    /// Slots of its attached runners.
    pub capacity: u64,
    /// Free ones of them.
    pub free: u64,
    /// Its attached streams.
    pub systems: u64,
}

/// Who leads a runner group.
#[derive(Clone, Debug, Serialize)]
pub struct LeaderStatus {
    /// The runner group.
    pub group: Arc<str>,
    /// The runner that leads; absent while nobody can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner: Option<Arc<str>>,
    /// Its system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Arc<str>>,
    /// The runner that is pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Arc<str>>,
    /// Number of this leadership; every change makes it higher.
    pub fence: u64,
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

/// A job, how it came to where it is, and what it waits for.
#[derive(Clone, Debug)]
pub struct JobDetails {
    /// Its record.
    pub job: Arc<JobRecord>,
    /// What happened to it, oldest first. Of very many the ones in the middle are left out.
    pub events: Vec<JobEvent>,
    /// What it waits for; `None` when it does not wait.
    pub waits: Option<Waits>,
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobEvent {
    /// When.
    pub time: Timestamp,
    /// Where it was then.
    #[serde(serialize_with = "state_name")]
    pub state: JobState,
    /// What happened, for people: `refused by runner a: disk is full`.
    pub text: String,
}

/// What a job waits for.
#[derive(Clone, Debug, Serialize)]
pub struct Waits {
    /// The one thing to know: `no_matching_runner`, `no_runner_online`, `all_full`, `spillover_hold`, `admission`, `kept_from_runner`,
    /// `not_leader`, `store`, `draining`.
    pub why: &'static str,
    /// The same in a sentence, with the nearest miss.
    pub text: String,
    /// For each capability group the first thing that keeps it and the job apart; nearest first.
    pub groups: Vec<Obstacle>,
}

/// What keeps a job and the runners of a capability group apart.
#[derive(Clone, Debug, Serialize)]
pub struct Obstacle {
    /// The capability fingerprint, in hexadecimal.
    pub fingerprint: String,
    /// Runners of the group, by name; at most ten.
    pub runners: Vec<Arc<str>>,
    /// One of the words of [`Waits::why`], or `tags`, `untagged`, `protected`, `owner`.
    pub what: &'static str,
    /// The same in a sentence: which tag or property is lacking.
    pub text: String,
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
    Explain(JobId, Reply<JobDetails>),
    Operate(RunnerAction, Reply<()>),
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
            Self::Explain(_, reply) => tell(reply, error),
            Self::Operate(_, reply) => tell(reply, error),
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

    /// One job with its events, and what it waits for.
    ///
    /// # Errors
    ///
    /// [`CoreError::NoSuchJob`], [`CoreError::Closing`].
    pub async fn explain(&self, id: &JobId) -> Result<JobDetails, CoreError> {
        self.ask(|reply| Command::Explain(id.clone(), reply)).await
    }

    /// Does something to runners: taints, pins, drains.
    ///
    /// # Errors
    ///
    /// [`CoreError::NoSuchRunner`], [`CoreError::NoSuchRunnerGroup`], [`CoreError::NotInGroup`],
    /// [`CoreError::NotSingleLeader`], [`CoreError::StoreUnavailable`], [`CoreError::Closing`].
    pub async fn operate(&self, action: RunnerAction) -> Result<(), CoreError> {
        self.ask(|reply| Command::Operate(action, reply)).await
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

impl JobFilter {
    /// Whether a job is one of those asked for, wherever it stands in the list.
    pub(crate) fn fits(&self, record: &JobRecord) -> bool {
        (self.states.is_empty() || self.states.contains(&record.state))
            && self.project.as_ref().is_none_or(|project| *project == record.project)
    }
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn state_name<S: serde::Serializer>(state: &JobState, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state.as_str())
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
