use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    chain::ChainVersion,
    handle::Session,
    job::{JobRecord, JobState, Lease, NewJob},
    path::ProjectPath,
    scheduler::{Now, lanes::LaneId, session::RunnerKind},
    store::DocumentRef,
    view::{View, ViewRejection},
};

/// The first event of every job.
const SUBMITTED: &str = "submitted";
/// Most different kinds of runners that a job is kept from.
const MOST_KEPT: usize = 256;
/// Events kept of one job: the first ones, and the last ones.
const FIRST_EVENTS: usize = 8;
const MOST_EVENTS: usize = 40;

/// A job as the scheduler holds it. A million of them may wait: what can be read back when it is needed is not in it.
pub(crate) struct Job {
    pub(crate) record: Arc<JobRecord>,
    pub(crate) phase: Phase,
    /// What it is made of, as long as that is in memory.
    pub(super) held: Option<Arc<Held>>,
    /// Where its document lies, once that is committed.
    pub(crate) stored: Option<DocumentRef>,
    /// What it asks of a runner; sorted.
    pub(crate) tags: Arc<[String]>,
    pub(crate) protected: bool,
    pub(crate) retry_on_lost: bool,
    /// Its record has changed since its row was last written.
    pub(crate) dirty: bool,
    pub(crate) timeout_seconds: Option<i64>,
    /// Its place among those of its class: first come, first served.
    pub(crate) sequence: u64,
    /// When it was submitted: its age makes it go up.
    pub(crate) submitted: Duration,
    /// Since when it waits: submitted, or come back.
    pub(crate) since: Duration,
    /// Admissions begun so far; numbers their ids.
    pub(crate) admissions: u32,
    /// Times in a row that it has to wait for a controller (`on_failure: wait`).
    pub(crate) waits: u32,
    /// Times that its chain changed while it was asked, since it was last assigned.
    pub(crate) restarts: u32,
    /// Times a runner was lost while it was assigned.
    pub(crate) losses: u32,
    /// The state it is counted under.
    pub(crate) counted: Option<JobState>,
    /// The lane it waits in.
    pub(crate) lane: Option<LaneId>,
    /// Runners that it is kept from.
    pub(crate) kept: Vec<KeptFrom>,
    pub(crate) events: Vec<Event>,
}

/// What a job is made of.
#[derive(Clone)]
pub(crate) enum Content {
    /// In memory.
    Held(Arc<Held>),
    /// In the store.
    Stored(DocumentRef),
    /// Nobody needs it any more.
    Gone,
}

/// A job's document and what was made of it. Holds secrets.
pub(crate) struct Held {
    pub(crate) document: Bytes,
    pub(crate) view: Result<Arc<View>, ViewRejection>,
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
        /// A runner it is being checked for. Without one, it is in its lane.
        check: Option<Box<Check>>,
    },
    /// A runner has it.
    Assigned(Box<Grant>),
    /// A runner executes it.
    Running(Box<Grant>),
    /// It is over.
    Finished,
}

/// What a decision was made under, and when.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    pub(crate) version: ChainVersion,
    /// `None` when that cannot be told: then it serves nothing.
    pub(crate) at: Option<Duration>,
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
    /// The stream it went out on, or was last heard on; `None` once that is gone.
    pub(crate) session: Option<Session>,
    /// When the lease ends unless the runner is heard.
    pub(crate) expires: Duration,
    /// When the job itself last gave a sign of life.
    pub(crate) alive: Duration,
    /// When its timer is due.
    pub(crate) due: Duration,
    /// Whether an instance runner has it: it then counts for its project's share.
    pub(crate) shared: bool,
    /// The leadership it was given under.
    pub(crate) fence: Option<u64>,
    /// The decision it was assigned under; the job takes it along when it comes back.
    pub(crate) stamp: Stamp,
}

/// Why and for how long a job is kept from a kind of runner.
#[derive(Clone, Debug)]
pub(crate) struct KeptFrom {
    pub(crate) runner: Arc<str>,
    pub(crate) kind: RunnerKind,
    /// It ends when the chain changes …
    pub(crate) version: ChainVersion,
    /// … or at this time.
    pub(crate) until: Option<Duration>,
    /// Why, for people.
    pub(crate) reason: Box<str>,
}

