//! Which job goes to which runner, and on what condition.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use super::{
    Assignment, Conclusion, Decided, Effect, KEEP_AFTER_FAILURE, LEASE, Now, Phase, RESTARTED, Scheduler,
    groups::{GroupId, Level},
    job::{Check, Grant, Job, KeptFrom},
    jobs::Slot,
    lanes::{Lane, LaneId, LaneKey},
    session::SessionState,
    timers::Timer,
};
use crate::{
    chain::Part,
    decision::Cause,
    handle::Session,
    job::{JobState, Lease},
};

impl Scheduler {
    /// Gives the free slots of a stream to waiting jobs, in their order.
    pub(super) fn match_session(&mut self, session: Session, now: Now) {
        // Each round uses a slot or keeps a job from this runner, so it ends.
        self.fill(session, now);
        // Slots that are left are of no use to jobs that are kept from it: these may go below.
        for other in self.below(session) {
            self.fill(other, now);
        }
    }

    fn fill(&mut self, session: Session, now: Now) {
        while let Some(slot) = self.next_for(session, now) {
            self.offer(slot, session, now);
        }
    }

    /// Streams with free slots of a lower priority than one with free slots, if jobs wait that are kept from some runner.
    fn below(&self, session: Session) -> Vec<Session> {
        let Some(state) = self.sessions.get(&session).filter(|state| state.free() > 0) else { return Vec::new() };
        let Some(group) = self.groups.get(state.group).filter(|group| group.kept_lanes > 0) else { return Vec::new() };
        let below = group.levels.iter().filter(|(Reverse(priority), _)| *priority < state.config.priority);
        below.flat_map(|(_, level)| level.free.iter().map(|(_, session)| *session)).collect()
    }

    /// The next job of a stream with a free slot.
    fn next_for(&self, session: Session, now: Now) -> Option<Slot> {
        let state = self.sessions.get(&session).filter(|_| !self.is_closed())?;
        if state.free() == 0 {
            return None;
        }
        let group = self.groups.get(state.group)?;
        let priority = state.config.priority;
        let open = group.open_levels(self.hold, now.tick, |_| false).any(|(level, _)| level == priority);
        if !open && group.kept_lanes == 0 {
            return None;
        }
        let fits = |lane: &&LaneId| {
            self.lanes
                .get(**lane)
                .is_some_and(|lane| !self.keeps(lane, state) && (open || self.is_left_to(lane, state, now.tick)))
        };
        let lane = group.lanes.iter().map(|(_, lane)| lane).find(fits)?;
        self.lanes.head(*lane, &self.jobs, now.tick)
    }

    /// Whether a stream of a lower priority may take the jobs of a lane that those above, free as they are, are kept from.
    fn is_left_to(&self, lane: &Lane, state: &SessionState, now: Duration) -> bool {
        let Some(group) = self.groups.get(state.group).filter(|_| !lane.key.kept.is_empty()) else { return false };
        let levels =
            group.open_levels(self.hold, now, |level| self.first_of(level, lane).is_none() && !level.free.is_empty());
        levels.into_iter().any(|(level, _)| level == state.config.priority)
    }

    /// The stream of a level with most free slots that may have the jobs of a lane.
    fn first_of(&self, level: &Level, lane: &Lane) -> Option<Session> {
        let mut sessions = level.free.iter().map(|(_, session)| *session);
        let may_have = |session: &Session| self.sessions.get(session).is_some_and(|state| !self.keeps(lane, state));
        if lane.key.kept.is_empty() { sessions.next() } else { sessions.find(may_have) }
    }

    /// Whether the jobs of a lane are kept from this runner.
    fn keeps(&self, lane: &Lane, state: &SessionState) -> bool {
        let version = || self.versions.of(&self.chains, &lane.key.project, Part::Runner(&state.config.name));
        !lane.key.kept.is_empty() && lane.keeps_from(state.kind, version)
    }

