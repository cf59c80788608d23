//! Everything that is derived, counted again from jobs and streams alone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use super::super::{
    groups::{Group, GroupId},
    lanes::{Lane, LaneId, Rank},
    matching::lane_key,
    *,
};

/// Compares what the scheduler keeps beside jobs and streams with what they say. Right between steps.
pub(super) fn recount(scheduler: &Scheduler, now: Duration) -> Result<(), String> {
    let timers: BTreeSet<_> = scheduler.timers.iter().collect();
    jobs(scheduler, &timers)?;
    lanes(scheduler, now, &timers)?;
    sessions(scheduler, &timers)?;
    groups(scheduler, now, &timers)?;
    shares(scheduler)
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, kept: &T, counted: &T) -> Result<(), String> {
    check(kept == counted, || format!("{what}: kept {kept:?}, counted {counted:?}"))
}

/// All jobs with their places.
fn all(scheduler: &Scheduler) -> impl Iterator<Item = (Slot, &Job)> {
    scheduler.jobs.iter().filter_map(|job| Some((scheduler.jobs.slot(&job.record.id)?, job)))
}

fn jobs(scheduler: &Scheduler, timers: &BTreeSet<(Duration, Timer)>) -> Result<(), String> {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut waiting = BTreeSet::new();
    let mut finished = BTreeSet::new();
    let retries: BTreeSet<_> = timers.iter().filter(|(_, timer)| matches!(timer, Timer::Retry(..))).collect();
    let releases: BTreeSet<_> = timers.iter().filter(|(_, timer)| matches!(timer, Timer::Release(..))).collect();
    for (slot, job) in all(scheduler) {
        let (id, state) = (&job.record.id, job.record.state);
        *counts.entry(state.as_str()).or_default() += 1;
        let phase = match &job.phase {
            Phase::Routing { .. } => state == JobState::Routing,
            Phase::Admitted { .. } => state == JobState::Admitted,
            Phase::Assigned(_) => state == JobState::Assigned,
            Phase::Running(_) => state == JobState::Running,
            Phase::Finished => state.is_final(),
        };
        check(phase, || format!("{id} is {state:?} and at {:?}", job.phase))?;
        if matches!(job.phase, Phase::Routing { .. } | Phase::Admitted { .. }) {
            waiting.insert((job.since, slot));
        }
        if state.is_final() {
            finished.insert(slot);
        }
        check(job.lane.is_some() == job.is_waiting(), || format!("{id} at {:?} in {:?}", job.phase, job.lane))?;
        if let Some(grant) = job.grant() {
            let timer = (grant.due, Timer::Lease(slot, grant.lease));
            check(timers.contains(&timer), || format!("nobody watches {:?} of {id}", grant.lease))?;
            check(grant.due <= grant.expires, || format!("{:?} of {id} is looked at too late", grant.lease))?;
            same("the lease of a record", &job.record.lease, &Some(grant.lease))?;
        }
        if matches!(job.phase, Phase::Routing { admission: None, .. }) {
            let retry = retries.iter().any(|(_, timer)| *timer == Timer::Retry(slot, job.sequence));
            check(retry || scheduler.unasked.contains(&slot), || format!("{id} is never asked about again"))?;
        }
        for until in job.kept.iter().filter_map(|kept| kept.until) {
            let release = releases.contains(&(until, Timer::Release(slot, job.sequence)));
            check(release, || format!("{id} is kept from a runner for ever"))?;
        }
    }
    let kept: BTreeMap<_, _> =
        scheduler.counts.iter().filter(|(_, count)| **count > 0).map(|(s, c)| (*s, *c)).collect();
    same("jobs by state", &kept, &counts)?;
    same("waiting jobs", &scheduler.waiting, &waiting)?;
    same("finished jobs", &scheduler.finished.iter().copied().collect(), &finished)?;
    same("finished jobs, each once", &scheduler.finished.len(), &finished.len())?;
    if let Some((since, _)) = waiting.first() {
        let (at, due) = (scheduler.oldest_at, *since + stuck::LONGEST_WAIT);
        check(at.is_some_and(|at| at <= due), || format!("the oldest job is looked at {at:?}, not {due:?}"))?;
    }
    let oldest = scheduler.oldest_at.is_none_or(|at| timers.contains(&(at, Timer::Oldest)));
    check(oldest, || "no timer for the oldest job".to_owned())
}

