//! What must hold after every step.

use std::time::Duration;

use super::{
    super::{super::*, recount::recount},
    cast::{SECRET, may_take},
    model::{Answer, Doing, Held, Stream},
    steps::History,
};
use crate::{
    config::RunnerConfig,
    handle::{JobFilter, TaintKind},
};

impl History {
    /// Follows what was just done: jobs that changed, what is about to leave.
    pub(super) fn observe(&mut self, doing: &Doing) -> Result<(), String> {
        let now = self.now();
        let mut given = Vec::new();
        for effect in &self.scheduler.outcome.effects[self.seen_effects..] {
            match effect {
                Effect::End(session, _) => {
                    self.model.streams.get_mut(session).ok_or("the end of no stream")?.over = true;
                }
                Effect::Assign(session, assignment) => {
                    let stream = self.model.streams.get(session).ok_or("to no stream")?;
                    self.may_have(stream, *session, assignment.fence)?;
                    given.push((assignment.job.clone(), assignment.lease, *session, assignment.fence));
                    self.model.streams.get_mut(session).ok_or("to no stream")?.credits -= 1;
                }
                Effect::AskAboutRunner { job, runner, .. } if self.is_apart(job, runner) => {
                    return Err(format!("{job} is kept from {}, and asked about", runner.name));
                }
                _ => {}
            }
        }
        let records: Vec<_> = self.scheduler.outcome.changed[self.seen_changes..].to_vec();
        self.seen_effects = self.scheduler.outcome.effects.len();
        self.seen_changes = self.scheduler.outcome.changed.len();
        for record in records {
            self.model.changed(&record, doing, now)?;
            if record.state == JobState::Assigned
                && self.model.jobs.get(&record.id).is_some_and(|job| job.now.held.is_none())
            {
                let place = given.iter().position(|(job, lease, ..)| *job == record.id && Some(*lease) == record.lease);
                let (id, lease, session, fence) = given.remove(place.ok_or("assigned to nobody")?);
                self.assigned(&id, lease, session, fence, doing)?;
            }
        }
        if given.is_empty() { Ok(()) } else { Err(format!("given out, and not assigned: {given:?}")) }
    }

    /// Whether a stream may get any job now.
    fn may_have(&self, stream: &Stream, session: Session, fence: Option<u64>) -> Result<(), String> {
        let name = &stream.runner.name;
        let wrong = [
            (stream.over, "its stream is over"),
            (stream.draining, "it drains"),
            (self.model.is_silent(stream), "it is silent"),
            (self.model.is_tainted(stream, TaintKind::Jobs), "it is tainted"),
            (stream.credits == 0, "it has no free slot"),
            (self.paused, "the store cannot write"),
            (self.drained, "the router drains"),
        ];
        if let Some((_, why)) = wrong.iter().find(|(wrong, _)| *wrong) {
            return Err(format!("{name} ({session:?}) got a job, though {why}"));
        }
        let led = stream.runner.group.is_some() && self.single_leader;
        if led != fence.is_some() {
            return Err(format!("{name} got a job under {fence:?}"));
        }
        if led && self.model.is_tainted(stream, TaintKind::Leadership) {
            return Err(format!("{name} leads, though it is tainted"));
        }
        Ok(())
    }

