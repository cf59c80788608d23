//! The state machine that owns jobs and runners. It does no I/O and reads no clock: methods take `now`, change the state, and
//! leave behind what is to be done ([`Outcome`]).
//!
//! | module | owns |
//! |---|---|
//! | `job`, `jobs` | jobs, and where each is in its life |
//! | `lanes` | waiting jobs, in order |
//! | `configure` | what the configuration says, at a start and after a reload |
//! | `fingerprint`, `groups` | capability groups, their free slots, spillover |
//! | `session`, `leases`, `leaders` | runners, what they say, who leads |
//! | `admissions` | a job's chain is asked, has decided, is asked again |
//! | `matching` | which job goes to which runner, and on what condition |
//! | `stuck`, `signals`, `timers` | what time brings |
//! | `restore` | rows of the store, written and read back |
//! | `look`, `explain` | what people see |

mod admissions;
#[cfg(feature = "bench")]
pub mod bench;
mod configure;
mod explain;
mod fingerprint;
mod groups;
mod job;
mod jobs;
mod lanes;
mod leaders;
mod leases;
mod look;
mod matching;
mod restore;
mod session;
mod signals;
mod stuck;
#[cfg(test)]
mod tests;
mod timers;
mod versions;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use groups::{GroupId, Groups};
use jiff::{SignedDuration, Timestamp};
pub(crate) use job::{Content, Job, Phase};
use job::{Grant, Stamp};
use jobgate_sdk::Runner;
use jobs::Jobs;
pub(crate) use jobs::Slot;
use lanes::Lanes;
use leaders::{RunnerGroup, Taint, TaintKey};
use session::SessionState;
use timers::{Timer, Timers};
use versions::Versions;

use crate::{
    admission::Conclusion,
    chain::{Chain, ChainVersion, Chains, Part},
    config::{RunnerConfig, RunnerGroupConfig, WeightRule},
    decision::Cause,
    handle::{CoreError, RunnerOrder, Session},
    job::{JobId, JobRecord, JobState, Lease, NewJob},
    path::ProjectPath,
    store::DocumentRef,
};

/// A lease lives so long after the runner's last sign of life.
pub(crate) const LEASE: Duration = Duration::from_secs(45);
/// After a restart of the router no lease passes on for so long: runners find their way back first.
pub(crate) const GRACE: Duration = Duration::from_secs(60);
/// A runner that was silent for so long gets no new jobs: three heartbeats are missing. Leadership ends then, too.
pub(crate) const HEALTHY: Duration = Duration::from_secs(15);
/// A job is lost so often before it was started until it fails.
const MOST_LOSSES: u32 = 3;
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
    /// Monotonic; for everything that waits.
    pub(crate) tick: Duration,
    /// By the calendar; for records, and for what was recorded before a restart.
    pub(crate) wall: Timestamp,
}

/// What is to be done after a step, once the step is committed.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Jobs whose record changed, in order; later ones of the same job go further.
    pub(crate) changed: Vec<Arc<JobRecord>>,
    /// The same jobs, each once: their rows are to be written.
    pub(crate) rows: Vec<Slot>,
    /// New jobs, whose documents are to be written.
    pub(crate) new: Vec<NewDocument>,
    /// What else is to be written; `None` takes a key away.
    pub(crate) settings: BTreeMap<String, Option<Vec<u8>>>,
    /// What leaves the state machine.
    pub(crate) effects: Vec<Effect>,
}

/// The document of a new job.
pub(crate) struct NewDocument {
    pub(crate) slot: Slot,
    pub(crate) job: JobId,
    /// Holds secrets.
    pub(crate) document: Bytes,
}

/// Something that leaves the state machine.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Ask a job's chain, as far as it can be asked before a runner is chosen.
    Ask { job: JobId, admission: Arc<str> },
    /// Ask what is left of it about this runner.
    AskAboutRunner { job: JobId, admission: Arc<str>, runner: Arc<Runner> },
    /// Give a job to a runner.
    Assign(Session, Box<Assignment>),
    /// Tell a runner.
    Order(Session, RunnerOrder),
    /// End a runner's stream.
    End(Session, CoreError),
}

/// A job on its way to a runner.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) job: JobId,
    pub(crate) lease: Lease,
    pub(crate) content: Content,
    pub(crate) timeout_seconds: Option<i64>,
    pub(crate) fence: Option<u64>,
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

/// What the configuration says of runners and of the order of jobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) runners: Vec<Arc<RunnerConfig>>,
    pub(crate) groups: Vec<RunnerGroupConfig>,
    pub(crate) fairness: Arc<[WeightRule]>,
    pub(crate) hold: Duration,
}

