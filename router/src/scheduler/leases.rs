//! What attached runners say, and what becomes of those that say nothing.

use std::sync::Arc;

use super::{
    Effect, HEALTHY, KEEP_AFTER_REFUSAL, LEASE, MOST_LOSSES, Now, Phase, Scheduler, Slot, Timer,
    job::Grant,
    leaders::{Taint, TaintKey},
    session::{SessionState, count},
    stuck::SIGN_OF_LIFE,
};
use crate::{
    handle::{CoreError, HeldLease, JobResult, RunnerEvent, RunnerHello, RunnerOrder, Session},
    job::{JobId, JobState, Lease},
};

/// Most jobs a runner may run at once.
const MOST_CAPACITY: u32 = 10_000;

impl Scheduler {
    /// A runner's stream begins. An older stream of the same system ends; leases the runner still holds go on.
    pub(crate) fn attach(&mut self, hello: &RunnerHello, now: Now) -> Result<Session, CoreError> {
        let id = &hello.system_id;
        if id.is_empty() || id.len() > 128 || id.chars().any(char::is_control) {
            return Err(CoreError::Protocol("`system_id` is 1 to 128 characters".to_owned()));
        }
        if hello.capacity == 0 || hello.capacity > MOST_CAPACITY {
            return Err(CoreError::Protocol(format!("`capacity` is 1 to {MOST_CAPACITY}")));
        }
        let system: (Arc<str>, Arc<str>) = (hello.runner.name.clone(), id.as_str().into());
        let older = self.systems.get(&system).copied();
        self.session += 1;
        let session = Session(self.session);
        let group = self.group_of(&hello.runner, now);
        let mut state = SessionState::new(hello, group, now);
        if let Some(older) = older.and_then(|older| self.sessions.get(&older)) {
            state.since = older.since;
        }
        // Until it is known, it does not.
        state.leads = state.config.group.is_none();
        let capacity = state.capacity;
        self.systems.insert(system.clone(), session);
        self.sessions.insert(session, state);
        if let Some(group) = self.groups.get_mut(group) {
            group.attach(session, hello.runner.priority, capacity);
        }
        self.lanes.online(group, &self.jobs, &self.groups, &mut self.timers, now.tick);
        self.timers.set(now.tick + HEALTHY, Timer::Silence(session));
        for (kind, reason) in &hello.taints {
            let key = TaintKey { runner: system.0.clone(), kind: *kind, system: Some(system.1.clone()) };
            let taint = Taint { reason: reason.clone(), by: "runner".to_owned(), since: now.wall };
            self.taint_itself(key, taint);
        }
        self.apply_taint(session);
        self.refresh(session, now);
        if let Some(older) = older {
            // The new stream stands in its place already: nobody else gets anything because it was away for an instant.
            self.outcome.effects.push(Effect::End(older, CoreError::Superseded));
            self.steps_back(older, now);
        }
        self.joins(session, now);
        if let Some(older) = older {
            self.detach(older, now);
        }
        if self.draining {
            self.outcome.effects.push(Effect::Order(session, RunnerOrder::Drain));
        }
        self.heartbeat(session, &hello.leases, now);
        self.signal_first(session, now);
        self.signal_soon(group, now);
        Ok(session)
    }

    /// A runner's stream ended. Its leases live until they expire; slots held for jobs are free again.
    pub(crate) fn detach(&mut self, session: Session, now: Now) {
        if let Some(state) = self.sessions.get_mut(&session) {
            // It takes nothing while it goes.
            state.draining = true;
        }
        self.refresh(session, now);
        let Some(state) = self.sessions.remove(&session) else { return };
        let system = (state.config.name.clone(), state.system.clone());
        if self.systems.get(&system) == Some(&session) {
            self.systems.remove(&system);
        }
        for slot in &state.jobs {
            if let Some(grant) = self.jobs.get_mut(*slot).and_then(|job| job.grant_mut()) {
                grant.session = None;
            }
        }
        if let Some(group) = self.groups.get_mut(state.group) {
            group.running -= u64::from(state.counted.running);
            group.detach(session, state.config.priority, state.capacity);
        }
        self.stepped.insert(state.group);
        self.lanes.online(state.group, &self.jobs, &self.groups, &mut self.timers, now.tick);
        self.leaves(session, &state, now);
        for slot in &state.reserved {
            self.release(*slot, now);
            self.place(*slot, now);
        }
        // Those of a lower priority may be wanted now.
        self.match_group(state.group, now);
        self.signal_soon(state.group, now);
        self.forget_group(state.group);
    }

