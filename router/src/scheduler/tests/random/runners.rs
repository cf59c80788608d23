//! What runners do, honest ones and others.

use std::collections::BTreeSet;

use super::{
    super::{super::*, *},
    cast::{RUNNERS, cast},
    model::{Doing, Stream, System},
    steps::History,
};
use crate::handle::{HeldLease, JobResult, RunnerEvent, TaintKind};

impl History {
    pub(super) fn attach(&mut self) -> Result<(), String> {
        let number = self.dice.below(RUNNERS);
        if self.refusing || !self.configured[number] {
            return Ok(());
        }
        let runner = cast(number, self.variants[number]);
        let system = if self.dice.percent(70) { "x" } else { "y" };
        let by: System = (runner.name.clone(), system.into());
        let mut held = Vec::new();
        if self.dice.percent(80) {
            let known = self.leases.get(&by).cloned().unwrap_or_default();
            held.extend(known.into_iter().map(|(job, lease, started)| HeldLease { job, lease, started }));
        }
        if self.dice.percent(10)
            && let Some((job, lease)) = self.any_lease()
        {
            held.push(HeldLease { job, lease, started: true });
        }
        let capacity = 1 + u32::try_from(self.dice.below(3)).unwrap();
        let mut hello = hello(&runner, system, capacity, held.clone());
        if self.dice.percent(3) {
            let kind = if self.dice.percent(50) { TaintKind::Jobs } else { TaintKind::Leadership };
            hello.taints.push((kind, "itself".to_owned()));
            self.model.now.taints.insert((runner.name.clone(), kind, Some(system.into())));
        }
        self.note(format!("attach {} {system} {capacity} {held:?} {:?}", runner.name, hello.taints));
        self.levels_without(&by);
        let valid: BTreeSet<_> =
            held.iter().filter(|held| self.holds(&by, &held.job, held.lease)).cloned().map(|held| held.job).collect();
        let now = self.now();
        let session = self.scheduler.attach(&hello, now).map_err(|error| error.to_string())?;
        let stream = Stream {
            runner,
            system: system.into(),
            capacity,
            credits: 0,
            heard: self.tick,
            draining: false,
            over: false,
        };
        self.model.streams.insert(session, stream);
        self.observe(&Doing::Says { valid: valid.clone(), refuses: false, result: None })?;
        self.heard(&valid, false);
        Ok(())
    }

    /// A level whose only stream ends and begins anew has been full for no time.
    fn levels_without(&mut self, by: &System) {
        let Some(older) = self.scheduler.systems.get(by).and_then(|session| self.scheduler.sessions.get(session))
        else {
            return;
        };
        let Some(group) = self.scheduler.groups.get(older.group) else { return };
        let priority = older.config.priority;
        let streams = self.scheduler.sessions.values();
        let same = streams.filter(|other| other.group == older.group && other.config.priority == priority);
        if same.count() == 1 {
            self.levels.remove(&(group.fingerprint, priority));
        }
    }

    /// Whether a system holds a valid lease.
    fn holds(&self, by: &System, job: &JobId, lease: Lease) -> bool {
        let held = self.model.jobs.get(job).and_then(|job| job.now.held.as_ref());
        held.is_some_and(|held| held.lease == lease && held.by == *by)
    }

    /// Leases that were heard of live on.
    fn heard(&mut self, valid: &BTreeSet<JobId>, alive: bool) {
        for id in valid {
            if let Some(held) = self.model.jobs.get_mut(id).and_then(|job| job.now.held.as_mut()) {
                held.until = held.until.max(self.tick + LEASE);
                if alive {
                    held.alive = self.tick;
                }
            }
        }
    }

    pub(super) fn session(&mut self, also_over: bool) -> Option<Session> {
        let streams = self.model.streams.iter().filter(|(_, stream)| also_over || !stream.over);
        let sessions: Vec<_> = streams.map(|(session, _)| *session).collect();
        self.dice.pick(&sessions)
    }

    pub(super) fn detach(&mut self) -> Result<(), String> {
        let Some(session) = self.session(false) else { return Ok(()) };
        self.note(format!("detach {session:?}"));
        self.model.streams.get_mut(&session).unwrap().over = true;
        let now = self.now();
        self.scheduler.detach(session, now);
        self.observe(&Doing::Other)
    }

    pub(super) fn credit(&mut self) -> Result<(), String> {
        let Some(session) = self.session(false) else { return Ok(()) };
        let stream = self.model.streams.get_mut(&session).unwrap();
        let lies = self.dice.percent(2);
        let slots = 1 + u32::try_from(self.dice.below(if lies { 9 } else { 2 })).unwrap();
        let used = self.scheduler.sessions.get(&session).map_or(0, |state| state.credits + session::count(&state.jobs));
        if !lies && used + slots > stream.capacity {
            return Ok(());
        }
        stream.credits += slots;
        self.says(session, RunnerEvent::Credit(slots))
    }