/// Something that happened to a job.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Microseconds since 1970.
    pub(crate) time: i64,
    pub(crate) state: JobState,
    pub(crate) text: Option<Arc<str>>,
}

impl Job {
    pub(crate) fn new(new: NewJob, tags: Arc<[String]>, project: ProjectPath, sequence: u64, now: Now) -> Self {
        let record = JobRecord {
            id: new.id,
            project,
            source_id: new.source_id,
            name: new.name,
            state: JobState::Routing,
            reason: String::new(),
            submitted_at: now.wall,
            admitted_at: None,
            assigned_at: None,
            started_at: None,
            finished_at: None,
            runner: None,
            lease: None,
            priority: new.priority,
            exit_code: None,
        };
        let mut job = Self {
            record: Arc::new(record),
            phase: Phase::Routing { admission: None, reserved: None },
            held: Some(Arc::new(Held { document: new.document, view: new.view })),
            stored: None,
            tags,
            protected: new.protected,
            retry_on_lost: new.retry_on_lost,
            dirty: false,
            timeout_seconds: new.timeout_seconds,
            sequence,
            submitted: now.tick,
            since: now.tick,
            admissions: 0,
            waits: 0,
            restarts: 0,
            losses: 0,
            counted: None,
            lane: None,
            kept: Vec::new(),
            events: Vec::with_capacity(2),
        };
        job.note(SUBMITTED, now);
        job
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
        let text = match (&self.phase, to) {
            (Phase::Assigned(grant), _) => format!("to {} ({})", grant.runner, grant.system),
            _ => self.record.reason.clone(),
        };
        self.note(&text, now);
    }

    /// Remembers that something happened to it.
    pub(crate) fn note(&mut self, text: &str, now: Now) {
        if self.events.len() >= MOST_EVENTS {
            self.events.remove(FIRST_EVENTS);
        }
        let text = Event::text_of(text);
        self.events.push(Event { time: now.wall.as_microsecond(), state: self.record.state, text });
    }

    /// Keeps it from runners of a kind, instead of what kept it from them before.
    pub(crate) fn keep_from(&mut self, kept: KeptFrom, now: Now) {
        let others = &mut self.kept;
        others.retain(|other| {
            let same_runner = other.runner == kept.runner;
            other.kind != kept.kind
                && (!same_runner || other.version == kept.version)
                && other.until.is_none_or(|until| until > now.tick)
        });
        if others.len() >= MOST_KEPT {
            others.remove(0);
        }
        others.push(kept);
        others.sort_by_key(|kept| kept.kind);
    }

    /// Forgets what kept it from runners for a time that is over.
    pub(crate) fn stop_keeping(&mut self, now: Now) {
        self.kept.retain(|kept| kept.until.is_none_or(|until| until > now.tick));
    }

    /// What it is made of, wherever that is.
    pub(crate) fn content(&self) -> Content {
        match (&self.held, self.stored) {
            (Some(held), _) => Content::Held(held.clone()),
            (None, Some(stored)) if !matches!(self.phase, Phase::Finished) => Content::Stored(stored),
            _ => Content::Gone,
        }
    }

    /// Forgets what it is made of: it is over, and nobody needs what may hold its secrets.
    pub(crate) fn let_go(&mut self) {
        self.held = None;
    }

    /// Leaves what it is made of in the store, if it is there.
    pub(crate) fn rest(&mut self) {
        if self.stored.is_some() {
            self.held = None;
        }
    }

    pub(crate) fn project(&self) -> &ProjectPath {
        &self.record.project
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

    /// Whether it is in a lane, or should be.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Admitted { check: None, .. })
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

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Held(_) => "[redacted]",
            Self::Stored(_) => "stored",
            Self::Gone => "gone",
        })
    }
}

impl Event {
    /// As it is kept: one text for the event that every job has.
    pub(crate) fn text_of(text: &str) -> Option<Arc<str>> {
        static OF_ALL: LazyLock<Arc<str>> = LazyLock::new(|| SUBMITTED.into());
        match text {
            "" => None,
            SUBMITTED => Some(OF_ALL.clone()),
            text => Some(text.into()),
        }
    }

    pub(crate) fn when(&self) -> Timestamp {
        Timestamp::from_microsecond(self.time).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}