    /// The free slot a job of this lane would get: in each group that could take it the highest open level counts; of these
    /// the highest priority, then the stream with most free slots.
    fn best(&self, lane: &Lane, now: Now) -> Option<Session> {
        let found = lane.groups.iter().filter_map(|group| {
            let group = self.groups.get(*group).filter(|group| group.free > 0)?;
            let passes = |level: &Level| {
                !level.free.is_empty() && !lane.key.kept.is_empty() && self.first_of(level, lane).is_none()
            };
            let mut levels = group.open_levels(self.hold, now.tick, passes);
            levels.find_map(|(priority, level)| {
                let session = self.first_of(level, lane)?;
                let free = self.sessions.get(&session).map_or(0, SessionState::free);
                Some((priority, free, Reverse(session)))
            })
        });
        found.max().map(|(_, _, Reverse(session))| session)
    }

    /// Gives free slots to waiting jobs wherever there are both.
    pub(super) fn match_all(&mut self, now: Now) {
        for group in self.groups.ids() {
            self.match_group(group, now);
        }
    }

    pub(super) fn match_group(&mut self, id: GroupId, now: Now) {
        let Some(group) = self.groups.get(id).filter(|group| !group.lanes.is_empty() && group.free > 0) else { return };
        let sessions = group.levels.values().flat_map(|level| level.free.iter().map(|(_, session)| *session));
        for session in sessions.collect::<Vec<_>>() {
            if self.groups.get(id).is_none_or(|group| group.lanes.is_empty()) {
                return;
            }
            self.match_session(session, now);
        }
    }

    /// Finds a free slot for a job that begins to wait, or puts it into its lane.
    pub(super) fn place(&mut self, slot: Slot, now: Now) {
        let Some(job) = self.jobs.get(slot).filter(|job| job.is_waiting()) else { return };
        let key = lane_key(job);
        let lane = self.lanes.lane(key, &self.groups, now.tick);
        let best = match self.lanes.get(lane) {
            Some(lane) if !self.is_closed() => self.best(lane, now),
            _ => None,
        };
        match best {
            Some(session) => {
                self.lanes.clean(lane, &mut self.timers);
                self.offer(slot, session, now);
            }
            None => self.enqueue(slot, lane, now),
        }
    }

    fn enqueue(&mut self, slot: Slot, lane: LaneId, now: Now) {
        self.lanes.insert(lane, slot, &self.jobs, &mut self.groups, &mut self.timers, now.tick);
        if let Some(job) = self.jobs.get_mut(slot) {
            job.lane = Some(lane);
            // It may wait long; it is read back when it is needed.
            job.rest();
        }
        self.signal_lane(lane, now);
    }

    pub(super) fn dequeue(&mut self, slot: Slot, now: Now) {
        let Some(lane) = self.jobs.get_mut(slot).and_then(|job| job.lane.take()) else { return };
        self.signal_lane(lane, now);
        self.lanes.remove(lane, slot, &self.jobs, &mut self.groups, &mut self.timers, now.tick);
    }

    fn signal_lane(&mut self, lane: LaneId, now: Now) {
        let groups = self.lanes.get(lane).map(|lane| lane.groups.clone()).unwrap_or_default();
        for group in groups {
            self.signal_soon(group, now);
        }
    }

    /// Brings a waiting job and a free slot together: the job is assigned, or asked about first while the slot is held.
    pub(super) fn offer(&mut self, slot: Slot, session: Session, now: Now) {
        let Some((job, state)) = self.jobs.get(slot).zip(self.sessions.get(&session)) else { return };
        if !self.is_fresh(job, now) {
            return self.reroute(slot, session, now);
        }
        if !self.chains.asks_about_runner(job.project(), &state.config.name) {
            return self.assign(slot, session, now);
        }
        let runner = state.config.name.clone();
        let version = self.versions.of(&self.chains, job.project(), Part::Runner(&runner));
        self.dequeue(slot, now);
        let Some((job, state)) = self.jobs.get_mut(slot).zip(self.sessions.get_mut(&session)) else { return };
        job.admissions += 1;
        let id = job.record.id.clone();
        let admission: Arc<str> = format!("{id}-{}", job.admissions).into();
        if let Phase::Admitted { check, .. } = &mut job.phase {
            *check = Some(Box::new(Check { admission: admission.clone(), session, runner, version }));
        }
        state.reserved.insert(slot);
        let runner = state.facts.clone();
        // Ids of admissions are used once, also across a restart.
        self.dirty(slot);
        self.refresh(session, now);
        self.outcome.effects.push(Effect::AskAboutRunner { job: id, admission, runner });
    }