    pub(super) fn says(&mut self, session: Session, event: RunnerEvent) -> Result<(), String> {
        self.note(format!("{session:?} says {event:?}"));
        let mut valid = BTreeSet::new();
        let (mut alive, mut refuses, mut result) = (false, false, None);
        match &event {
            RunnerEvent::Accepted(job, lease) | RunnerEvent::Output(job, lease) | RunnerEvent::Started(job, lease) => {
                alive = true;
                valid.extend(self.model.is_valid(session, job, *lease).then(|| job.clone()));
            }
            RunnerEvent::Refused(job, lease, _) => {
                refuses = true;
                valid.extend(self.model.is_valid(session, job, *lease).then(|| job.clone()));
            }
            RunnerEvent::Finished(job, lease, how) => {
                result = Some(how.clone());
                valid.extend(self.model.is_valid(session, job, *lease).then(|| job.clone()));
            }
            RunnerEvent::Heartbeat(leases) => {
                let held = leases.iter().filter(|held| self.model.is_valid(session, &held.job, held.lease));
                valid.extend(held.map(|held| held.job.clone()));
            }
            RunnerEvent::Credit(_) | RunnerEvent::Draining => {}
        }
        let stream = self.model.streams.get_mut(&session).filter(|stream| !stream.over);
        if let Some(stream) = stream {
            stream.heard = self.tick;
            stream.draining |= matches!(event, RunnerEvent::Draining);
        }
        let expected = result.as_ref().map(|result| result.state);
        let now = self.now();
        self.scheduler.event(session, event, now);
        let finished = valid.clone();
        self.observe(&Doing::Says { valid: valid.clone(), refuses, result })?;
        if !refuses {
            self.heard(&valid, alive);
        }
        // The first result under the valid lease counts.
        for (id, expected) in finished.iter().filter_map(|id| Some((id, expected?))) {
            let state = self.model.jobs[id].now.state;
            if state != expected {
                return Err(format!("{id} is {state:?}: its result did not count"));
            }
        }
        Ok(())
    }

    fn result(&mut self) -> JobResult {
        let states = [JobState::Success, JobState::Success, JobState::Failed, JobState::Canceled];
        let state = self.dice.pick(&states).unwrap();
        JobResult { state, exit_code: Some(0), reason: String::new() }
    }

    fn about(&mut self, job: JobId, lease: Lease) -> RunnerEvent {
        match self.dice.below(10) {
            0 => RunnerEvent::Accepted(job, lease),
            1..4 => RunnerEvent::Started(job, lease),
            4 => RunnerEvent::Output(job, lease),
            5 => RunnerEvent::Refused(job, lease, "no".to_owned()),
            _ => RunnerEvent::Finished(job, lease, self.result()),
        }
    }

    pub(super) fn honest(&mut self) -> Result<(), String> {
        let Some(session) = self.session(false) else { return Ok(()) };
        let by = self.model.streams[&session].by();
        let known = self.leases.entry(by).or_default();
        if known.len() > 6 {
            known.remove(0);
        }
        if known.is_empty() {
            return Ok(());
        }
        let which = self.dice.below(known.len());
        let (job, lease, _) = known[which].clone();
        let event = self.about(job, lease);
        let by = self.model.streams[&session].by();
        let known = self.leases.entry(by).or_default();
        match &event {
            RunnerEvent::Started(..) => known[which].2 = true,
            RunnerEvent::Finished(..) | RunnerEvent::Refused(..) if self.dice.percent(80) => drop(known.remove(which)),
            _ => {}
        }
        self.says(session, event)
    }

    /// A job, and a number that is or was one of its leases, or of another job, or of none.
    fn any_lease(&mut self) -> Option<(JobId, Lease)> {
        let jobs: Vec<_> = self.model.jobs.keys().cloned().collect();
        let job = self.dice.pick(&jobs)?;
        let held = self.model.jobs[&job].now.held.as_ref().map(|held| held.lease);
        let ahead = if self.dice.percent(10) { 1000 } else { 0 };
        let any = Lease(self.dice.next() % (self.model.highest_lease + 1) + ahead);
        Some((job, held.filter(|_| self.dice.percent(50)).unwrap_or(any)))
    }

    pub(super) fn lie(&mut self) -> Result<(), String> {
        let Some((session, (job, lease))) = self.session(true).zip(self.any_lease()) else { return Ok(()) };
        let event = match self.dice.below(8) {
            0 => RunnerEvent::Heartbeat(vec![HeldLease { job, lease, started: true }]),
            _ => self.about(job, lease),
        };
        self.says(session, event)
    }

    pub(super) fn heartbeats(&mut self) -> Result<(), String> {
        let alive = self.model.streams.iter().filter(|(_, stream)| !stream.over);
        let sessions: Vec<_> = alive.map(|(session, stream)| (*session, stream.by())).collect();
        for (session, by) in sessions {
            if self.dice.percent(90) {
                let known = self.leases.get(&by).cloned().unwrap_or_default();
                let held = known.into_iter().map(|(job, lease, started)| HeldLease { job, lease, started });
                self.says(session, RunnerEvent::Heartbeat(held.collect()))?;
            }
        }
        Ok(())
    }
}