fn lanes(scheduler: &Scheduler, now: Duration, timers: &BTreeSet<(Duration, Timer)>) -> Result<(), String> {
    let mut members: HashMap<LaneId, BTreeMap<i32, BTreeSet<(u64, Slot)>>> = HashMap::new();
    let mut size = 0;
    for (slot, job) in all(scheduler) {
        let Some(id) = job.lane else { continue };
        let lane = scheduler.lanes.get(id).ok_or("a lane that is not there")?;
        check(lane.key == lane_key(job), || format!("{} is in the wrong lane", job.record.id))?;
        members.entry(id).or_default().entry(job.record.priority).or_default().insert((job.sequence, slot));
        size += 1;
    }
    same("jobs in lanes", &scheduler.lanes.len(), &size)?;
    same("lanes", &scheduler.lanes.iter().count(), &members.len())?;
    for (id, lane) in scheduler.lanes.iter() {
        let of = members.get(&id).ok_or("a lane without jobs")?;
        same("a lane's jobs", &lane.classes, of)?;
        same("a lane's size", &lane.count, &of.values().map(BTreeSet::len).sum())?;
        let may = |group: &Group| group.capability.may_take(&lane.key.tags, lane.key.protected, &lane.key.project);
        let groups: BTreeSet<_> = scheduler.groups.iter().filter(|(_, group)| may(group)).map(|(id, _)| id).collect();
        same("a lane's groups", &lane.groups.iter().copied().collect(), &groups)?;
        let is_online = |id: &GroupId| scheduler.groups.get(*id).is_some_and(|group| !group.sessions.is_empty());
        same("a lane without runners", &lane.unmatched_since.is_none(), &groups.iter().any(is_online))?;
        let (rank, next) = rank(scheduler, lane, now);
        same("a lane's rank", &lane.rank, &Some(rank))?;
        let watched = lane.age_at.is_some_and(|at| at <= next && timers.contains(&(at, Timer::Age(id))));
        check(watched, || format!("a lane grows older at {next:?}, and is looked at {:?}", lane.age_at))?;
        if let Some(since) = lane.unmatched_since {
            let due =
                of.values().flatten().filter_map(|(_, slot)| scheduler.jobs.get(*slot)).map(|job| job.since.max(since));
            let due = due.min().map(|at| at + stuck::UNMATCHED);
            let at = lane.unmatched_at;
            check(at <= due && at.is_some_and(|at| timers.contains(&(at, Timer::Unmatched(id)))), || {
                format!("a lane without runners is looked at {at:?}, not {due:?}")
            })?;
        }
    }
    Ok(())
}

/// Where a lane stands by the rules, and when that changes by itself.
fn rank(scheduler: &Scheduler, lane: &Lane, now: Duration) -> ((Rank, Rank), Duration) {
    let project = &lane.key.project;
    let running =
        all(scheduler).filter(|(_, job)| job.grant().is_some_and(|grant| grant.shared) && job.project() == project);
    let running = running.count() as u64;
    let rule =
        scheduler.lanes.weights.iter().find(|rule| rule.projects.iter().any(|glob| glob.matches(project.as_str())));
    let share = (running + 1) * (1 << 20) / rule.map_or(1, |rule| u64::from(rule.weight));
    let mut next = Duration::MAX;
    let mut best = None;
    for (class, places) in &lane.classes {
        let Some((sequence, slot)) = places.first() else { continue };
        let age = now.saturating_sub(scheduler.jobs.get(*slot).map_or(now, |job| job.submitted)).as_secs();
        next = next.min(
            scheduler.jobs.get(*slot).map_or(now, |job| job.submitted) + Duration::from_secs((age / 600 + 1) * 600),
        );
        let place = (Reverse(i64::from(*class) + i64::try_from(age / 600).unwrap()), *sequence);
        best = best.min(Some(place)).or(Some(place));
    }
    let (band, sequence) = best.unwrap();
    ((Rank { band, share, sequence }, Rank { band, share: 0, sequence }), next)
}

fn sessions(scheduler: &Scheduler, timers: &BTreeSet<(Duration, Timer)>) -> Result<(), String> {
    let mut jobs: HashMap<Session, BTreeSet<Slot>> = HashMap::new();
    let mut reserved: HashMap<Session, BTreeSet<Slot>> = HashMap::new();
    for (slot, job) in all(scheduler) {
        if let Some(session) = job.grant().and_then(|grant| grant.session) {
            jobs.entry(session).or_default().insert(slot);
        }
        if let Some(session) = job.reserved() {
            reserved.entry(session).or_default().insert(slot);
        }
    }
    for (session, state) in &scheduler.sessions {
        same("jobs of a stream", &state.jobs, &jobs.remove(session).unwrap_or_default())?;
        same("slots held for jobs", &state.reserved, &reserved.remove(session).unwrap_or_default())?;
        // One that comes back with more jobs than it has room for offers nothing.
        let used = state.credits + session::count(&state.jobs);
        check(state.credits == 0 || used <= state.capacity, || format!("{used} slots of {}", state.capacity))?;
        let open = !state.draining && !state.silent && !state.tainted && state.leads;
        let free = if open { u64::from(state.credits).saturating_sub(state.reserved.len() as u64) } else { 0 };
        same("a stream's free slots", &u64::from(state.counted.free), &free)?;
        same("a stream's being open", &state.counted.open, &open)?;
        same("a stream's running jobs", &(state.counted.running as usize), &state.jobs.len())?;
        let system = (state.config.name.clone(), state.system.clone());
        same("the stream of a system", &scheduler.systems.get(&system), &Some(session))?;
        let watched = timers.iter().any(|(_, timer)| *timer == Timer::Silence(*session));
        check(watched, || format!("nobody notices when {session:?} falls silent"))?;
    }
    same("systems", &scheduler.systems.len(), &scheduler.sessions.len())?;
    check(jobs.is_empty(), || format!("jobs of streams that are gone: {jobs:?}"))?;
    check(reserved.is_empty(), || format!("slots of streams that are gone: {reserved:?}"))
}

