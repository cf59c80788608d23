//! Admissions of jobs: begun, ended, begun again.

use std::sync::Arc;

use super::{Decided, Effect, MOST_RESTARTS, Now, Phase, RESTARTED, RETRY, Scheduler, Slot, Stamp, Timer};
use crate::{
    admission::Conclusion,
    chain::Part,
    handle::Session,
    job::{JobId, JobState},
};

impl Scheduler {
    /// Whether an admission's decision would still be used: it is the job's open one.
    pub(crate) fn awaits(&self, job: &JobId, admission: &str) -> bool {
        self.job(job).is_some_and(|job| match &job.phase {
            Phase::Routing { admission: Some(open), .. } => **open == *admission,
            Phase::Admitted { check: Some(check), .. } => *check.admission == *admission,
            _ => false,
        })
    }

    /// An admission ended. One that is not the job's open one has no effect.
    pub(crate) fn decided(&mut self, decided: Decided, now: Now) {
        let Some(slot) = self.jobs.slot(&decided.job) else { return };
        let Some(job) = self.jobs.get(slot) else { return };
        match &job.phase {
            Phase::Routing { admission: Some(open), .. } if *open == decided.admission => {
                self.arrival(slot, decided, now);
            }
            Phase::Admitted { check: Some(check), .. } if check.admission == decided.admission => {
                self.checked(slot, &decided, now);
            }
            _ => {}
        }
    }

    /// The chain up to the project has decided.
    pub(super) fn arrival(&mut self, slot: Slot, decided: Decided, now: Now) {
        let reserved = self.release(slot, now);
        let Some(job) = self.jobs.get(slot) else { return };
        let current = self.version(job.project(), Part::Arrival);
        match decided.conclusion {
            Conclusion::Admitted => {
                if decided.version != current && self.restarted(slot) {
                    self.back_off(slot, RESTARTED.to_owned(), now);
                    return self.reserved_again(reserved, now);
                }
                let Some(job) = self.jobs.get_mut(slot) else { return };
                if job.restarts == 0 {
                    job.waits = 0;
                }
                // One text for all jobs that were admitted under it.
                let version = if decided.version == current { current } else { decided.version };
                let stamp = Stamp { version, at: Some(now.tick) };
                job.go(JobState::Admitted, Phase::Admitted { stamp, check: None }, String::new(), now);
                self.changed(slot);
                // The slot it was found stale for is still its own, if it is still there.
                match reserved.filter(|session| self.is_free(*session)) {
                    Some(session) => self.offer(slot, session, now),
                    None => self.place(slot, now),
                }
            }
            Conclusion::Rejected => self.finish(slot, JobState::Rejected, decided.reason, now),
            Conclusion::Wait => self.back_off(slot, decided.reason, now),
        }
        self.reserved_again(reserved, now);
    }

    /// Counts that a job's chain changed while it was asked; true when that was too often. Without a pause such a job
    /// would hold a slot, and ask, for ever.
    pub(super) fn restarted(&mut self, slot: Slot) -> bool {
        let Some(job) = self.jobs.get_mut(slot) else { return false };
        job.restarts += 1;
        job.restarts > MOST_RESTARTS
    }

    /// A slot that was held for a job is there for others.
    pub(super) fn reserved_again(&mut self, reserved: Option<Session>, now: Now) {
        if let Some(session) = reserved {
            self.match_session(session, now);
        }
    }

    /// Has a job asked about again after a pause, longer each time.
    pub(super) fn back_off(&mut self, slot: Slot, reason: String, now: Now) {
        self.dequeue(slot, now);
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let pause = RETRY.0.saturating_mul(1 << job.waits.min(16)).min(RETRY.1);
        job.waits += 1;
        let phase = Phase::Routing { admission: None, reserved: None };
        job.go(JobState::Routing, phase, reason, now);
        job.rest();
        self.timers.set(now.tick + pause, Timer::Retry(slot, job.sequence));
        self.changed(slot);
    }

    pub(super) fn retry(&mut self, slot: Slot, sequence: u64, now: Now) {
        let waits = self
            .jobs
            .get(slot)
            .is_some_and(|job| job.sequence == sequence && matches!(job.phase, Phase::Routing { admission: None, .. }));
        if waits {
            self.ask(slot, None, now);
        }
    }

    /// Begins an admission of a job in routing; `reserved` keeps a free slot for it.
    pub(super) fn ask(&mut self, slot: Slot, reserved: Option<Session>, now: Now) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        job.admissions += 1;
        let id = job.record.id.clone();
        let admission: Arc<str> = format!("{id}-{}", job.admissions).into();
        job.phase = Phase::Routing { admission: Some(admission.clone()), reserved };
        // Ids of admissions are used once, also across a restart.
        self.dirty(slot);
        if let Some(session) = reserved
            && let Some(state) = self.sessions.get_mut(&session)
        {
            state.reserved.insert(slot);
            self.refresh(session, now);
        }
        self.outcome.effects.push(Effect::Ask { job: id, admission });
    }

    /// Frees the slot that is held for a job, and forgets what it was held for.
    pub(super) fn release(&mut self, slot: Slot, now: Now) -> Option<Session> {
        let job = self.jobs.get_mut(slot)?;
        let session = job.reserved()?;
        match &mut job.phase {
            Phase::Routing { reserved, .. } => *reserved = None,
            Phase::Admitted { check, .. } => *check = None,
            _ => {}
        }
        if let Some(state) = self.sessions.get_mut(&session) {
            state.reserved.remove(&slot);
        }
        self.refresh(session, now);
        Some(session)
    }
}
