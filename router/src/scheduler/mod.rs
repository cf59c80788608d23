//! The state machine that owns jobs and runners. It does no I/O and reads no clock: methods take `now`, change the state, and
//! leave behind what is to be done ([`Outcome`]).

mod job;
mod leases;
mod look;
mod matching;
mod session;
#[cfg(test)]
mod tests;
mod versions;
mod waiting;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use jobgate_sdk::Runner;

use job::{Grant, Stamp};
pub(crate) use job::{Job, Phase};
use session::SessionState;
use versions::Versions;
use waiting::{Place, Waiting};

use crate::{
    admission::Conclusion,
    chain::{ChainVersion, Chains, Part},
    config::RunnerConfig,
    decision::Cause,
    handle::{CoreError, RunnerOrder, Session},
    job::{JobId, JobRecord, JobState, Lease, NewJob},
    path::ProjectPath,
};

/// A lease lives so long after the runner's last sign of life.
pub(crate) const LEASE: Duration = Duration::from_secs(45);
/// A runner that was silent for so long gets no new jobs: three heartbeats are missing.
pub(crate) const HEALTHY: Duration = Duration::from_secs(15);
/// A job is lost so often before it was started until it fails.
const MOST_LOSSES: u32 = 3;
/// A job that waits longer is dropped; GitLab's own limit.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// Shortest and longest pause before a job with `on_failure: wait` is asked about again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A job's chain may change so often while it is asked, before the job waits a while.
const MOST_RESTARTS: u32 = 3;
const RESTARTED: &str = "its chain changes faster than it can be asked";
/// A job is kept from a runner so long whose controller failed.
const KEEP_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// A job is kept from a runner so long that refused it.
const KEEP_AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// The time, told from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Monotonic, since the router started; for everything that waits.
    pub(crate) tick: Duration,
    /// By the calendar; for records only.
    pub(crate) wall: Timestamp,
}

/// What is to be done after a step, once the step is committed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Jobs whose record changed, in order; later ones of the same job go further.
    pub(crate) changed: Vec<Arc<JobRecord>>,
    /// What leaves the state machine.
    pub(crate) effects: Vec<Effect>,
}

/// Something that leaves the state machine.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Ask a job's chain, as far as it can be asked before a runner is chosen.
    Ask { job: JobId, admission: Arc<str> },
    /// Ask what is left of it about this runner.
    AskAboutRunner { job: JobId, admission: Arc<str>, runner: Arc<Runner> },
    /// Tell a runner.
    Order(Session, RunnerOrder),
    /// End a runner's stream.
    End(Session, CoreError),
}

/// What an admission came to, as far as scheduling is concerned.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) job: JobId,
    pub(crate) admission: Arc<str>,
    pub(crate) conclusion: Conclusion,
    pub(crate) version: ChainVersion,
    pub(crate) cause: Option<Cause>,
    pub(crate) reason: String,
}

/// How much the scheduler holds, and for how long decisions serve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_jobs: usize,
    pub(crate) max_finished: usize,
    pub(crate) admission_ttl: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Lease(JobId, Lease),
    Silence(Session),
    Retry(JobId),
    Stuck(JobId),
    Match(JobId),
}

pub(crate) struct Scheduler {
    limits: Limits,
    chains: Chains,
    jobs: BTreeMap<JobId, Job>,
    finished: VecDeque<JobId>,
    waiting: Waiting,
    sessions: BTreeMap<Session, SessionState>,
    timers: BTreeSet<(Duration, Timer)>,
    versions: Versions,
    /// Jobs by state.
    counts: BTreeMap<&'static str, usize>,
    sequence: u64,
    lease: u64,
    session: u64,
    draining: bool,
    /// Nothing is assigned while the store cannot write.
    paused: bool,
    outcome: Outcome,
}