    /// The name of an attached runner.
    pub(crate) fn name_of(&self, session: Session) -> Option<&str> {
        self.sessions.get(&session).map(|state| &*state.config.name)
    }

    /// An attached runner says something.
    pub(crate) fn event(&mut self, session: Session, event: RunnerEvent, now: Now) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.heard = now.tick;
        // Before anything else: one that was silent until now gets no job to say this.
        state.draining |= event == RunnerEvent::Draining;
        if std::mem::take(&mut state.silent) {
            self.timers.set(now.tick + HEALTHY, Timer::Silence(session));
            self.stands_otherwise(session, now);
        }
        match event {
            RunnerEvent::Credit(slots) => self.credit(session, slots, now),
            RunnerEvent::Accepted(job, lease) | RunnerEvent::Output(job, lease) => {
                self.alive(session, &job, lease, now);
            }
            RunnerEvent::Started(job, lease) => self.started(session, &job, lease, now),
            RunnerEvent::Refused(job, lease, reason) => self.refused(session, &job, lease, &reason, now),
            RunnerEvent::Finished(job, lease, result) => self.finished(session, &job, lease, result, now),
            RunnerEvent::Heartbeat(leases) => {
                self.heartbeat(session, &leases, now);
                // Word from the router is an answer to word from the runner, so that neither outlives the other's patience.
                self.outcome.effects.push(Effect::Order(session, RunnerOrder::Heartbeat));
            }
            RunnerEvent::Draining => self.stands_otherwise(session, now),
        }
    }

    fn credit(&mut self, session: Session, slots: u32, now: Now) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let credits = state.credits.saturating_add(slots);
        if slots == 0 || credits.saturating_add(count(&state.jobs)) > state.capacity {
            let message = format!(
                "{credits} credits and {} jobs are more than the capacity {}",
                state.jobs.len(),
                state.capacity
            );
            self.outcome.effects.push(Effect::End(session, CoreError::Protocol(message)));
            self.detach(session, now);
            return;
        }
        state.credits = credits;
        self.refresh(session, now);
        self.match_session(session, now);
    }

    /// The job a runner speaks of, if it holds this lease of it. If not, it is told to stop.
    fn held(&mut self, session: Session, id: &JobId, lease: Lease) -> Option<Slot> {
        let state = self.sessions.get(&session)?;
        let slot = self.jobs.slot(id);
        let valid = slot.filter(|slot| {
            self.jobs.get(*slot).and_then(|job| job.grant()).is_some_and(|grant| {
                grant.lease == lease && grant.runner == state.config.name && grant.system == state.system
            })
        });
        if valid.is_none() {
            let reason = "this lease is not valid any more".to_owned();
            self.outcome.effects.push(Effect::Order(session, RunnerOrder::Cancel(id.clone(), lease, reason)));
        }
        valid
    }

    /// Extends a lease that is valid, and ties it to the stream it was heard on.
    fn extend(&mut self, session: Session, id: &JobId, lease: Lease, now: Now) -> Option<Slot> {
        let slot = self.held(session, id, lease)?;
        let grant = self.jobs.get_mut(slot)?.grant_mut()?;
        // After a restart it may have longer already.
        grant.expires = grant.expires.max(now.tick + LEASE);
        if grant.session != Some(session) {
            let before = grant.session.replace(session);
            if let Some(state) = before.and_then(|before| self.sessions.get_mut(&before)) {
                state.jobs.remove(&slot);
            }
            let state = self.sessions.get_mut(&session)?;
            state.jobs.insert(slot);
            // A slot it has used cannot be free as well.
            let most = state.capacity.saturating_sub(count(&state.jobs));
            state.credits = state.credits.min(most);
            self.refresh(session, now);
        }
        Some(slot)
    }

    /// A sign of life of the job itself, and so of its runner.
    fn alive(&mut self, session: Session, id: &JobId, lease: Lease, now: Now) -> Option<Slot> {
        let slot = self.extend(session, id, lease, now)?;
        self.jobs.get_mut(slot)?.grant_mut()?.alive = now.tick;
        Some(slot)
    }

    fn started(&mut self, session: Session, id: &JobId, lease: Lease, now: Now) {
        if let Some(slot) = self.alive(session, id, lease, now) {
            self.run(slot, now);
        }
    }

    fn run(&mut self, slot: Slot, now: Now) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        if let Phase::Assigned(grant) = &job.phase {
            let grant = grant.clone();
            job.go(JobState::Running, Phase::Running(grant), String::new(), now);
            self.changed(slot);
        }
    }

    fn refused(&mut self, session: Session, id: &JobId, lease: Lease, reason: &str, now: Now) {
        let Some(slot) = self.held(session, id, lease) else { return };
        if !matches!(self.jobs.get(slot).map(|job| &job.phase), Some(Phase::Assigned(_))) {
            return;
        }
        let runner = self.sessions.get(&session).map(|state| state.config.name.clone()).unwrap_or_default();
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
        let reason = format!("refused by runner {runner}: {reason}");
        self.end_grant(slot, now);
        self.wait_again(slot, reason.clone(), now);
        // A runner that just refused it is not the first to be asked again.
        self.keep(slot, session, Some(now.tick + KEEP_AFTER_REFUSAL), &reason, now);
        self.place(slot, now);
    }

    fn finished(&mut self, session: Session, id: &JobId, lease: Lease, result: JobResult, now: Now) {
        let current = self.job(id).and_then(|job| job.grant()).is_some_and(|grant| grant.lease == lease);
        if current && let Some(slot) = self.extend(session, id, lease, now) {
            self.run(slot, now);
            if let Some(job) = self.jobs.get_mut(slot) {
                Arc::make_mut(&mut job.record).exit_code = result.exit_code;
            }
            let state = if result.state.is_final() { result.state } else { JobState::Failed };
            self.finish(slot, state, result.reason, now);
        }
        // The first result counts; a runner that says it again, or too late, may forget it.
        self.outcome.effects.push(Effect::Order(session, RunnerOrder::Recorded(id.clone(), lease)));
    }

    fn heartbeat(&mut self, session: Session, leases: &[HeldLease], now: Now) {
        for held in leases {
            if let Some(slot) = self.extend(session, &held.job, held.lease, now)
                && held.started
            {
                self.run(slot, now);
            }
        }
    }

    pub(super) fn lease_due(&mut self, slot: Slot, lease: Lease, now: Now) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let started = matches!(job.phase, Phase::Running(_));
        let Some(grant) = job.grant_mut().filter(|grant| grant.lease == lease) else { return };
        let (expires, lifeless) = (grant.expires, grant.alive + SIGN_OF_LIFE);
        if expires > now.tick && lifeless > now.tick {
            grant.due = expires.min(lifeless);
            self.timers.set(grant.due, Timer::Lease(slot, lease));
            return;
        }
        if expires > now.tick {
            return if started { self.lifeless(slot, lease, now) } else { self.not_started(slot, lease, now) };
        }
        let (runner, session) = (grant.runner.clone(), grant.session);
        if let Some(session) = session {
            let (id, reason) = (job.record.id.clone(), "its lease expired".to_owned());
            self.outcome.effects.push(Effect::Order(session, RunnerOrder::Cancel(id, lease, reason)));
        }
        self.lost(slot, &format!("runner lost: {runner}"), now);
    }

    /// A runner holds on to a job and does not start it: the job goes elsewhere, as if the runner were lost.
    fn not_started(&mut self, slot: Slot, lease: Lease, now: Now) {
        let Some(job) = self.jobs.get(slot) else { return };
        let Some(Grant { runner, session, .. }) = job.grant() else { return };
        let (id, session) = (job.record.id.clone(), *session);
        let reason = format!("not started within 30 min by runner {runner}");
        if let Some(session) = session {
            self.outcome.effects.push(Effect::Order(session, RunnerOrder::Cancel(id, lease, reason.clone())));
        }
        self.lost(slot, &reason, now);
    }

    /// A runner is gone with a job, or might as well be.
    fn lost(&mut self, slot: Slot, why: &str, now: Now) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let started = matches!(job.phase, Phase::Running(_));
        if started && !job.retry_on_lost {
            return self.finish(slot, JobState::Failed, why.to_owned(), now);
        }
        job.losses += 1;
        if job.losses > MOST_LOSSES {
            let reason = format!("{why}, the last of {} that were lost with it", job.losses);
            return self.finish(slot, JobState::Failed, reason, now);
        }
        self.end_grant(slot, now);
        self.wait_again(slot, why.to_owned(), now);
        self.place(slot, now);
    }

    /// A job that no runner executes waits again, in its old place. Its decision is as old as it was.
    fn wait_again(&mut self, slot: Slot, reason: String, now: Now) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let Some(Grant { stamp, .. }) = job.grant().cloned() else { return };
        job.go(JobState::Admitted, Phase::Admitted { stamp, check: None }, reason, now);
        job.since = now.tick;
        self.waits(slot);
        self.changed(slot);
    }

    /// What a lease holds is free again. Its slot of the runner is free only when the runner says so.
    pub(super) fn end_grant(&mut self, slot: Slot, now: Now) {
        let Some(job) = self.jobs.get(slot) else { return };
        let Some(Grant { lease, session, due, shared, .. }) = job.grant() else { return };
        let (lease, session, due, shared) = (*lease, *session, *due, *shared);
        let project = job.record.project.clone();
        self.timers.unset(due, Timer::Lease(slot, lease));
        if let Some(session) = session {
            if let Some(state) = self.sessions.get_mut(&session) {
                state.jobs.remove(&slot);
            }
            self.refresh(session, now);
        }
        if shared {
            self.lanes.running(&project, false, &self.jobs, &mut self.groups, &mut self.timers, now.tick);
        }
    }

    /// An assignment that could not be committed is undone. No runner has heard of it, so it costs nobody anything.
    pub(crate) fn take_back(&mut self, id: &JobId, lease: Lease, now: Now) {
        let Some(slot) = self.jobs.slot(id) else { return };
        let grant = self.jobs.get(slot).and_then(|job| job.grant()).filter(|grant| grant.lease == lease);
        let Some(Grant { session, .. }) = grant else { return };
        let session = *session;
        self.end_grant(slot, now);
        if let Some(state) = session.and_then(|session| self.sessions.get_mut(&session)) {
            state.credits += 1;
        }
        if let Some(session) = session {
            self.refresh(session, now);
        }
        self.wait_again(slot, String::new(), now);
        self.place(slot, now);
    }

    /// A job that cannot be given to its runner, because its document cannot be read, fails.
    pub(crate) fn undeliverable(&mut self, id: &JobId, lease: Lease, reason: String, now: Now) {
        let Some(slot) = self.jobs.slot(id) else { return };
        let grant = self.jobs.get(slot).and_then(|job| job.grant()).filter(|grant| grant.lease == lease);
        let Some(Grant { session, .. }) = grant else { return };
        let session = *session;
        self.finish(slot, JobState::Failed, reason, now);
        if let Some(session) = session {
            // The runner has not heard of it: its slot is still free.
            if let Some(state) = self.sessions.get_mut(&session) {
                state.credits += 1;
            }
            self.refresh(session, now);
            self.match_session(session, now);
        }
    }

    /// Streams of which nothing was heard for too long get nothing more, all of them at once.
    pub(super) fn note_silent(&mut self, now: Now) {
        let due = self.timers.due(now.tick).filter_map(|timer| match timer {
            Timer::Silence(session) => Some(session),
            _ => None,
        });
        let mut silent = Vec::new();
        for session in due {
            let state = self.sessions.get_mut(&session).filter(|state| state.heard + HEALTHY <= now.tick);
            if let Some(state) = state
                && !std::mem::replace(&mut state.silent, true)
            {
                silent.push(session);
            }
        }
        self.stand_otherwise(&silent, now);
    }

    /// Looks at a stream again when it would be silent, or gone.
    pub(super) fn silence_due(&mut self, session: Session, now: Now) {
        let Some(state) = self.sessions.get(&session) else { return };
        let (silent, gone) = (state.heard + HEALTHY, state.heard + LEASE);
        if silent > now.tick {
            self.timers.set(silent, Timer::Silence(session));
        } else if gone > now.tick {
            self.timers.set(gone, Timer::Silence(session));
        } else {
            self.outcome.effects.push(Effect::End(session, CoreError::Silent));
            self.detach(session, now);
        }
    }
}
