//! Waiting jobs. A lane holds those that are alike for every runner: the same tags, protection, project, and the same kinds
//! of runners they are kept from. Each capability group has the lanes it could take in order, so that the next job of a
//! runner is found without looking at jobs, and at no other group's lanes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    groups::{GroupId, Groups},
    jobs::{Jobs, Slot},
    session::RunnerKind,
    timers::{Timer, Timers},
};
use crate::{chain::ChainVersion, config::WeightRule, path::ProjectPath, priority::weight_of};

/// Age raises a job by one class in so long (design, section 8).
const CLASS_STEP: Duration = Duration::from_secs(600);
/// One share of a project of weight 1.
const SHARE: u64 = 1 << 20;

/// Where a lane is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LaneId(u32);

/// The order of lanes in a capability group: class with age, then the project's share where shares count, then first come,
/// first served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(super) band: Reverse<i64>,
    pub(super) share: u64,
    pub(super) sequence: u64,
}

/// What the jobs of a lane have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LaneKey {
    pub(crate) tags: Arc<[String]>,
    pub(crate) protected: bool,
    pub(crate) project: ProjectPath,
    /// Kinds of runners, and the chain version under which each is avoided.
    pub(crate) kept: Vec<(RunnerKind, ChainVersion)>,
}

pub(crate) struct Lane {
    pub(crate) key: LaneKey,
    /// Its jobs by class, each class in the order of submission.
    pub(super) classes: BTreeMap<i32, BTreeSet<(u64, Slot)>>,
    pub(crate) count: usize,
    /// Groups that could take them.
    pub(crate) groups: Vec<GroupId>,
    /// Where it stands in each of them.
    pub(super) rank: Option<(Rank, Rank)>,
    /// Since when no online runner could take them.
    pub(crate) unmatched_since: Option<Duration>,
    pub(super) age_at: Option<Duration>,
    pub(super) unmatched_at: Option<Duration>,
}

/// A project with waiting jobs, or with jobs on instance runners.
pub(super) struct Project {
    pub(super) running: u64,
    weight: u64,
    pub(super) lanes: Vec<LaneId>,
}

/// All waiting jobs.
pub(crate) struct Lanes {
    slots: Vec<Option<Lane>>,
    free: Vec<LaneId>,
    by_key: HashMap<LaneKey, LaneId>,
    pub(super) projects: HashMap<ProjectPath, Project>,
    pub(super) weights: Arc<[WeightRule]>,
    size: usize,
}

