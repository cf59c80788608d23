//! How the faces talk to the task that owns the state.

mod look;
mod runner;

use std::sync::Arc;

pub use look::{
    GroupQueue, JobDetails, JobEvent, LeaderStatus, Obstacle, QueueStatus, RunnerStatus, SystemStatus, TaintStatus,
    Waits,
};
pub use runner::{
    HeldLease, JobResult, QueueSignal, RunnerAction, RunnerEvent, RunnerHello, RunnerOrder, Session, TaintKind,
};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    core::{HandOutCommand, Judged, Ruled},
    decision::Decision,
    job::{JobId, JobRecord, JobState, NewJob},
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
    HandOut(HandOutCommand),
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
            Self::HandOut(command) => return command.refuse(error).map(Self::HandOut),
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

    /// What becomes of a job of GitLab about which a decision was made.
    pub(crate) async fn judge(&self, judged: Judged) -> Result<Ruled, CoreError> {
        self.ask(|reply| Command::HandOut(HandOutCommand::Decided(Box::new(judged), reply))).await
    }

    /// Passes on what happened to a job of GitLab, without waiting for a place in the inbox.
    pub(crate) fn tell(&self, command: HandOutCommand) {
        if let Err(mpsc::error::TrySendError::Full(command)) = self.inbox.try_send(Command::HandOut(command)) {
            let inbox = self.inbox.clone();
            tokio::spawn(async move { drop(inbox.send(command).await) });
        }
    }

    /// Passes on what happened to a job of GitLab.
    pub(crate) async fn handout(&self, command: HandOutCommand) {
        // A closed inbox means that the router is gone; what is kept is taken up at its next start.
        let _ = self.inbox.send(Command::HandOut(command)).await;
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
