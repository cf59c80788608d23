use std::{collections::HashMap, sync::Arc, time::Duration};

use jobgate_sdk::Runner;

use crate::{
    chain::ChainVersion,
    handle::Session,
    job::{JobRecord, JobState, Lease, NewJob},
    scheduler::{LONGEST_WAIT, Now},
};

/// Most different systems of one runner that a job is kept from.
const MOST_KEPT: usize = 256;

/// A job as the scheduler holds it.
pub(crate) struct Job {
    pub(crate) new: NewJob,
    pub(crate) record: Arc<JobRecord>,
    pub(crate) phase: Phase,
    /// Its place among those of its priority: first come, first served.
    pub(crate) sequence: u64,
    /// Admissions begun so far; numbers their ids.
    pub(crate) admissions: u32,
    /// Times in a row that it has to wait for a controller (`on_failure: wait`).
    pub(crate) waits: u32,
    /// Times that its chain changed while it was asked, since it was last assigned.
    pub(crate) restarts: u32,
    /// When it is dropped if it still waits.
    pub(crate) stuck_at: Duration,
    /// The state it is counted under.
    pub(crate) counted: Option<JobState>,
    /// Times a runner was lost while it was assigned.
    pub(crate) losses: u32,
    /// Runners that it is kept from; systems of one runner may differ, and each difference counts by itself.
    pub(crate) kept_from: HashMap<Arc<str>, Vec<KeptFrom>>,
}

/// What a job is at, with what belongs to it there.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Its chain is being asked, or will be.
    Routing {
        /// The admission that is open; `None` while it waits to be asked again.
        admission: Option<Arc<str>>,
        /// The free slot it was within reach of when it was found stale.
        reserved: Option<Session>,
    },
    /// It waits for a runner.
    Admitted {
        /// The decision that admitted it.
        stamp: Stamp,
        /// A runner it is being checked for.
        check: Option<Check>,
    },
    /// A runner has it.
    Assigned(Grant),
    /// A runner executes it.
    Running(Grant),
    /// It is over.
    Finished,
}

/// What a decision was made under, and when.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    pub(crate) version: ChainVersion,
    pub(crate) at: Duration,
}

/// A job being asked about for one runner.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) admission: Arc<str>,
    pub(crate) session: Session,
    pub(crate) runner: Arc<str>,
    /// Version of the chain, runner level included, when it was asked.
    pub(crate) version: ChainVersion,
}

/// The right of one runner to this job.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) lease: Lease,
    pub(crate) runner: Arc<str>,
    pub(crate) system: Arc<str>,
    /// The stream it went out on; `None` once that is gone.
    pub(crate) session: Option<Session>,
    pub(crate) expires: Duration,
    /// The decision it was assigned under; the job takes it along when it comes back.
    pub(crate) stamp: Stamp,
}

/// Why and for how long a job is kept from a runner.
#[derive(Clone, Debug)]
pub(crate) struct KeptFrom {
    /// It ends when the chain changes …
    pub(crate) version: ChainVersion,
    /// … or the runner does …
    pub(crate) facts: Arc<Runner>,
    /// … or at this time.
    pub(crate) until: Option<Duration>,
}

impl Job {
    pub(crate) fn new(new: NewJob, sequence: u64, now: Now) -> Self {
        let record = JobRecord {
            id: new.id.clone(),
            project: new.project.clone(),
            source_id: new.source_id.clone(),
            name: new.name.clone(),
            state: JobState::Routing,
            reason: String::new(),
            submitted_at: now.wall,
            admitted_at: None,
            assigned_at: None,
            started_at: None,
            finished_at: None,
            runner: None,
            lease: None,
            priority: 0,
            exit_code: None,
        };
        Self {
            new,
            record: Arc::new(record),
            phase: Phase::Routing { admission: None, reserved: None },
            sequence,
            admissions: 0,
            waits: 0,
            restarts: 0,
            stuck_at: now.tick + LONGEST_WAIT,
            counted: None,
            losses: 0,
            kept_from: HashMap::new(),
        }
    }

    /// Moves it to another phase and brings its record along. The only place where a job changes its state.
    pub(crate) fn go(&mut self, to: JobState, phase: Phase, reason: String, now: Now) {
        let from = self.record.state;
        debug_assert!(from == to || from.next().contains(&to), "{from:?} does not become {to:?}");
        self.phase = phase;
        let record = Arc::make_mut(&mut self.record);
        record.state = to;
        record.reason = reason;
        match to {
            JobState::Admitted if from == JobState::Routing => record.admitted_at = Some(now.wall),
            JobState::Assigned => record.assigned_at = Some(now.wall),
            JobState::Running => record.started_at = Some(now.wall),
            _ if to.is_final() => record.finished_at = Some(now.wall),
            _ => {}
        }
        if let Phase::Assigned(grant) | Phase::Running(grant) = &self.phase {
            record.lease = Some(grant.lease);
            record.runner = Some(grant.runner.clone());
        }
    }

    /// Keeps it from runners of these facts, instead of what kept it from them before.
    pub(crate) fn keep_from(&mut self, runner: Arc<str>, kept: KeptFrom, now: Now) {
        let others = self.kept_from.entry(runner).or_default();
        others.retain(|other| {
            other.facts != kept.facts
                && other.version == kept.version
                && other.until.is_none_or(|until| until > now.tick)
        });
        if others.len() >= MOST_KEPT {
            others.remove(0);
        }
        others.push(kept);
    }

    pub(crate) fn grant(&self) -> Option<&Grant> {
        match &self.phase {
            Phase::Assigned(grant) | Phase::Running(grant) => Some(grant),
            _ => None,
        }
    }

    pub(crate) fn grant_mut(&mut self) -> Option<&mut Grant> {
        match &mut self.phase {
            Phase::Assigned(grant) | Phase::Running(grant) => Some(grant),
            _ => None,
        }
    }

    /// The stream whose slot is held for it while it is asked about.
    pub(crate) fn reserved(&self) -> Option<Session> {
        match &self.phase {
            Phase::Routing { reserved, .. } => *reserved,
            Phase::Admitted { check, .. } => check.as_ref().map(|check| check.session),
            _ => None,
        }
    }
}
