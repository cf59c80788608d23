//! The end of a step, as the task that owns the state makes it: what changed is written, then leaves. And crashes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::super::*,
    cast::{Policy, SECRET},
    model::{Doing, Question},
    steps::History,
};

/// What is not committed yet.
#[derive(Default)]
pub(super) struct Pending {
    rows: Vec<Slot>,
    new: Vec<NewDocument>,
    settings: BTreeMap<String, Option<Vec<u8>>>,
    held: Vec<Effect>,
    effects: Vec<Effect>,
}

impl Pending {
    /// Whether this admission is among what has yet to leave.
    pub(super) fn asks(&self, wanted: &Arc<str>) -> bool {
        self.held.iter().chain(&self.effects).any(|effect| match effect {
            Effect::Ask { admission, .. } | Effect::AskAboutRunner { admission, .. } => admission == wanted,
            _ => false,
        })
    }
}

/// How far a step comes before the router dies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Until {
    Commit,
    /// This many effects.
    Effects(usize),
    End,
}

impl History {
    /// Ends a step; false when the router died in it.
    pub(super) fn settle(&mut self, until: Until) -> Result<bool, String> {
        let mut left = match until {
            Until::Effects(effects) => effects,
            _ => usize::MAX,
        };
        loop {
            let now = self.now();
            self.collect(now);
            let Pending { rows, new, settings, held, effects } = &self.pending;
            let writes = !rows.is_empty() || !new.is_empty() || !settings.is_empty();
            if !writes && held.is_empty() && effects.is_empty() {
                return Ok(true);
            }
            if until == Until::Commit {
                return Ok(false);
            }
            if if writes { self.down } else { self.refusing } {
                return self.hold(now).map(|()| true);
            }
            if writes {
                self.write(now);
            }
            self.refusing = false;
            let Pending { held, effects, .. } = std::mem::take(&mut self.pending);
            for effect in held.into_iter().chain(effects) {
                if left == 0 {
                    return Ok(false);
                }
                left -= 1;
                self.perform(effect)?;
            }
            self.scheduler.resume(now);
            self.paused = false;
            self.observe(&Doing::Other)?;
        }
    }

    fn collect(&mut self, now: Now) {
        let outcome = self.scheduler.take_outcome(now);
        (self.seen_changes, self.seen_effects) = (0, 0);
        self.note_full(now.tick);
        self.pending.rows.extend(outcome.rows);
        self.pending.new.extend(outcome.new);
        self.pending.settings.extend(outcome.settings);
        self.pending.effects.extend(outcome.effects);
    }

    fn write(&mut self, now: Now) {
        let Pending { rows, new, settings, .. } = &self.pending;
        let jobs: BTreeSet<_> =
            rows.iter().filter_map(|slot| Some(self.scheduler.jobs.get(*slot)?.record.id.clone())).collect();
        self.disk.commit(&mut self.scheduler, rows, new, settings, now);
        self.scheduler.written(rows);
        self.model.commit(&jobs, now);
    }

    /// The store cannot write: assignments are taken back, most of the rest waits.
    fn hold(&mut self, now: Now) -> Result<(), String> {
        self.refusing = true;
        self.scheduler.pause();
        self.paused = true;
        for effect in std::mem::take(&mut self.pending.effects) {
            match effect {
                Effect::Assign(session, assignment) => {
                    self.scheduler.take_back(&assignment.job, assignment.lease, now);
                    if let Some(stream) = self.model.streams.get_mut(&session) {
                        stream.credits += 1;
                    }
                    self.observe(&Doing::TakeBack([assignment.lease].into()))?;
                }
                Effect::Order(_, RunnerOrder::Heartbeat | RunnerOrder::Drain | RunnerOrder::Queue(_))
                | Effect::End(..) => {}
                effect => self.pending.held.push(effect),
            }
        }
        self.collect(now);
        Ok(())
    }

    fn perform(&mut self, effect: Effect) -> Result<(), String> {
        if self.dice.percent(3) && format!("{effect:?}").contains(SECRET) {
            return Err("a secret is in an effect".to_owned());
        }
        match effect {
            Effect::Ask { job, admission } => self.asked(job, admission, None),
            Effect::AskAboutRunner { job, admission, runner } => {
                self.asked(job, admission, Some(runner.name.as_str().into()))
            }
            Effect::Assign(session, assignment) => {
                let Some(stream) = self.model.streams.get(&session) else { return Ok(()) };
                let (job, lease) = (assignment.job, assignment.lease);
                self.leases.entry(stream.by()).or_default().push((job, lease, false));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn asked(&mut self, job: JobId, admission: Arc<str>, about: Option<Arc<str>>) -> Result<(), String> {
        if !self.model.admissions.insert(admission.clone()) {
            return Err(format!("{admission} is an id used before"));
        }
        if !self.scheduler.awaits(&job, &admission) {
            return Ok(());
        }
        let Some(project) = self.scheduler.job(&job).map(|job| job.project().clone()) else { return Ok(()) };
        let part = about.as_deref().map_or(Part::Arrival, Part::Runner);
        let version = self.chains.version(&project, part);
        self.model.questions.push(Question { job, admission, about, version });
        Ok(())
    }

    /// The router dies, at once or in the middle of a step, and begins again some time later.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        let until = match self.dice.below(4) {
            0 => Until::Commit,
            1 => Until::Effects(0),
            2 => Until::Effects(self.dice.below(4)),
            _ => Until::End,
        };
        self.settle(until)?;
        self.pending = Pending::default();
        (self.down, self.refusing, self.paused, self.drained) = (false, false, false, false);
        self.tick += Duration::from_millis(self.dice.below(90_000) as u64);
        if self.dice.percent(30) {
            self.set_clock();
        }
        if self.dice.percent(30) {
            self.policy = Policy::any(&mut self.dice);
            self.chains = self.policy.chains();
        }
        let now = self.now();
        self.scheduler = Scheduler::new(self.chains.clone(), self.scheduler.limits, self.rules());
        self.scheduler.restore(self.disk.read(), now).map_err(|error| error.to_string())?;
        self.model.crash(now);
        (self.seen_changes, self.seen_effects) = (0, 0);
        self.levels.clear();
        self.restored()?;
        self.scheduler.begin(now);
        self.observe(&Doing::Other)?;
        self.settle(Until::End)?;
        self.everything()
    }

    /// Every job is where it was when it was last committed.
    fn restored(&self) -> Result<(), String> {
        if self.disk.contains(SECRET) {
            return Err("a secret is in a row".to_owned());
        }
        for (id, job) in &self.model.jobs {
            let Some(restored) = self.scheduler.job(id) else {
                return Err(format!("{id}, which was {:?}, is lost", job.now.state));
            };
            let lease = job.now.held.as_ref().map(|held| held.lease);
            let found = (restored.record.state, restored.grant().map(|grant| grant.lease));
            if found != (job.now.state, lease) {
                return Err(format!("{id} was {:?} with {lease:?}, and is {found:?}", job.now.state));
            }
        }
        let known = self.scheduler.jobs.len();
        if known != self.model.jobs.len() {
            return Err(format!("there are {known} jobs instead of {}", self.model.jobs.len()));
        }
        Ok(())
    }
}
