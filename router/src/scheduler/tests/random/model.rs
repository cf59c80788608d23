//! What is known from outside: who was admitted under what, who holds which lease, what is committed. It knows nothing of how
//! the scheduler does it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::super::*;
use crate::{
    config::RunnerConfig,
    handle::{JobResult, TaintKind},
};

/// A job as far as it matters.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) state: JobState,
    /// The decision that admitted it: under what, when, and when by the calendar as it was written.
    pub(super) version: Option<ChainVersion>,
    pub(super) at: Option<Duration>,
    pub(super) decided: Timestamp,
    pub(super) held: Option<Held>,
}

/// A lease that is valid.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) by: System,
    /// It does not pass on before.
    pub(super) until: Duration,
    pub(super) alive: Duration,
}

pub(super) type System = (Arc<str>, Arc<str>);

pub(super) struct ModelJob {
    pub(super) new: NewJob,
    pub(super) now: Facts,
    /// As last committed; nothing of it is known without.
    pub(super) kept: Option<Facts>,
    /// Runners that it is kept from.
    pub(super) apart: Vec<Apart>,
}

/// A runner that a job is kept from: as it was described, under which chain, until when.
#[derive(Clone)]
pub(super) struct Apart {
    pub(super) facts: Arc<Runner>,
    pub(super) version: ChainVersion,
    pub(super) until: Option<Duration>,
}

/// A stream.
pub(super) struct Stream {
    pub(super) runner: Arc<RunnerConfig>,
    pub(super) system: Arc<str>,
    pub(super) capacity: u32,
    pub(super) credits: u32,
    pub(super) heard: Duration,
    pub(super) draining: bool,
    /// Its end has been told.
    pub(super) over: bool,
}

/// An admission that left.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) job: JobId,
    pub(super) admission: Arc<str>,
    pub(super) about: Option<Arc<Runner>>,
    pub(super) version: ChainVersion,
}

/// What an admission comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    Admitted,
    Rejected,
    Wait,
}

/// What is being done: what may change, and why.
pub(super) enum Doing {
    Verdict { job: JobId, about: Option<Arc<str>>, answer: Answer, open: bool, version: ChainVersion },
    Says { valid: BTreeSet<JobId>, refuses: bool, result: Option<JobResult> },
    Cancel(JobId),
    Time,
    TakeBack(BTreeSet<Lease>),
    Other,
}

pub(super) type Taints = BTreeSet<(Arc<str>, TaintKind, Option<Arc<str>>)>;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Kept {
    pub(super) taints: Taints,
    pub(super) pins: BTreeMap<String, Arc<str>>,
    /// The highest number of a leadership that gave out a job, and whose it was.
    pub(super) fence: Option<(u64, System)>,
}

pub(super) struct Model {
    pub(super) jobs: BTreeMap<JobId, ModelJob>,
    pub(super) streams: BTreeMap<Session, Stream>,
    pub(super) questions: Vec<Question>,
    pub(super) admissions: HashSet<Arc<str>>,
    pub(super) now: Kept,
    pub(super) kept: Kept,
    pub(super) highest_lease: u64,
    pub(super) kept_lease: u64,
    /// When time last passed: silence is noticed then.
    pub(super) looked: Duration,
    pub(super) booted: Duration,
    /// What came to pass, and how often.
    pub(super) reached: Reached,
}

pub(super) type Reached = BTreeMap<(&'static str, &'static str), u64>;

impl Stream {
    pub(super) fn by(&self) -> System {
        (self.runner.name.clone(), self.system.clone())
    }
}

impl Model {
    pub(super) fn reach(&mut self, what: &'static str) {
        *self.reached.entry((what, "")).or_default() += 1;
    }

    pub(super) fn is_tainted(&self, stream: &Stream, kind: TaintKind) -> bool {
        let taints = &self.now.taints;
        let of = |system| taints.contains(&(stream.runner.name.clone(), kind, system));
        of(None) || of(Some(stream.system.clone()))
    }

    pub(super) fn is_silent(&self, stream: &Stream) -> bool {
        stream.heard + HEALTHY <= self.looked
    }

    /// Whether it could lead its group.
    pub(super) fn is_candidate(&self, stream: &Stream) -> bool {
        !stream.over
            && !stream.draining
            && !self.is_silent(stream)
            && !self.is_tainted(stream, TaintKind::Jobs)
            && !self.is_tainted(stream, TaintKind::Leadership)
    }

    /// Whether this stream holds this lease.
    pub(super) fn is_valid(&self, session: Session, job: &JobId, lease: Lease) -> bool {
        let stream = self.streams.get(&session).filter(|stream| !stream.over);
        let held = self.jobs.get(job).and_then(|job| job.now.held.as_ref());
        stream.zip(held).is_some_and(|(stream, held)| held.lease == lease && held.by == stream.by())
    }

