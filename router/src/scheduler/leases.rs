//! What attached runners say, and what becomes of those that say nothing.

use std::sync::Arc;

use super::{
    Effect, Grant, KEEP_AFTER_REFUSAL, LEASE, MOST_LOSSES, Now, Phase, Scheduler, Timer,
    session::{SessionState, count},
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
        let older =
            self.sessions.iter().find(|(_, state)| state.config.name == hello.runner.name && *state.system == **id);
        if let Some(older) = older.map(|(session, _)| *session) {
            self.outcome.effects.push(Effect::End(older, CoreError::Superseded));
            self.detach(older, now);
        }
        self.session += 1;
        let session = Session(self.session);
        self.sessions.insert(session, SessionState::new(hello, now));
        self.timers.insert((now.tick + LEASE, Timer::Silence(session)));
        if self.draining {
            self.outcome.effects.push(Effect::Order(session, RunnerOrder::Drain));
        }
        self.heartbeat(session, &hello.leases, now);
        Ok(session)
    }

    /// A runner's stream ended. Its leases live until they expire; slots held for jobs are free again.
    pub(crate) fn detach(&mut self, session: Session, now: Now) {
        let Some(SessionState { jobs, reserved, .. }) = self.sessions.remove(&session) else { return };
        for id in jobs {
            if let Some(grant) = self.jobs.get_mut(&id).and_then(|job| job.grant_mut()) {
                grant.session = None;
            }
        }
        for id in reserved {
            self.release(&id);
            self.place(&id, now);
        }
    }

    /// An attached runner says something.
    pub(crate) fn event(&mut self, session: Session, event: RunnerEvent, now: Now) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.heard = now.tick;
        match event {
            RunnerEvent::Credit(slots) => self.credit(session, slots, now),
            RunnerEvent::Accepted(job, lease) | RunnerEvent::Output(job, lease) => {
                self.extend(session, &job, lease, now);
            }
            RunnerEvent::Started(job, lease) => self.started(session, &job, lease, now),
            RunnerEvent::Refused(job, lease, reason) => self.refused(session, &job, lease, &reason, now),
            RunnerEvent::Finished(job, lease, result) => self.finished(session, &job, lease, result, now),
            RunnerEvent::Heartbeat(leases) => {
                self.heartbeat(session, &leases, now);
                // Word from the router is an answer to word from the runner, so that neither outlives the other's patience.
                self.outcome.effects.push(Effect::Order(session, RunnerOrder::Heartbeat));
                self.match_session(session, now);
            }
            RunnerEvent::Draining => state.draining = true,
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
        self.match_session(session, now);
    }

    /// Whether the runner of this stream holds this lease. If not, it is told to stop.
    fn holds(&mut self, session: Session, id: &JobId, lease: Lease) -> bool {
        let Some(state) = self.sessions.get(&session) else { return false };
        let valid = self.jobs.get(id).and_then(|job| job.grant()).is_some_and(|grant| {
            grant.lease == lease && grant.runner == state.config.name && grant.system == state.system
        });
        if !valid {
            let reason = "this lease is not valid any more".to_owned();
            self.outcome.effects.push(Effect::Order(session, RunnerOrder::Cancel(id.clone(), lease, reason)));
        }
        valid
    }

    /// Extends a lease that is valid, and ties it to the stream it was heard on.
    fn extend(&mut self, session: Session, id: &JobId, lease: Lease, now: Now) -> bool {
        if !self.holds(session, id, lease) {
            return false;
        }
        let Some(grant) = self.jobs.get_mut(id).and_then(|job| job.grant_mut()) else { return false };
        grant.expires = now.tick + LEASE;
        if grant.session != Some(session) {
            grant.session = Some(session);
            if let Some(state) = self.sessions.get_mut(&session) {
                state.jobs.insert(id.clone());
            }
        }
        true
    }

    fn started(&mut self, session: Session, id: &JobId, lease: Lease, now: Now) {
        if !self.extend(session, id, lease, now) {
            return;
        }
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let Phase::Assigned(grant) = &job.phase {
            let grant = grant.clone();
            job.go(JobState::Running, Phase::Running(grant), String::new(), now);
            self.changed(id);
        }
    }

    fn refused(&mut self, session: Session, id: &JobId, lease: Lease, reason: &str, now: Now) {
        if !self.holds(session, id, lease) {
            return;
        }
        let assigned = matches!(self.jobs.get(id).map(|job| &job.phase), Some(Phase::Assigned(_)));
        if !assigned {
            return;
        }
        let runner = self.sessions.get(&session).map(|state| state.config.name.clone()).unwrap_or_default();
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
        // A runner that just refused it is not the first to be asked again.
        self.keep_for(id, session, KEEP_AFTER_REFUSAL, now);
        self.back_to_admitted(id, format!("refused by runner {runner}: {reason}"), now);
    }

    fn finished(&mut self, session: Session, id: &JobId, lease: Lease, result: JobResult, now: Now) {
        let holds = self.jobs.get(id).and_then(|job| job.grant()).is_some_and(|grant| grant.lease == lease)
            && self.extend(session, id, lease, now);
        if holds {
            if matches!(self.jobs.get(id).map(|job| &job.phase), Some(Phase::Assigned(_))) {
                self.started(session, id, lease, now);
            }
            if let Some(job) = self.jobs.get_mut(id) {
                Arc::make_mut(&mut job.record).exit_code = result.exit_code;
            }
            let state = if result.state.is_final() { result.state } else { JobState::Failed };
            self.finish(id, state, result.reason, now);
        }
        // The first result counts; a runner that says it again, or too late, may forget it.
        self.outcome.effects.push(Effect::Order(session, RunnerOrder::Recorded(id.clone(), lease)));
    }

    fn heartbeat(&mut self, session: Session, leases: &[HeldLease], now: Now) {
        for held in leases {
            if self.extend(session, &held.job, held.lease, now) && held.started {
                self.started(session, &held.job, held.lease, now);
            }
        }
    }

    pub(super) fn lease_due(&mut self, id: &JobId, lease: Lease, now: Now) {
        let Some(grant) = self.jobs.get(id).and_then(|job| job.grant()).filter(|grant| grant.lease == lease) else {
            return;
        };
        if grant.expires > now.tick {
            self.timers.insert((grant.expires, Timer::Lease(id.clone(), lease)));
            return;
        }
        let (runner, session) = (grant.runner.clone(), grant.session);
        if let Some(session) = session {
            let reason = "its lease expired".to_owned();
            self.outcome.effects.push(Effect::Order(session, RunnerOrder::Cancel(id.clone(), lease, reason)));
        }
        self.lost(id, &runner, now);
    }

    /// A runner is gone with a job.
    fn lost(&mut self, id: &JobId, runner: &str, now: Now) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let started = matches!(job.phase, Phase::Running(_));
        if started && !job.new.retry_on_lost {
            return self.finish(id, JobState::Failed, format!("runner lost: {runner}"), now);
        }
        job.losses += 1;
        if job.losses > MOST_LOSSES {
            let reason = format!("runner lost: {runner}, the last of {} that were lost with it", job.losses);
            return self.finish(id, JobState::Failed, reason, now);
        }
        self.back_to_admitted(id, format!("runner lost: {runner}"), now);
    }

    /// A job that no runner executes waits again, in its old place. Its decision is as old as it was.
    fn back_to_admitted(&mut self, id: &JobId, reason: String, now: Now) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let Some(Grant { session, stamp, .. }) = job.grant().cloned() else { return };
        job.go(JobState::Admitted, Phase::Admitted { stamp, check: None }, reason, now);
        if let Some(state) = session.and_then(|session| self.sessions.get_mut(&session)) {
            state.jobs.remove(id);
        }
        self.changed(id);
        self.enqueue(id);
        self.place(id, now);
    }

    /// An assignment that could not be committed is undone. No runner has heard of it, so it costs nobody anything.
    pub(crate) fn take_back(&mut self, id: &JobId, lease: Lease, now: Now) {
        let grant = self.jobs.get(id).and_then(|job| job.grant()).filter(|grant| grant.lease == lease);
        let Some(Grant { session, .. }) = grant else { return };
        if let Some(state) = session.and_then(|session| self.sessions.get_mut(&session)) {
            state.credits += 1;
        }
        self.back_to_admitted(id, String::new(), now);
    }

    pub(super) fn silence_due(&mut self, session: Session, now: Now) {
        let Some(SessionState { heard, .. }) = self.sessions.get(&session) else { return };
        let due = *heard + LEASE;
        if due > now.tick {
            self.timers.insert((due, Timer::Silence(session)));
            return;
        }
        self.outcome.effects.push(Effect::End(session, CoreError::Silent));
        self.detach(session, now);
    }
}