    fn assigned(
        &mut self,
        id: &JobId,
        lease: Lease,
        session: Session,
        fence: Option<u64>,
        doing: &Doing,
    ) -> Result<(), String> {
        let (tick, chains, ttl) = (self.tick, self.chains.clone(), self.scheduler.limits.admission_ttl);
        let stream = &self.model.streams[&session];
        let (by, runner) = (stream.by(), stream.runner.clone());
        let job = self.model.jobs.get_mut(id).ok_or("a job nobody knows")?;
        if !may_take(&runner, &job.new) {
            return Err(format!("{} may not have {id}", runner.name));
        }
        let project = job.new.project.clone();
        if job.now.version != Some(chains.version(&project, Part::Arrival)) {
            return Err(format!("{id} was admitted under another chain"));
        }
        if job.now.at.is_none_or(|at| tick - at >= ttl) {
            return Err(format!("{id} was admitted at {:?}, now it is {tick:?}", job.now.at));
        }
        if self.policy.asks_about(project.as_str(), &runner.name) {
            let current = chains.version(&project, Part::Runner(&runner.name));
            let asked = matches!(doing, Doing::Verdict { job, about: Some(about), answer: Answer::Admitted, open: true, version }
                if job == id && *about == runner.name && *version == current);
            if !asked {
                return Err(format!("nobody was asked about {id} on {}", runner.name));
            }
        }
        self.helps_out(id, &runner)?;
        let state = self.scheduler.sessions.get(&session);
        if state.is_some_and(|state| self.is_apart(id, &state.facts)) {
            return Err(format!("{id} is kept from {}", runner.name));
        }
        let job = self.model.jobs.get_mut(id).ok_or("a job nobody knows")?;
        if lease.0 <= self.model.highest_lease {
            return Err(format!("{lease:?} of {id} is not above {}", self.model.highest_lease));
        }
        self.model.highest_lease = lease.0;
        job.now.held = Some(Held { lease, by: by.clone(), until: tick + LEASE, alive: tick });
        if self.policy.asks_about(project.as_str(), &runner.name) {
            self.model.reach("a runner was asked about");
        }
        if runner.priority == 0 && runner.group.is_none() {
            self.model.reach("a lower level helped out");
        }
        if let Some(fence) = fence {
            if fence > 1 {
                self.model.reach("another leader got a job");
            }
            let before = &self.model.now.fence;
            if before.as_ref().is_some_and(|(last, leader)| fence < *last || fence == *last && *leader != by) {
                return Err(format!("{by:?} leads as number {fence}, after {before:?}"));
            }
            self.model.now.fence = Some((fence, by));
        }
        Ok(())
    }

    /// Whether a job is kept from a runner. One with a slot held for it may have been offered it before.
    fn is_apart(&self, job: &JobId, runner: &Runner) -> bool {
        let Some(job) = self.model.jobs.get(job).filter(|_| !self.held_slot) else { return false };
        job.apart.iter().any(|apart| {
            *apart.facts == *runner
                && apart.until.is_none_or(|until| until > self.tick)
                && apart.version == self.chains.version(&job.new.project, Part::Runner(&runner.name))
        })
    }

    /// A runner that helps out does so for a reason: those above were full for long enough, or are not there.
    fn helps_out(&self, id: &JobId, runner: &RunnerConfig) -> Result<(), String> {
        let kept = self.scheduler.job(id).is_some_and(|job| !job.kept.is_empty());
        if self.held_slot || kept || self.hold.is_zero() || self.levels_before.is_empty() {
            return Ok(());
        }
        let fingerprint = fingerprint::Capability::of(runner).fingerprint();
        let now = self.levels_now();
        for (level, (open, _)) in &self.levels_before {
            let above = level.0 == fingerprint && level.1 > runner.priority;
            if above && *open && now.get(level).is_some_and(|(open, _)| *open) {
                let since = self.levels.get(level);
                if since.is_none_or(|since| *since + self.hold > self.tick) {
                    return Err(format!("{} helps out with {id}, above is full since {since:?}", runner.name));
                }
            }
        }
        Ok(())
    }

    /// At the end of a step: since when levels have been full.
    pub(super) fn note_full(&mut self, now: Duration) {
        let mut levels = self.levels_now();
        for ((group, priority), (open, free)) in levels.drain() {
            let key = (group, priority);
            if open && free == 0 {
                self.levels.entry(key).or_insert(now);
            } else {
                self.levels.remove(&key);
            }
        }
    }

    /// Levels with streams: whether any takes jobs, and how many slots are free.
    pub(super) fn levels_now(&self) -> HashMap<super::steps::Level, (bool, u32)> {
        let mut levels: HashMap<_, (bool, u32)> = HashMap::new();
        for state in self.scheduler.sessions.values() {
            let Some(group) = self.scheduler.groups.get(state.group) else { continue };
            let level = levels.entry((group.fingerprint, state.config.priority)).or_default();
            level.0 |= state.is_open();
            level.1 += state.free();
        }
        levels
    }