impl Lanes {
    pub(crate) fn new(weights: Arc<[WeightRule]>) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_key: HashMap::new(), projects: HashMap::new(), weights, size: 0 }
    }

    pub(crate) fn get(&self, id: LaneId) -> Option<&Lane> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        let numbered = (0..).map(LaneId).zip(&self.slots);
        numbered.filter_map(|(id, lane)| lane.as_ref().map(|lane| (id, lane)))
    }

    fn ids(&self) -> Vec<LaneId> {
        self.iter().map(|(id, _)| id).collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.size
    }

    /// The same path, in the memory of one that is known already.
    pub(crate) fn shared_path(&self, path: &ProjectPath) -> ProjectPath {
        let known = self.projects.get_key_value(path).map(|(known, _)| known);
        // Written as it came: another case stays another text.
        known.filter(|known| known.as_str() == path.as_str()).unwrap_or(path).clone()
    }

    /// The lane of jobs like this one, made if need be.
    pub(crate) fn lane(&mut self, key: LaneKey, groups: &Groups, now: Duration) -> LaneId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // There are fewer lanes than jobs.
            LaneId(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
        });
        let may_take = |group: &&(GroupId, &super::groups::Group)| {
            group.1.capability.may_take(&key.tags, key.protected, &key.project)
        };
        let all: Vec<_> = groups.iter().collect();
        let groups: Vec<_> = all.iter().filter(may_take).map(|(id, _)| *id).collect();
        let online = all.iter().any(|(id, group)| !group.sessions.is_empty() && groups.contains(id));
        let lane = Lane {
            key: key.clone(),
            classes: BTreeMap::new(),
            count: 0,
            groups,
            rank: None,
            unmatched_since: (!online).then_some(now),
            age_at: None,
            unmatched_at: None,
        };
        self.slots[id.0 as usize] = Some(lane);
        let weights = &self.weights;
        let project = self.projects.entry(key.project.clone()).or_insert_with(|| Project::new(weights, &key.project));
        project.lanes.push(id);
        self.by_key.insert(key, id);
        id
    }

    /// Puts a job into its lane.
    pub(crate) fn insert(
        &mut self,
        id: LaneId,
        slot: Slot,
        jobs: &Jobs,
        groups: &mut Groups,
        timers: &mut Timers,
        now: Duration,
    ) {
        let Some((lane, job)) = self.get_mut(id).zip(jobs.get(slot)) else { return };
        if !lane.classes.entry(job.record.priority).or_default().insert((job.sequence, slot)) {
            return;
        }
        lane.count += 1;
        for group in &lane.groups {
            if let Some(group) = groups.get_mut(*group) {
                group.waiting += 1;
            }
        }
        self.size += 1;
        self.watch_unmatched(id, Some(job.since), timers);
        self.rerank(id, jobs, groups, timers, now);
    }

    /// Takes a job out of its lane, which goes with the last one.
    pub(crate) fn remove(
        &mut self,
        id: LaneId,
        slot: Slot,
        jobs: &Jobs,
        groups: &mut Groups,
        timers: &mut Timers,
        now: Duration,
    ) {
        let Some((lane, job)) = self.get_mut(id).zip(jobs.get(slot)) else { return };
        let class = job.record.priority;
        let Some(places) = lane.classes.get_mut(&class) else { return };
        if !places.remove(&(job.sequence, slot)) {
            return;
        }
        if places.is_empty() {
            lane.classes.remove(&class);
        }
        lane.count -= 1;
        for group in &lane.groups {
            if let Some(group) = groups.get_mut(*group) {
                group.waiting -= 1;
            }
        }
        self.size -= 1;
        self.rerank(id, jobs, groups, timers, now);
        self.clean(id, timers);
    }

    /// Forgets a lane without jobs.
    pub(crate) fn clean(&mut self, id: LaneId, timers: &mut Timers) {
        if self.get(id).is_none_or(|lane| lane.count > 0) {
            return;
        }
        if let Some(lane) = self.slots[id.0 as usize].take() {
            self.free.push(id);
            self.by_key.remove(&lane.key);
            if let Some(at) = lane.age_at {
                timers.unset(at, Timer::Age(id));
            }
            if let Some(at) = lane.unmatched_at {
                timers.unset(at, Timer::Unmatched(id));
            }
            if let Some(project) = self.projects.get_mut(&lane.key.project) {
                project.lanes.retain(|other| *other != id);
            }
            self.forget_project(&lane.key.project);
        }
    }

    fn forget_project(&mut self, path: &ProjectPath) {
        if self.projects.get(path).is_some_and(|project| project.running == 0 && project.lanes.is_empty()) {
            self.projects.remove(path);
        }
    }

    /// Where a lane stands: its best job, which of a class is always the oldest, and when age changes that.
    fn standing(&self, lane: &Lane, jobs: &Jobs, now: Duration) -> Option<((Rank, Rank), Slot, Duration)> {
        let heads = lane.classes.iter().filter_map(|(class, places)| {
            let (sequence, slot) = places.first()?;
            let age = now.saturating_sub(jobs.get(*slot)?.submitted);
            let steps = age.as_secs() / CLASS_STEP.as_secs();
            let band = i64::from(*class) + i64::try_from(steps).unwrap_or(i64::MAX >> 1);
            let next = now + CLASS_STEP - (age - CLASS_STEP * u32::try_from(steps).unwrap_or(u32::MAX));
            Some((Reverse(band), *sequence, *slot, next))
        });
        let heads: Vec<_> = heads.collect();
        let next = heads.iter().map(|(.., next)| *next).min()?;
        let (band, sequence, slot, _) = heads.into_iter().min()?;
        let share = self.projects.get(&lane.key.project).map_or(0, Project::share);
        Some(((Rank { band, share, sequence }, Rank { band, share: 0, sequence }), slot, next))
    }

    /// Brings a lane to its place in every group.
    pub(crate) fn rerank(&mut self, id: LaneId, jobs: &Jobs, groups: &mut Groups, timers: &mut Timers, now: Duration) {
        let Some(lane) = self.get(id) else { return };
        let standing = self.standing(lane, jobs, now);
        let (before, after) = (lane.rank, standing.map(|(rank, ..)| rank));
        if before != after {
            let kept = usize::from(!lane.key.kept.is_empty());
            for group in &lane.groups {
                let Some(group) = groups.get_mut(*group) else { continue };
                let shared = group.capability.is_shared();
                let own = |(fair, plain): (Rank, Rank)| if shared { fair } else { plain };
                if let Some(before) = before {
                    group.lanes.remove(&(own(before), id));
                    group.kept_lanes -= kept;
                }
                if let Some(after) = after {
                    group.lanes.insert((own(after), id));
                    group.kept_lanes += kept;
                }
            }
        }
        let Some(lane) = self.get_mut(id) else { return };
        lane.rank = after;
        if let Some((_, _, next)) = standing
            && lane.age_at.is_none_or(|at| next < at)
        {
            if let Some(at) = lane.age_at.replace(next) {
                timers.unset(at, Timer::Age(id));
            }
            timers.set(next, Timer::Age(id));
        }
    }

    /// The head of a lane has come to another class.
    pub(crate) fn aged(&mut self, id: LaneId, jobs: &Jobs, groups: &mut Groups, timers: &mut Timers, now: Duration) {
        let Some(lane) = self.get_mut(id).filter(|lane| lane.age_at.is_some_and(|at| at <= now)) else { return };
        lane.age_at = None;
        self.rerank(id, jobs, groups, timers, now);
    }

    /// The job of a lane that goes first.
    pub(crate) fn head(&self, id: LaneId, jobs: &Jobs, now: Duration) -> Option<Slot> {
        self.standing(self.get(id)?, jobs, now).map(|(_, slot, _)| slot)
    }

    /// Since when the one of a lane's jobs waits that has waited longest.
    pub(crate) fn oldest(&self, lane: &Lane, jobs: &Jobs) -> Option<Duration> {
        lane.longest(jobs).map(|(since, _)| since).min()
    }

    /// A job of a project begins or ends on an instance runner.
    pub(crate) fn running(
        &mut self,
        path: &ProjectPath,
        begins: bool,
        jobs: &Jobs,
        groups: &mut Groups,
        timers: &mut Timers,
        now: Duration,
    ) {
        let weights = &self.weights;
        let project = self.projects.entry(path.clone()).or_insert_with(|| Project::new(weights, path));
        project.running = if begins { project.running + 1 } else { project.running.saturating_sub(1) };
        for lane in project.lanes.clone() {
            self.rerank(lane, jobs, groups, timers, now);
        }
        if !begins {
            self.forget_project(path);
        }
    }

    /// Other weights from now on.
    pub(crate) fn reweigh(
        &mut self,
        weights: Arc<[WeightRule]>,
        jobs: &Jobs,
        groups: &mut Groups,
        timers: &mut Timers,
        now: Duration,
    ) {
        if self.weights == weights {
            return;
        }
        self.weights = weights;
        for (path, project) in &mut self.projects {
            project.weight = weight(&self.weights, path);
        }
        for lane in self.ids() {
            self.rerank(lane, jobs, groups, timers, now);
        }
    }

    /// A capability group is new: it gets the lanes it could take.
    pub(crate) fn join(&mut self, id: GroupId, jobs: &Jobs, groups: &mut Groups, timers: &mut Timers, now: Duration) {
        for lane_id in self.ids() {
            let Some((lane, group)) = self.get_mut(lane_id).zip(groups.get_mut(id)) else { continue };
            let LaneKey { tags, protected, project, .. } = &lane.key;
            if group.capability.may_take(tags, *protected, project) {
                // Out of all groups and back into all of them: the new one has no place for it yet.
                let rank = lane.rank.take();
                if let Some(rank) = rank {
                    let kept = usize::from(!lane.key.kept.is_empty());
                    for other in &lane.groups {
                        let Some(other) = groups.get_mut(*other) else { continue };
                        let shared = other.capability.is_shared();
                        other.lanes.remove(&(if shared { rank.0 } else { rank.1 }, lane_id));
                        other.kept_lanes -= kept;
                    }
                }
                lane.groups.push(id);
                if let Some(group) = groups.get_mut(id) {
                    group.waiting += lane.count as u64;
                }
                self.rerank(lane_id, jobs, groups, timers, now);
            }
        }
    }

    /// A capability group goes.
    pub(crate) fn leave(&mut self, id: GroupId) {
        for lane in self.slots.iter_mut().flatten() {
            lane.groups.retain(|other| *other != id);
        }
    }

    /// The first runner of a group has attached, or its last one is gone.
    pub(crate) fn online(&mut self, id: GroupId, jobs: &Jobs, groups: &Groups, timers: &mut Timers, now: Duration) {
        let Some(group) = groups.get(id) else { return };
        for (_, lane) in group.lanes.clone() {
            let Some(of_lane) = self.get_mut(lane) else { continue };
            let online =
                of_lane.groups.iter().any(|id| groups.get(*id).is_some_and(|group| !group.sessions.is_empty()));
            of_lane.unmatched_since = if online { None } else { of_lane.unmatched_since.or(Some(now)) };
            let oldest = self.get(lane).and_then(|lane| self.oldest(lane, jobs));
            self.watch_unmatched(lane, oldest, timers);
        }
    }

    /// The job of a lane that no online runner could take for `longest`, if there is one; else looks again in time.
    pub(crate) fn unmatched(
        &mut self,
        id: LaneId,
        jobs: &Jobs,
        timers: &mut Timers,
        longest: Duration,
        now: Duration,
    ) -> Option<Slot> {
        let lane = self.get_mut(id)?;
        if lane.unmatched_at.is_none_or(|at| at <= now) {
            lane.unmatched_at = None;
        }
        let since = lane.unmatched_since?;
        let due = lane.longest(jobs).map(|(waits, slot)| (waits.max(since) + longest, slot)).min();
        match due {
            Some((at, slot)) if at <= now => Some(slot),
            _ => {
                let oldest = self.get(id).and_then(|lane| self.oldest(lane, jobs));
                self.watch_unmatched(id, oldest, timers);
                None
            }
        }
    }

    /// Has a lane without runners looked at when the job that waits since `oldest` is stuck.
    fn watch_unmatched(&mut self, id: LaneId, oldest: Option<Duration>, timers: &mut Timers) {
        let Some((lane, oldest)) = self.get_mut(id).zip(oldest) else { return };
        let Some(since) = lane.unmatched_since else { return };
        let at = oldest.max(since) + super::stuck::UNMATCHED;
        if lane.unmatched_at.is_none_or(|armed| at < armed) {
            if let Some(armed) = lane.unmatched_at.replace(at) {
                timers.unset(armed, Timer::Unmatched(id));
            }
            timers.set(at, Timer::Unmatched(id));
        }
    }
}