    /// A job is kept from a runner, instead of what kept it from that one before.
    pub(super) fn keep_apart(&mut self, job: &JobId, apart: Apart) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        job.apart.retain(|other| {
            other.facts != apart.facts && (other.facts.name != apart.facts.name || other.version == apart.version)
        });
        job.apart.push(apart);
    }

    /// A job came to another state: may it, and what follows.
    pub(super) fn changed(&mut self, record: &JobRecord, doing: &Doing, now: Now) -> Result<(), String> {
        let id = &record.id;
        let Some(job) = self.jobs.get_mut(id) else { return Err(format!("{id} is not known")) };
        let (from, to) = (job.now.state, record.state);
        if from != to && !from.next().contains(&to) {
            return Err(format!("{id} went from {from:?} to {to:?}"));
        }
        let verdict_on = |wanted| match doing {
            Doing::Verdict { job, about: None, answer, open: true, .. } => job == id && *answer == wanted,
            _ => false,
        };
        let ended = matches!(doing, Doing::Time)
            && job.now.held.as_ref().is_some_and(|held| {
                let not_started = from == JobState::Assigned && held.alive + stuck::SIGN_OF_LIFE <= now.tick;
                held.until <= now.tick || not_started
            });
        let speaks = matches!(doing, Doing::Says { valid, .. } if valid.contains(id));
        let result = |wanted| matches!(doing, Doing::Says { result: Some(result), .. } if result.state == wanted);
        let may = match (from, to) {
            _ if from == to => true,
            (JobState::Routing, JobState::Admitted) => verdict_on(Answer::Admitted),
            (JobState::Routing, JobState::Rejected) => verdict_on(Answer::Rejected),
            (JobState::Admitted, JobState::Routing | JobState::Assigned) => true,
            (JobState::Assigned | JobState::Running, JobState::Admitted) => match doing {
                Doing::Says { refuses, .. } => speaks && *refuses && from == JobState::Assigned,
                Doing::TakeBack(leases) => job.now.held.as_ref().is_some_and(|held| leases.contains(&held.lease)),
                _ => ended && (from == JobState::Assigned || job.new.retry_on_lost),
            },
            (JobState::Assigned, JobState::Running) => speaks,
            (JobState::Running, JobState::Success) => speaks && result(JobState::Success),
            (JobState::Assigned | JobState::Running, JobState::Failed) => ended || speaks && result(JobState::Failed),
            (_, JobState::Canceled) => {
                matches!(doing, Doing::Cancel(canceled) if canceled == id) || speaks && result(JobState::Canceled)
            }
            (JobState::Running, JobState::Dropped) => {
                let alive = job.now.held.as_ref().map_or(now.tick, |held| held.alive);
                matches!(doing, Doing::Time) && alive + stuck::SIGN_OF_LIFE <= now.tick
            }
            (_, JobState::Dropped) => matches!(doing, Doing::Time),
            _ => false,
        };
        if !may {
            let held = &job.now.held;
            return Err(format!(
                "{id} went from {from:?} to {to:?} ({}) without a cause, held: {held:?}",
                record.reason
            ));
        }
        *self.reached.entry((from.as_str(), to.as_str())).or_default() += 1;
        job.now.state = to;
        match to {
            JobState::Admitted if from == JobState::Routing => {
                let Doing::Verdict { version, .. } = doing else { return Err("admitted by nobody".to_owned()) };
                (job.now.version, job.now.at) = (Some(version.clone()), Some(now.tick));
            }
            JobState::Routing => job.now.version = None,
            _ => {}
        }
        if !matches!(to, JobState::Assigned | JobState::Running) {
            job.now.held = None;
        }
        Ok(())
    }

    /// What is written now: a crash goes back to it.
    pub(super) fn commit(&mut self, jobs: &BTreeSet<JobId>, now: Now) {
        for id in jobs {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            if let Some(at) = job.now.at {
                let ago = SignedDuration::try_from(now.tick.saturating_sub(at)).unwrap();
                job.now.decided = now.wall - ago;
            }
            job.kept = Some(job.now.clone());
        }
        self.kept = self.now.clone();
        self.kept_lease = self.highest_lease;
    }

    /// Everything that was not written is forgotten; what was, is as old as the calendar says.
    pub(super) fn crash(&mut self, now: Now) {
        self.jobs.retain(|_, job| job.kept.is_some());
        for job in self.jobs.values_mut() {
            job.now = job.kept.clone().unwrap();
            job.apart.clear();
            let ago = Duration::try_from(now.wall.duration_since(job.now.decided)).ok();
            job.now.at = job.now.at.and(ago).map(|ago| now.tick.saturating_sub(ago));
            if let Some(held) = &mut job.now.held {
                (held.until, held.alive) = (now.tick + GRACE, now.tick);
            }
        }
        self.now = self.kept.clone();
        self.streams.clear();
        (self.looked, self.booted) = (now.tick, now.tick);
        self.highest_lease = self.kept_lease;
    }
}