    /// A decision that is stale serves nothing: the job is asked about again, and keeps the slot meanwhile.
    fn reroute(&mut self, slot: Slot, session: Session, now: Now) {
        self.dequeue(slot, now);
        if let Some(job) = self.jobs.get_mut(slot) {
            let phase = Phase::Routing { admission: None, reserved: None };
            job.go(JobState::Routing, phase, "its admission is out of date".to_owned(), now);
        }
        self.changed(slot);
        self.ask(slot, Some(session), now);
    }

    /// The controllers that are asked when a runner is chosen have decided.
    pub(super) fn checked(&mut self, slot: Slot, decided: &Decided, now: Now) {
        let Some(job) = self.jobs.get(slot) else { return };
        let Phase::Admitted { check: Some(check), .. } = &job.phase else { return };
        let check = check.clone();
        let current = self.version(job.project(), Part::Runner(&check.runner));
        self.release(slot, now);
        match decided.conclusion {
            Conclusion::Admitted if check.version == decided.version && decided.version == current => {
                let fresh = self.jobs.get(slot).is_some_and(|job| self.is_fresh(job, now));
                if fresh && self.is_free(check.session) {
                    self.assign(slot, check.session, now);
                } else {
                    self.place(slot, now);
                }
            }
            // It was asked under another chain: it is asked again when it comes to it.
            Conclusion::Admitted => match self.restarted(slot) {
                true => self.back_off(slot, RESTARTED.to_owned(), now),
                false => self.place(slot, now),
            },
            Conclusion::Rejected | Conclusion::Wait => {
                // A failure heals; a rejection stays until the chain or the runner changes.
                let failed = decided.cause == Some(Cause::Failure);
                let until = failed.then(|| now.tick + KEEP_AFTER_FAILURE);
                self.keep(slot, check.session, until, &decided.reason, now);
                self.place(slot, now);
            }
        }
        self.match_session(check.session, now);
    }

    /// Keeps a job from runners like this one until the chain or the runner changes, or for a time.
    pub(super) fn keep(&mut self, slot: Slot, session: Session, until: Option<Duration>, reason: &str, now: Now) {
        let Some((job, state)) = self.jobs.get_mut(slot).zip(self.sessions.get(&session)) else { return };
        let runner = state.config.name.clone();
        let version = self.versions.of(&self.chains, &job.record.project, Part::Runner(&runner));
        let text = format!("waits for another runner than {runner}: {reason}");
        job.note(&text, now);
        Arc::make_mut(&mut job.record).reason = text;
        job.keep_from(KeptFrom { runner, kind: state.kind, version, until, reason: reason.into() }, now);
        if let Some(until) = until {
            self.timers.set(until, Timer::Release(slot, job.sequence));
        }
        self.changed(slot);
    }

    /// A job is not kept from some runner any more.
    pub(super) fn release_due(&mut self, slot: Slot, sequence: u64, now: Now) {
        let Some(job) = self.jobs.get_mut(slot).filter(|job| job.sequence == sequence) else { return };
        job.stop_keeping(now);
        if job.lane.is_some() {
            self.dequeue(slot, now);
            self.place(slot, now);
        }
    }

