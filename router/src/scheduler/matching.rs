//! Which job goes to which runner, and on what condition.

use std::sync::Arc;

use super::{
    Conclusion, Decided, Effect, Grant, KEEP_AFTER_FAILURE, LEASE, Now, Phase, RESTARTED, Scheduler, Timer,
    job::{Check, KeptFrom},
    session::{SessionState, may_take},
};
use crate::{
    chain::{ChainVersion, Part},
    decision::Cause,
    handle::{RunnerOrder, Session},
    job::{JobId, JobState, Lease},
    scheduler::job::Job,
};

impl Scheduler {
    /// Gives the free slots of a stream to waiting jobs, first come, first served.
    pub(super) fn match_session(&mut self, session: Session, now: Now) {
        // Each round uses a slot or keeps a job from this runner, so it ends.
        while self.is_free(session, now) {
            let Some(state) = self.sessions.get(&session) else { return };
            let head = |id: &JobId| self.jobs.get(id).is_some_and(|job| may_take(&state.config, &job.new));
            let fine = |id: &JobId| {
                self.jobs.get(id).is_some_and(|job| {
                    matches!(job.phase, Phase::Admitted { check: None, .. }) && !self.is_kept_from(job, state, now)
                })
            };
            let Some(job) = self.waiting.first(head, fine) else { return };
            self.offer(&job, session, now);
        }
    }