    /// No free slot and waiting job that could have each other, unless spillover says why.
    pub(super) fn works(&mut self) -> Result<(), String> {
        let levels = self.levels_now();
        self.levels.retain(|level, _| levels.contains_key(level));
        self.levels_before.clone_from(&levels);
        if self.paused || self.drained || self.scheduler.lanes.len() == 0 {
            return Ok(());
        }
        for (session, state) in &self.scheduler.sessions {
            if state.free() == 0 {
                continue;
            }
            let Some(group) = self.scheduler.groups.get(state.group) else { continue };
            for (_, lane) in self.scheduler.lanes.iter() {
                let key = &lane.key;
                let keeps = |state: &SessionState| {
                    key.kept.iter().any(|(kind, version)| {
                        let current = || self.chains.version(&key.project, Part::Runner(&state.config.name));
                        *kind == state.kind && *version == current()
                    })
                };
                if !group.capability.may_take(&key.tags, key.protected, &key.project) || keeps(state) {
                    continue;
                }
                let closes = |(_, priority): super::steps::Level, (open, free): (bool, u32)| {
                    if priority <= state.config.priority || !open {
                        return false;
                    }
                    let since = self.levels.get(&(group.fingerprint, priority));
                    let full = free == 0
                        && (self.hold.is_zero() || since.is_some_and(|since| *since + self.hold <= self.tick));
                    let mut above = self.scheduler.sessions.values().filter(|above| {
                        above.group == state.group && above.config.priority == priority && above.free() > 0
                    });
                    let passes = free > 0 && above.all(keeps);
                    !full && !passes
                };
                let closed = levels.iter().any(|(level, of)| level.0 == group.fingerprint && closes(*level, *of));
                if !closed {
                    let runner = &state.config.name;
                    let full: Vec<_> =
                        group.levels.iter().map(|(level, of)| (level.0, of.open, of.full_since)).collect();
                    return Err(format!(
                        "{runner} ({session:?}) is free at {:?}, and jobs wait: {key:?}; levels {full:?}, {:?}",
                        self.tick, group.hold_at
                    ));
                }
            }
        }
        Ok(())
    }

    /// One leads, it is the right one, and nobody leads only for a reason.
    pub(super) fn leads(&self) -> Result<(), String> {
        let Some(group) = self.scheduler.runner_groups.iter().find(|group| &*group.name == "g") else { return Ok(()) };
        if !self.single_leader {
            return Ok(());
        }
        let of_group = |session: &&Session| {
            let stream = self.model.streams.get(session);
            stream.is_some_and(|stream| stream.runner.group.is_some())
        };
        let members: Vec<_> = self.scheduler.sessions.keys().filter(of_group).collect();
        let leading: Vec<_> = members.iter().filter(|session| self.scheduler.sessions[session].leads).collect();
        let candidates: Vec<_> =
            members.iter().filter(|session| self.model.is_candidate(&self.model.streams[session])).collect();
        if leading.len() > 1 {
            return Err(format!("{leading:?} lead"));
        }
        let pinned = self.model.now.pins.get("g");
        let is_pinned = |session: &Session| Some(&self.model.streams[session].runner.name) == pinned;
        let is = |session: &Session, leader: &leaders::Leader| {
            self.model.streams[session].by() == (leader.runner.clone(), leader.system.clone())
        };
        if let (Some(before), Some(leading)) = (&self.before, leading.first())
            && !is(leading, before)
            && self.may_still_lead(before)
        {
            return Err(format!("{leading:?} leads, though {before:?} may still believe that it does"));
        }
        let Some(leader) = leading.first() else {
            let Some(leader) = &group.leader else {
                return if candidates.is_empty() { Ok(()) } else { Err("nobody leads".to_owned()) };
            };
            let of_leader = self
                .model
                .streams
                .values()
                .filter(|stream| stream.by() == (leader.runner.clone(), leader.system.clone()));
            let heard = of_leader.map(|stream| stream.heard).max().unwrap_or_default();
            let lasts = heard + HEALTHY > self.tick || self.model.booted + GRACE > self.tick;
            return if candidates.is_empty() || lasts { Ok(()) } else { Err(format!("{leader:?} leads for too long")) };
        };
        if !candidates.contains(leader) {
            return Err(format!("{leader:?} leads, and cannot"));
        }
        if !is_pinned(leader) && candidates.iter().any(|session| is_pinned(session)) {
            return Err(format!("{leader:?} leads instead of {pinned:?}"));
        }
        let stays = self.before.as_ref().and_then(|before| candidates.iter().find(|session| is(session, before)));
        match stays {
            Some(stays) if stays != leader && !is_pinned(leader) => Err(format!("{leader:?} took over from {stays:?}")),
            _ => Ok(()),
        }
    }