impl Scheduler {
    pub(crate) fn new(chains: Chains, limits: Limits) -> Self {
        Self {
            limits,
            chains,
            jobs: BTreeMap::new(),
            finished: VecDeque::new(),
            waiting: Waiting::default(),
            sessions: BTreeMap::new(),
            timers: BTreeSet::new(),
            versions: Versions::default(),
            counts: BTreeMap::new(),
            sequence: 0,
            lease: 0,
            session: 0,
            draining: false,
            paused: false,
            outcome: Outcome::default(),
        }
    }

    /// What is to be done since it was last taken.
    pub(crate) fn take_outcome(&mut self) -> Outcome {
        std::mem::take(&mut self.outcome)
    }

    /// When [`Scheduler::tick`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes jobs, all or none.
    pub(crate) fn submit(&mut self, jobs: Vec<NewJob>, now: Now) -> Result<Vec<(JobId, JobState)>, CoreError> {
        let living = self.jobs.len() - self.finished.len();
        if living + jobs.len() > self.limits.max_jobs {
            return Err(CoreError::QueueFull { limit: self.limits.max_jobs });
        }
        let mut submitted = Vec::with_capacity(jobs.len());
        for new in jobs {
            let id = new.id.clone();
            self.sequence += 1;
            let job = Job::new(new, self.sequence, now);
            self.timers.insert((job.stuck_at, Timer::Stuck(id.clone())));
            self.jobs.insert(id.clone(), job);
            self.changed(&id);
            self.ask(&id, None);
            submitted.push((id, JobState::Routing));
        }
        Ok(submitted)
    }

    /// The chains are other ones from now on. Decisions made under the old ones are found stale when they would serve.
    pub(crate) fn set_chains(&mut self, chains: Chains, now: Now) {
        self.use_chains(chains);
        self.match_all(now);
    }

    /// Chains and runners are others from now on, and decisions serve for another time. Streams of runners that are gone or
    /// changed end; they come back as what they are now.
    pub(crate) fn reconfigure(&mut self, chains: Chains, runners: &[Arc<RunnerConfig>], ttl: Duration, now: Now) {
        self.use_chains(chains);
        self.limits.admission_ttl = ttl;
        let changed = |state: &SessionState| runners.iter().all(|runner| *runner != state.config);
        let ended: Vec<_> =
            self.sessions.iter().filter(|(_, state)| changed(state)).map(|(session, _)| *session).collect();
        // All of them are closed before the first is detached, or one would get the jobs of another.
        for session in &ended {
            if let Some(state) = self.sessions.get_mut(session) {
                state.draining = true;
            }
        }
        for session in ended {
            self.outcome.effects.push(Effect::End(session, CoreError::RunnerChanged));
            self.detach(session, now);
        }
        self.match_all(now);
    }

    fn use_chains(&mut self, chains: Chains) {
        self.chains = chains;
        self.versions = Versions::default();
    }

    pub(crate) fn chains(&self) -> &Chains {
        &self.chains
    }

    /// Whether an admission's decision would still be used: it is the job's open one.
    pub(crate) fn awaits(&self, job: &JobId, admission: &str) -> bool {
        self.jobs.get(job).is_some_and(|job| match &job.phase {
            Phase::Routing { admission: Some(open), .. } => **open == *admission,
            Phase::Admitted { check: Some(check), .. } => *check.admission == *admission,
            _ => false,
        })
    }

    /// An admission ended. One that is not the job's open one has no effect.
    pub(crate) fn decided(&mut self, decided: Decided, now: Now) {
        let Some(job) = self.jobs.get(&decided.job) else { return };
        match &job.phase {
            Phase::Routing { admission: Some(open), .. } if *open == decided.admission => self.arrival(decided, now),
            Phase::Admitted { check: Some(check), .. } if check.admission == decided.admission => {
                self.checked(decided, now);
            }
            _ => {}
        }
    }