    pub(super) fn is_fresh(&self, job: &Job, now: Now) -> bool {
        let Phase::Admitted { stamp, .. } = &job.phase else { return false };
        let young = stamp.at.is_some_and(|at| now.tick.saturating_sub(at) < self.limits.admission_ttl);
        young && stamp.version == self.version(job.project(), Part::Arrival)
    }

    pub(super) fn is_free(&self, session: Session) -> bool {
        !self.is_closed() && self.sessions.get(&session).is_some_and(|state| state.free() > 0)
    }

    /// Gives a job to a runner. Called only for a job whose current chain has admitted it, and for a free slot.
    fn assign(&mut self, slot: Slot, session: Session, now: Now) {
        self.dequeue(slot, now);
        self.waits_no_more(slot);
        let fence = self.fence_of(session);
        let Some((job, state)) = self.jobs.get_mut(slot).zip(self.sessions.get_mut(&session)) else { return };
        let Phase::Admitted { stamp, .. } = &job.phase else { return };
        self.lease += 1;
        let lease = Lease(self.lease);
        let shared = self.groups.get(state.group).is_some_and(|group| group.capability.is_shared());
        let expires = now.tick + LEASE;
        let grant = Grant {
            stamp: stamp.clone(),
            lease,
            runner: state.config.name.clone(),
            system: state.system.clone(),
            session: Some(session),
            expires,
            alive: now.tick,
            due: expires,
            shared,
            fence,
        };
        job.restarts = 0;
        state.credits = state.credits.saturating_sub(1);
        state.jobs.insert(slot);
        self.timers.set(expires, Timer::Lease(slot, lease));
        job.go(JobState::Assigned, Phase::Assigned(Box::new(grant)), String::new(), now);
        let assignment = Assignment {
            job: job.record.id.clone(),
            lease,
            content: job.content(),
            timeout_seconds: job.timeout_seconds,
            fence,
        };
        job.rest();
        let project = job.record.project.clone();
        self.changed(slot);
        self.refresh(session, now);
        if shared {
            self.lanes.running(&project, true, &self.jobs, &mut self.groups, &mut self.timers, now.tick);
        }
        self.outcome.effects.push(Effect::Assign(session, Box::new(assignment)));
    }

    /// Brings a stream to its place in the indexes of its group, after anything about it changed; says whether it has more
    /// to give than before.
    pub(super) fn refresh(&mut self, session: Session, now: Now) -> bool {
        let Some(state) = self.sessions.get_mut(&session) else { return false };
        let after = super::session::Counted {
            open: state.is_open(),
            free: state.free(),
            running: super::session::count(&state.jobs),
        };
        let before = std::mem::replace(&mut state.counted, after);
        if before == after {
            return false;
        }
        let (id, priority) = (state.group, state.config.priority);
        let Some(group) = self.groups.get_mut(id) else { return false };
        group.recount(session, priority, before, after);
        self.stepped.insert(id);
        if before.running != after.running {
            self.signal_soon(id, now);
        }
        after.free > before.free
    }

    /// Some level of a group may have been full for long enough.
    pub(super) fn hold_due(&mut self, id: GroupId, now: Now) {
        if let Some(group) = self.groups.get_mut(id) {
            group.hold_at = None;
            self.stepped.insert(id);
            self.match_group(id, now);
        }
    }

    /// What the end of a step shows: levels that are full from now on, or not any more.
    pub(super) fn end_of_step(&mut self, now: Now) {
        for id in std::mem::take(&mut self.stepped) {
            let Some(group) = self.groups.get_mut(id) else { continue };
            group.note_full(now.tick);
            if let Some(at) = group.watch_hold(self.hold, now.tick) {
                self.timers.set(at, Timer::Hold(id));
            }
        }
    }
}

/// The lane of a job.
pub(super) fn lane_key(job: &Job) -> LaneKey {
    LaneKey {
        tags: job.tags.clone(),
        protected: job.protected,
        project: job.project().clone(),
        kept: job.kept.iter().map(|kept| (kept.kind, kept.version.clone())).collect(),
    }
}