impl Lane {
    /// Jobs one of which has waited longest, and since when each waits: of each class those that came back, and the first that
    /// did not. All behind it were submitted later.
    fn longest<'a>(&'a self, jobs: &'a Jobs) -> impl Iterator<Item = (Duration, Slot)> + 'a {
        self.classes.values().flat_map(move |places| {
            let mut more = true;
            let places = places.iter().filter_map(|(_, slot)| Some((*slot, jobs.get(*slot)?)));
            places
                .take_while(move |(_, job)| std::mem::replace(&mut more, job.since != job.submitted))
                .map(|(slot, job)| (job.since, slot))
        })
    }

    /// Whether its jobs are kept from runners of this kind, whose chain has this version.
    pub(crate) fn keeps_from(&self, kind: RunnerKind, version: impl FnOnce() -> ChainVersion) -> bool {
        let kept = self.key.kept.binary_search_by(|(other, _)| other.cmp(&kind));
        kept.is_ok_and(|place| self.key.kept[place].1 == version())
    }
}

impl Project {
    fn new(weights: &[WeightRule], path: &ProjectPath) -> Self {
        Self { running: 0, weight: weight(weights, path), lanes: Vec::new() }
    }

    /// How much of its share it would have with one job more.
    fn share(&self) -> u64 {
        (self.running + 1) * SHARE / self.weight
    }
}

fn weight(weights: &[WeightRule], path: &ProjectPath) -> u64 {
    u64::from(weight_of(weights, path).max(1))
}