fn groups(scheduler: &Scheduler, now: Duration, timers: &BTreeSet<(Duration, Timer)>) -> Result<(), String> {
    for (id, group) in scheduler.groups.iter() {
        same("a group by its fingerprint", &scheduler.groups.find(&group.fingerprint), &Some(id))?;
        let of: BTreeMap<_, _> = scheduler.sessions.iter().filter(|(_, state)| state.group == id).collect();
        same("a group's streams", &group.sessions, &of.keys().map(|session| **session).collect())?;
        let sum = |of_one: fn(&SessionState) -> u64| of.values().map(|state| of_one(state)).sum::<u64>();
        same("a group's capacity", &group.capacity, &sum(|state| u64::from(state.capacity)))?;
        same("a group's running jobs", &group.running, &sum(|state| state.jobs.len() as u64))?;
        same("a group's free slots", &group.free, &sum(|state| u64::from(state.free())))?;
        let mut levels: BTreeMap<Reverse<i32>, (usize, usize, BTreeSet<_>)> = BTreeMap::new();
        for (session, state) in &of {
            let level = levels.entry(Reverse(state.config.priority)).or_default();
            level.0 += 1;
            level.1 += usize::from(state.is_open());
            if state.free() > 0 {
                level.2.insert((Reverse(state.free()), **session));
            }
        }
        let kept = group.levels.iter().map(|(level, of)| (*level, (of.streams, of.open, of.free.clone()))).collect();
        same("a group's levels", &kept, &levels)?;
        let shared = group.capability.is_shared();
        let own: Vec<_> = scheduler.lanes.iter().filter(|(_, lane)| lane.groups.contains(&id)).collect();
        let ranks = own.iter().filter_map(|(lane, of)| Some((if shared { of.rank?.0 } else { of.rank?.1 }, *lane)));
        same("a group's lanes", &group.lanes, &ranks.collect())?;
        same("a group's waiting jobs", &group.waiting, &own.iter().map(|(_, lane)| lane.count as u64).sum())?;
        let kept = own.iter().filter(|(_, lane)| !lane.key.kept.is_empty()).count();
        same("a group's lanes of kept jobs", &group.kept_lanes, &kept)?;
        let configured =
            scheduler.configured.iter().filter(|runner| fingerprint::Capability::of(runner) == group.capability);
        same("a group's runners", &group.configured, &configured.map(|runner| runner.name.clone()).collect())?;
        check(!group.configured.is_empty() || !of.is_empty(), || "a group of nobody".to_owned())?;
        holds(scheduler, now, (id, group), timers)?;
    }
    Ok(())
}

/// Levels that are full are watched, so that others help out in time.
fn holds(
    scheduler: &Scheduler,
    now: Duration,
    (id, group): (GroupId, &Group),
    timers: &BTreeSet<(Duration, Timer)>,
) -> Result<(), String> {
    for level in group.levels.values() {
        let full = level.open > 0 && level.free.is_empty();
        same("a level that is full", &level.full_since.is_some(), &full)?;
    }
    let ends = group.levels.values().filter_map(|level| level.full_since).map(|since| since + scheduler.hold);
    let end = ends.filter(|end| *end > now).min();
    if let Some(end) = end.filter(|_| group.levels.len() > 1) {
        let at = group.hold_at;
        let watched = at.is_some_and(|at| at <= end && timers.contains(&(at, Timer::Hold(id))));
        check(watched, || format!("a level is full for long enough at {end:?}, and is looked at {at:?}"))?;
    }
    Ok(())
}

fn shares(scheduler: &Scheduler) -> Result<(), String> {
    let mut running: HashMap<&ProjectPath, u64> = HashMap::new();
    for (_, job) in all(scheduler) {
        if job.grant().is_some_and(|grant| grant.shared) {
            *running.entry(job.project()).or_default() += 1;
        }
    }
    for (path, project) in &scheduler.lanes.projects {
        same("a project's jobs on instance runners", &project.running, &running.remove(path).unwrap_or(0))?;
        let lanes = scheduler.lanes.iter().filter(|(_, lane)| lane.key.project == *path).map(|(id, _)| id);
        same("a project's lanes", &project.lanes.iter().copied().collect(), &lanes.collect::<BTreeSet<_>>())?;
        check(project.running > 0 || !project.lanes.is_empty(), || "a project of nothing".to_owned())?;
    }
    check(running.is_empty(), || format!("projects that are not counted: {running:?}"))
}
