//! Jobs that get nowhere are dropped, with a reason that says which of three rules they fell under. The times are GitLab's
//! own (facts B2).

use std::time::Duration;

use super::{Effect, Now, Scheduler, jobs::Slot, lanes::LaneId, timers::Timer};
use crate::{
    handle::RunnerOrder,
    job::{JobState, Lease},
};

/// A job waits so long at most.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// A job waits so long while no online runner could ever take it.
pub(crate) const UNMATCHED: Duration = Duration::from_secs(3600);
/// A running job gives a sign of life at least so often.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(30 * 60);

impl Scheduler {
    /// A job begins to wait.
    pub(super) fn waits(&mut self, slot: Slot) {
        let Some(job) = self.jobs.get(slot) else { return };
        self.waiting.insert((job.since, slot));
        self.watch_oldest();
    }

    /// A job waits no more.
    pub(super) fn waits_no_more(&mut self, slot: Slot) {
        let Some(job) = self.jobs.get(slot) else { return };
        self.waiting.remove(&(job.since, slot));
    }

    fn watch_oldest(&mut self) {
        let Some((since, _)) = self.waiting.first() else { return };
        let at = *since + LONGEST_WAIT;
        if self.oldest_at.is_none_or(|armed| at < armed) {
            self.oldest_at = Some(at);
            self.timers.set(at, Timer::Oldest);
        }
    }

    /// Those that have waited longest may have waited too long.
    pub(super) fn oldest_due(&mut self, now: Now) {
        self.oldest_at = None;
        while let Some((since, slot)) = self.waiting.first().copied() {
            if since + LONGEST_WAIT > now.tick {
                break;
            }
            self.drop_job(slot, "stuck: no runner took it within 24 h", now);
        }
        self.watch_oldest();
    }

    /// The jobs of a lane may have waited too long for a runner that could take them.
    pub(super) fn unmatched_due(&mut self, lane: LaneId, now: Now) {
        while let Some(slot) = self.lanes.unmatched(lane, &self.jobs, &mut self.timers, UNMATCHED, now.tick) {
            self.drop_job(slot, "stuck: for 1 h no runner was online that could ever take it", now);
        }
    }

    /// A running job has given no sign of life for too long.
    pub(super) fn lifeless(&mut self, slot: Slot, lease: Lease, now: Now) {
        let Some(job) = self.jobs.get(slot) else { return };
        let (id, session) = (job.record.id.clone(), job.grant().and_then(|grant| grant.session));
        let reason = "stuck: running for 30 min without a sign of life";
        if let Some(session) = session {
            self.outcome.effects.push(Effect::Order(session, RunnerOrder::Cancel(id, lease, reason.to_owned())));
        }
        self.finish(slot, JobState::Dropped, reason.to_owned(), now);
    }

    fn drop_job(&mut self, slot: Slot, reason: &str, now: Now) {
        let reserved = self.release(slot, now);
        self.finish(slot, JobState::Dropped, reason.to_owned(), now);
        self.reserved_again(reserved, now);
    }
}