    /// Whether a leader that is gone was heard so lately that it may act as one: nothing else keeps it from it.
    fn may_still_lead(&self, leader: &leaders::Leader) -> bool {
        let by = (leader.runner.clone(), leader.system.clone());
        let mut streams = self.model.streams.values().filter(|stream| stream.by() == by);
        let last = streams.by_ref().max_by_key(|stream| stream.heard);
        let kept_out = |stream: &Stream| {
            let is = |kind| self.model.is_tainted(stream, kind);
            stream.draining || is(TaintKind::Jobs) || is(TaintKind::Leadership)
        };
        last.is_some_and(|stream| stream.over && stream.heard + HEALTHY > self.tick && !kept_out(stream))
    }

    /// Everything that is derived, counted again; every job and every admission.
    pub(super) fn everything(&mut self) -> Result<(), String> {
        recount(&self.scheduler, self.tick)?;
        for job in self.scheduler.jobs.iter() {
            let id = &job.record.id;
            let Some(known) = self.model.jobs.get(id) else { return Err(format!("{id} came from nowhere")) };
            if job.record.state != known.now.state {
                return Err(format!("{id} is {:?}, not {:?}", job.record.state, known.now.state));
            }
            let open = match &job.phase {
                Phase::Routing { admission: Some(admission), .. } => admission,
                Phase::Admitted { check: Some(check), .. } => &check.admission,
                _ => continue,
            };
            let asked = self.model.questions.iter().any(|question| question.admission == *open);
            if !asked && !self.pending.asks(open) {
                return Err(format!("nobody answers {open}"));
            }
        }
        let alive = self.model.jobs.iter().filter(|(_, job)| !job.now.state.is_final());
        if let Some((id, _)) = alive.into_iter().find(|(id, _)| self.scheduler.job(id).is_none()) {
            return Err(format!("{id} is lost"));
        }
        for (session, state) in &self.scheduler.sessions {
            let stream =
                self.model.streams.get(session).filter(|stream| !stream.over).ok_or("a stream that is over")?;
            let tainted = self.model.is_tainted(stream, TaintKind::Jobs);
            let model = (stream.draining, tainted, self.model.is_silent(stream));
            if model != (state.draining, state.tainted, state.silent) || state.credits > stream.credits {
                return Err(format!("{session:?} stands otherwise: {model:?}"));
            }
        }
        self.looks()
    }

    /// What people see says no secret, and can be made at any time.
    fn looks(&mut self) -> Result<(), String> {
        let now = self.now();
        let jobs: Vec<_> = self.scheduler.jobs.iter().map(|job| job.record.id.clone()).collect();
        let Some(job) = self.dice.pick(&jobs) else { return Ok(()) };
        let page = self.scheduler.list(&JobFilter { limit: 3, ..JobFilter::default() });
        let texts = [
            format!("{:?}", self.scheduler.explain(&job, now)),
            format!("{:?} {:?}", self.scheduler.queue(now), page),
            format!("{:?}", self.scheduler.job(&job).map(|job| (&job.phase, job.content(), &job.events))),
        ];
        if texts.iter().any(|text| text.contains(SECRET)) { Err("a secret came out".to_owned()) } else { Ok(()) }
    }
}