pub(crate) struct Scheduler {
    limits: Limits,
    chains: Chains,
    versions: Versions,
    configured: Vec<Arc<RunnerConfig>>,
    hold: Duration,
    jobs: Jobs,
    finished: VecDeque<Slot>,
    lanes: Lanes,
    groups: Groups,
    sessions: HashMap<Session, SessionState>,
    /// Streams by runner and system.
    systems: HashMap<(Arc<str>, Arc<str>), Session>,
    runner_groups: Vec<RunnerGroup>,
    taints: BTreeMap<TaintKey, Taint>,
    timers: Timers,
    /// Jobs that no runner has, by when they began to wait.
    waiting: BTreeSet<(Duration, Slot)>,
    oldest_at: Option<Duration>,
    /// Jobs by state.
    counts: BTreeMap<&'static str, usize>,
    /// Tags of jobs, each list once.
    tags: HashSet<Arc<[String]>>,
    sequence: u64,
    lease: u64,
    session: u64,
    draining: bool,
    /// Nothing is assigned while the store cannot write.
    paused: bool,
    /// Jobs restored in routing, not asked about yet.
    unasked: Vec<Slot>,
    /// Groups whose slots changed in this step.
    stepped: BTreeSet<GroupId>,
    outcome: Outcome,
}

impl Scheduler {
    pub(crate) fn new(chains: Chains, limits: Limits, rules: Rules) -> Self {
        let mut scheduler = Self {
            limits,
            chains,
            versions: Versions::default(),
            configured: Vec::new(),
            hold: rules.hold,
            jobs: Jobs::default(),
            finished: VecDeque::new(),
            lanes: Lanes::new(rules.fairness.clone()),
            groups: Groups::default(),
            sessions: HashMap::new(),
            systems: HashMap::new(),
            runner_groups: Vec::new(),
            taints: BTreeMap::new(),
            timers: Timers::default(),
            waiting: BTreeSet::new(),
            oldest_at: None,
            counts: BTreeMap::new(),
            tags: HashSet::new(),
            sequence: 0,
            lease: 0,
            session: 0,
            draining: false,
            paused: false,
            unasked: Vec::new(),
            stepped: BTreeSet::new(),
            outcome: Outcome::default(),
        };
        let now = Now { tick: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
        scheduler.use_rules(rules, now);
        scheduler
    }

    /// What is to be done since it was last taken. Ends a step.
    pub(crate) fn take_outcome(&mut self, now: Now) -> Outcome {
        self.end_of_step(now);
        std::mem::take(&mut self.outcome)
    }

    /// When [`Scheduler::tick`] has something to do next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Takes jobs, all or none.
    pub(crate) fn submit(&mut self, jobs: Vec<NewJob>, now: Now) -> Result<Vec<(JobId, JobState)>, CoreError> {
        let full = CoreError::QueueFull { limit: self.limits.max_jobs };
        if self.living() + jobs.len() > self.limits.max_jobs {
            return Err(full);
        }
        let mut submitted = Vec::with_capacity(jobs.len());
        for mut new in jobs {
            let id = new.id.clone();
            self.sequence += 1;
            let tags = self.shared_tags(std::mem::take(&mut new.tags));
            // One text for all jobs of a project.
            let project = self.lanes.shared_path(&new.project);
            let document = new.document.clone();
            let job = Job::new(new, tags, project, self.sequence, now);
            let Some(slot) = self.jobs.insert(job) else { return Err(full) };
            self.outcome.new.push(NewDocument { slot, job: id.clone(), document });
            self.waits(slot);
            self.changed(slot);
            self.ask(slot, None, now);
            submitted.push((id, JobState::Routing));
        }
        Ok(submitted)
    }

    fn living(&self) -> usize {
        self.jobs.len() - self.finished.len()
    }

    fn shared_tags(&mut self, mut tags: Vec<String>) -> Arc<[String]> {
        tags.sort_unstable();
        tags.dedup();
        if let Some(known) = self.tags.get(tags.as_slice()) {
            return known.clone();
        }
        // Lists that no job has any more go when there are many.
        if self.tags.len() >= 1024 && self.tags.len() >= self.living() {
            self.tags.retain(|tags| Arc::strong_count(tags) > 1);
        }
        let tags: Arc<[String]> = tags.into();
        self.tags.insert(tags.clone());
        tags
    }

    /// How long a decision serves.
    pub(crate) fn admission_ttl(&self) -> Duration {
        self.limits.admission_ttl
    }

    pub(crate) fn chains(&self) -> &Chains {
        &self.chains
    }

    /// Cancels a job in any state that is not final.
    pub(crate) fn cancel(&mut self, id: &JobId, reason: String, now: Now) -> Result<Arc<JobRecord>, CoreError> {
        let no_such_job = || CoreError::NoSuchJob(id.clone());
        let slot = self.jobs.slot(id).ok_or_else(no_such_job)?;
        let job = self.jobs.get(slot).ok_or_else(no_such_job)?;
        if job.record.state.is_final() {
            return Err(CoreError::AlreadyFinished(job.record.state));
        }
        if let Some(Grant { lease, session: Some(session), .. }) = job.grant() {
            let order = RunnerOrder::Cancel(id.clone(), *lease, reason.clone());
            self.outcome.effects.push(Effect::Order(*session, order));
        }
        let reserved = self.release(slot, now);
        self.finish(slot, JobState::Canceled, reason, now);
        let record = self.jobs.get(slot).map(|job| job.record.clone());
        self.reserved_again(reserved, now);
        record.ok_or_else(no_such_job)
    }

    /// Does what has become due.
    pub(crate) fn tick(&mut self, now: Now) {
        // Before anything goes out it is known who does not listen.
        self.note_silent(now);
        while let Some(timer) = self.timers.pop(now.tick) {
            match timer {
                Timer::Lease(slot, lease) => self.lease_due(slot, lease, now),
                Timer::Silence(session) => self.silence_due(session, now),
                Timer::Retry(slot, sequence) => self.retry(slot, sequence, now),
                Timer::Release(slot, sequence) => self.release_due(slot, sequence, now),
                Timer::Oldest => self.oldest_due(now),
                Timer::Age(lane) => {
                    self.lanes.aged(lane, &self.jobs, &mut self.groups, &mut self.timers, now.tick);
                }
                Timer::Unmatched(lane) => self.unmatched_due(lane, now),
                Timer::Hold(group) => self.hold_due(group, now),
                Timer::Leadership(group) => self.elect(group, now),
                Timer::Signal(group) => self.signal_due(group, now),
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

    /// Ends a job. Its waiting place goes; its lease is void.
    fn finish(&mut self, slot: Slot, state: JobState, reason: String, now: Now) {
        self.dequeue(slot, now);
        self.waits_no_more(slot);
        self.end_grant(slot, now);
        let Some(job) = self.jobs.get_mut(slot) else { return };
        job.go(state, Phase::Finished, reason, now);
        // What it was made of is not needed any more, and may hold secrets.
        job.let_go();
        job.kept = Vec::new();
        self.changed(slot);
        self.finished.push_back(slot);
    }

    /// Forgets the oldest of too many finished jobs. Called when what they are is written.
    pub(crate) fn forget_finished(&mut self) {
        while self.finished.len() > self.limits.max_finished {
            let Some(oldest) = self.finished.front().copied() else { break };
            if self.jobs.get(oldest).is_some_and(|job| job.dirty) {
                break;
            }
            self.finished.pop_front();
            let forgotten = self.jobs.remove(oldest).and_then(|job| job.counted);
            if let Some(count) = forgotten.and_then(|state| self.counts.get_mut(state.as_str())) {
                *count -= 1;
            }
        }
    }

    fn changed(&mut self, slot: Slot) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let state = job.record.state;
        if let Some(count) = job.counted.replace(state).and_then(|before| self.counts.get_mut(before.as_str())) {
            *count -= 1;
        }
        *self.counts.entry(state.as_str()).or_default() += 1;
        self.outcome.changed.push(job.record.clone());
        self.dirty(slot);
    }

    /// Has a job's row written at the end of the step.
    fn dirty(&mut self, slot: Slot) {
        if let Some(job) = self.jobs.get_mut(slot)
            && !std::mem::replace(&mut job.dirty, true)
        {
            self.outcome.rows.push(slot);
        }
    }

    /// A new job's document lies in the store.
    pub(crate) fn stored(&mut self, slot: Slot, at: DocumentRef) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        job.stored = Some(at);
        match job.phase {
            // It is being asked about, and will be needed soon.
            Phase::Routing { admission: Some(_), .. } => {}
            _ => job.rest(),
        }
    }

    /// The chain of a job of `project`, as far as `part` of it goes.
    pub(crate) fn chain(&self, project: &ProjectPath, part: Part<'_>) -> Chain {
        self.chains.chain(project, part, self.version(project, part))
    }

    /// Version of a project's chain.
    fn version(&self, project: &ProjectPath, part: Part<'_>) -> ChainVersion {
        self.versions.of(&self.chains, project, part)
    }
}

impl std::fmt::Debug for NewDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewDocument({}, [redacted])", self.job)
    }
}

impl Now {
    /// When by the calendar it was `tick`.
    pub(crate) fn wall_at(self, tick: Duration) -> Timestamp {
        let ago = SignedDuration::try_from(self.tick.saturating_sub(tick)).unwrap_or(SignedDuration::MAX);
        self.wall.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The tick of a time by the calendar; what lies ahead counts as now.
    pub(crate) fn tick_at(self, wall: Timestamp) -> Duration {
        let ago = Duration::try_from(self.wall.duration_since(wall)).unwrap_or_default();
        self.tick.saturating_sub(ago)
    }
}