    /// The chain up to the project has decided.
    fn arrival(&mut self, decided: Decided, now: Now) {
        let id = decided.job;
        let reserved = self.release(&id);
        let Some(project) = self.jobs.get(&id).map(|job| job.new.project.clone()) else { return };
        let current = self.version(&project, Part::Arrival);
        match decided.conclusion {
            Conclusion::Admitted => {
                if decided.version != current && self.restarted(&id) {
                    self.back_off(&id, RESTARTED.to_owned(), now);
                    return self.reserved_again(reserved, now);
                }
                let Some(job) = self.jobs.get_mut(&id) else { return };
                if job.restarts == 0 {
                    job.waits = 0;
                }
                let stamp = Stamp { version: decided.version, at: now.tick };
                job.go(JobState::Admitted, Phase::Admitted { stamp, check: None }, String::new(), now);
                self.changed(&id);
                self.enqueue(&id);
                // The slot it was found stale for is still its own, if it is still there.
                match reserved.filter(|session| self.is_free(*session, now)) {
                    Some(session) => self.offer(&id, session, now),
                    None => self.place(&id, now),
                }
            }
            Conclusion::Rejected => self.finish(&id, JobState::Rejected, decided.reason, now),
            Conclusion::Wait => self.back_off(&id, decided.reason, now),
        }
        self.reserved_again(reserved, now);
    }

    /// Counts that a job's chain changed while it was asked; true when that was too often. Without a pause such a job
    /// would hold a slot, and ask, for ever.
    fn restarted(&mut self, id: &JobId) -> bool {
        let Some(job) = self.jobs.get_mut(id) else { return false };
        job.restarts += 1;
        job.restarts > MOST_RESTARTS
    }

    /// A slot that was held for a job is there for others.
    fn reserved_again(&mut self, reserved: Option<Session>, now: Now) {
        if let Some(session) = reserved {
            self.match_session(session, now);
        }
    }

    /// Has a job asked about again after a pause, longer each time.
    fn back_off(&mut self, id: &JobId, reason: String, now: Now) {
        self.dequeue(id);
        let Some(job) = self.jobs.get_mut(id) else { return };
        let pause = RETRY.0.saturating_mul(1 << job.waits.min(16)).min(RETRY.1);
        job.waits += 1;
        let phase = Phase::Routing { admission: None, reserved: None };
        job.go(JobState::Routing, phase, reason, now);
        self.timers.insert((now.tick + pause, Timer::Retry(id.clone())));
        self.changed(id);
    }

    /// Cancels a job in any state that is not final.
    pub(crate) fn cancel(&mut self, id: &JobId, reason: String, now: Now) -> Result<Arc<JobRecord>, CoreError> {
        let job = self.jobs.get(id).ok_or_else(|| CoreError::NoSuchJob(id.clone()))?;
        if job.record.state.is_final() {
            return Err(CoreError::AlreadyFinished(job.record.state));
        }
        if let Some(Grant { lease, session: Some(session), .. }) = job.grant() {
            let order = RunnerOrder::Cancel(id.clone(), *lease, reason.clone());
            self.outcome.effects.push(Effect::Order(*session, order));
        }
        let reserved = self.release(id);
        self.finish(id, JobState::Canceled, reason, now);
        self.reserved_again(reserved, now);
        Ok(self.jobs[id].record.clone())
    }

    /// Does what has become due.
    pub(crate) fn tick(&mut self, now: Now) {
        while let Some((at, _)) = self.timers.first() {
            if *at > now.tick {
                break;
            }
            let Some((_, timer)) = self.timers.pop_first() else { break };
            match timer {
                Timer::Lease(job, lease) => self.lease_due(&job, lease, now),
                Timer::Silence(session) => self.silence_due(session, now),
                Timer::Retry(job) => self.retry(&job),
                Timer::Stuck(job) => self.stuck(&job, now),
                Timer::Match(job) => self.place(&job, now),
            }
        }
    }