    pub(super) fn match_all(&mut self, now: Now) {
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.match_session(session, now);
        }
    }

    /// Finds a free slot for a waiting job: of the runners with the highest priority, the one with the most of them.
    pub(super) fn place(&mut self, id: &JobId, now: Now) {
        let Some(job) = self.jobs.get(id) else { return };
        if self.is_closed() || !matches!(job.phase, Phase::Admitted { check: None, .. }) {
            return;
        }
        let free = self.sessions.iter().filter(|(_, state)| {
            state.free(now) > 0 && may_take(&state.config, &job.new) && !self.is_kept_from(job, state, now)
        });
        let best =
            free.max_by_key(|(session, state)| (state.config.priority, state.free(now), std::cmp::Reverse(session.0)));
        if let Some((session, _)) = best {
            self.offer(id, *session, now);
        }
    }

    /// Brings a waiting job and a free slot together: the job is assigned, or asked about first while the slot is held.
    pub(super) fn offer(&mut self, id: &JobId, session: Session, now: Now) {
        let Some(project) = self.jobs.get(id).map(|job| job.new.project.clone()) else { return };
        let version = self.version(&project, Part::Arrival);
        let Some((job, state)) = self.jobs.get_mut(id).zip(self.sessions.get_mut(&session)) else { return };
        let Phase::Admitted { stamp, check } = &mut job.phase else { return };
        let fresh = stamp.version == version && now.tick.saturating_sub(stamp.at) < self.limits.admission_ttl;
        if !fresh {
            return self.reroute(id, session, now);
        }
        if !self.chains.asks_about_runner(&project, &state.config.name) {
            return self.assign(id, session, now);
        }
        job.admissions += 1;
        let admission: Arc<str> = format!("{id}-{}", job.admissions).into();
        let runner = state.config.name.clone();
        let version = self.versions.of(&self.chains, &project, Part::Runner(&runner));
        *check = Some(Check { admission: admission.clone(), session, runner, version });
        state.reserved.insert(id.clone());
        let runner = state.facts.clone();
        self.outcome.effects.push(Effect::AskAboutRunner { job: id.clone(), admission, runner });
    }

    /// A decision that is stale serves nothing: the job is asked about again, and keeps the slot meanwhile.
    fn reroute(&mut self, id: &JobId, session: Session, now: Now) {
        self.dequeue(id);
        if let Some(job) = self.jobs.get_mut(id) {
            let phase = Phase::Routing { admission: None, reserved: None };
            job.go(JobState::Routing, phase, "its admission is out of date".to_owned(), now);
        }
        self.changed(id);
        self.ask(id, Some(session));
    }

    /// The controllers that are asked when a runner is chosen have decided.
    pub(super) fn checked(&mut self, decided: Decided, now: Now) {
        let id = decided.job;
        let Some(job) = self.jobs.get(&id) else { return };
        let Phase::Admitted { check: Some(check), .. } = &job.phase else { return };
        let check = check.clone();
        let project = job.new.project.clone();
        self.release(&id);
        let current = self.version(&project, Part::Runner(&check.runner));
        match decided.conclusion {
            Conclusion::Admitted if check.version == decided.version && decided.version == current => {
                let fresh = self.is_fresh(&id, now);
                let free = self.is_free(check.session, now);
                if fresh && free {
                    self.assign(&id, check.session, now);
                } else {
                    self.place(&id, now);
                }
            }
            // It was asked under another chain: it is asked again when it comes to it.
            Conclusion::Admitted => match self.restarted(&id) {
                true => self.back_off(&id, RESTARTED.to_owned(), now),
                false => self.place(&id, now),
            },
            Conclusion::Rejected | Conclusion::Wait => {
                // A failure heals; a rejection stays until the chain or the runner changes.
                let failed = decided.cause == Some(Cause::Failure);
                self.keep(&id, &check, current, failed.then_some(KEEP_AFTER_FAILURE), &decided.reason, now);
                self.place(&id, now);
            }
        }
        self.match_session(check.session, now);
    }

    /// Keeps a job from a runner until the chain or the runner changes, or for a time.
    fn keep(
        &mut self,
        id: &JobId,
        check: &Check,
        version: ChainVersion,
        time: Option<std::time::Duration>,
        reason: &str,
        now: Now,
    ) {
        let facts = self.sessions.get(&check.session).map(|state| state.facts.clone());
        let Some((job, facts)) = self.jobs.get_mut(id).zip(facts) else { return };
        let until = time.map(|time| now.tick + time);
        job.keep_from(check.runner.clone(), KeptFrom { version, facts, until }, now);
        Arc::make_mut(&mut job.record).reason = format!("waits for another runner than {}: {reason}", check.runner);
        if let Some(until) = until {
            self.timers.insert((until, Timer::Match(id.clone())));
        }
        self.changed(id);
    }

    /// Keeps a job from a runner for a while, for a reason of the runner's own.
    pub(super) fn keep_for(&mut self, id: &JobId, session: Session, time: std::time::Duration, now: Now) {
        let Some(state) = self.sessions.get(&session) else { return };
        let (runner, facts) = (state.config.name.clone(), state.facts.clone());
        let Some(job) = self.jobs.get_mut(id) else { return };
        let version = self.versions.of(&self.chains, &job.new.project, Part::Runner(&runner));
        let until = now.tick + time;
        job.keep_from(runner, KeptFrom { version, facts, until: Some(until) }, now);
        self.timers.insert((until, Timer::Match(id.clone())));
    }

    fn is_kept_from(&self, job: &Job, state: &SessionState, now: Now) -> bool {
        let Some(kept) = job.kept_from.get(&state.config.name) else { return false };
        let version = self.version(&job.new.project, Part::Runner(&state.config.name));
        kept.iter().any(|kept| {
            kept.until.is_none_or(|until| until > now.tick) && kept.facts == state.facts && kept.version == version
        })
    }

    fn is_fresh(&self, id: &JobId, now: Now) -> bool {
        let Some(project) = self.jobs.get(id).map(|job| job.new.project.clone()) else { return false };
        let version = self.version(&project, Part::Arrival);
        matches!(
            self.jobs.get(id).map(|job| &job.phase),
            Some(Phase::Admitted { stamp, .. })
                if stamp.version == version && now.tick.saturating_sub(stamp.at) < self.limits.admission_ttl
        )
    }

    pub(super) fn is_free(&self, session: Session, now: Now) -> bool {
        !self.is_closed() && self.sessions.get(&session).is_some_and(|state| state.free(now) > 0)
    }

    /// Gives a job to a runner. Called only for a job whose current chain has admitted it, and for a free slot.
    fn assign(&mut self, id: &JobId, session: Session, now: Now) {
        self.dequeue(id);
        let Some((job, state)) = self.jobs.get_mut(id).zip(self.sessions.get_mut(&session)) else { return };
        let Phase::Admitted { stamp, .. } = &job.phase else { return };
        self.lease += 1;
        let lease = Lease(self.lease);
        let grant = Grant {
            stamp: stamp.clone(),
            lease,
            runner: state.config.name.clone(),
            system: state.system.clone(),
            session: Some(session),
            expires: now.tick + LEASE,
        };
        job.restarts = 0;
        state.credits = state.credits.saturating_sub(1);
        state.jobs.insert(id.clone());
        self.timers.insert((grant.expires, Timer::Lease(id.clone(), lease)));
        job.go(JobState::Assigned, Phase::Assigned(grant), String::new(), now);
        let order = RunnerOrder::Assign {
            job: id.clone(),
            lease,
            document: job.new.document.clone(),
            timeout_seconds: job.new.timeout_seconds,
            fence: None,
        };
        self.changed(id);
        self.outcome.effects.push(Effect::Order(session, order));
    }

    /// Slots held for jobs, by stream; for tests.
    #[cfg(test)]
    pub(super) fn held(&self) -> std::collections::BTreeMap<Session, u32> {
        let mut held = std::collections::BTreeMap::new();
        for session in self.jobs.values().filter_map(Job::reserved) {
            *held.entry(session).or_default() += 1;
        }
        held
    }
}