    /// Assigns nothing from now on, and tells every runner.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        let orders = self.sessions.keys().map(|session| Effect::Order(*session, RunnerOrder::Drain));
        self.outcome.effects.extend(orders);
    }

    /// Assigns nothing until [`Scheduler::resume`]. Time goes on, and runners are heard.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    /// Assigns again.
    pub(crate) fn resume(&mut self, now: Now) {
        if std::mem::take(&mut self.paused) {
            self.match_all(now);
        }
    }

    /// Whether no job goes to a runner at present.
    fn is_closed(&self) -> bool {
        self.draining || self.paused
    }

    fn retry(&mut self, id: &JobId) {
        let waits = matches!(self.jobs.get(id).map(|job| &job.phase), Some(Phase::Routing { admission: None, .. }));
        if waits {
            self.ask(id, None);
        }
    }

    fn stuck(&mut self, id: &JobId, now: Now) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.grant().is_some() {
            // It may come back, and wait again.
            job.stuck_at = now.tick + LONGEST_WAIT;
            self.timers.insert((job.stuck_at, Timer::Stuck(id.clone())));
            return;
        }
        let reserved = self.release(id);
        self.finish(id, JobState::Dropped, "no runner took it within 24 h".to_owned(), now);
        self.reserved_again(reserved, now);
    }

    /// Begins an admission of a job in routing; `reserved` keeps a free slot for it.
    fn ask(&mut self, id: &JobId, reserved: Option<Session>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.admissions += 1;
        let admission: Arc<str> = format!("{id}-{}", job.admissions).into();
        job.phase = Phase::Routing { admission: Some(admission.clone()), reserved };
        if let Some(session) = reserved.and_then(|session| self.sessions.get_mut(&session)) {
            session.reserved.insert(id.clone());
        }
        self.outcome.effects.push(Effect::Ask { job: id.clone(), admission });
    }

    /// Ends a job. Its waiting place goes; its lease is void.
    fn finish(&mut self, id: &JobId, state: JobState, reason: String, now: Now) {
        self.dequeue(id);
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let Some(session) = job.grant().and_then(|grant| grant.session)
            && let Some(session) = self.sessions.get_mut(&session)
        {
            session.jobs.remove(id);
        }
        job.go(state, Phase::Finished, reason, now);
        // What it was made of is not needed any more, and may hold secrets.
        job.new.forget();
        job.kept_from = HashMap::new();
        self.timers.remove(&(job.stuck_at, Timer::Stuck(id.clone())));
        self.changed(id);
        self.finished.push_back(id.clone());
        while self.finished.len() > self.limits.max_finished {
            if let Some(oldest) = self.finished.pop_front()
                && let Some(job) = self.jobs.remove(&oldest)
                && let Some(count) = job.counted.and_then(|state| self.counts.get_mut(state.as_str()))
            {
                *count -= 1;
            }
        }
    }

    /// Frees the slot that is held for a job, and forgets what it was held for.
    fn release(&mut self, id: &JobId) -> Option<Session> {
        let job = self.jobs.get_mut(id)?;
        let session = job.reserved()?;
        match &mut job.phase {
            Phase::Routing { reserved, .. } => *reserved = None,
            Phase::Admitted { check, .. } => *check = None,
            _ => {}
        }
        if let Some(state) = self.sessions.get_mut(&session) {
            state.reserved.remove(id);
        }
        Some(session)
    }

    fn place_of(job: &Job) -> Place {
        (Reverse(job.record.priority), job.sequence, job.record.id.clone())
    }

    fn enqueue(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get(id) {
            self.waiting.insert(&job.new, Self::place_of(job), job.record.admitted_at);
        }
    }

    fn dequeue(&mut self, id: &JobId) {
        if let Some(job) = self.jobs.get(id) {
            self.waiting.remove(&job.new, &Self::place_of(job), job.record.admitted_at);
        }
    }

    fn changed(&mut self, id: &JobId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let state = job.record.state;
        if let Some(count) = job.counted.replace(state).and_then(|before| self.counts.get_mut(before.as_str())) {
            *count -= 1;
        }
        *self.counts.entry(state.as_str()).or_default() += 1;
        self.outcome.changed.push(job.record.clone());
    }

    /// Version of a project's chain.
    fn version(&self, project: &ProjectPath, part: Part<'_>) -> ChainVersion {
        self.versions.of(&self.chains, project, part)
    }
}
