//! Capability groups: runners that may take exactly the same jobs, and the spillover between their priorities.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    fingerprint::{Capability, Fingerprint},
    lanes::{LaneId, Rank},
    session::Counted,
    signals::Signalled,
};
use crate::handle::Session;

/// Where a capability group is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId(u32);

/// The runners that share a fingerprint, and the jobs they could take.
pub(crate) struct Group {
    pub(crate) capability: Capability,
    pub(crate) fingerprint: Fingerprint,
    /// Lanes with jobs they could take, the next one first.
    pub(crate) lanes: BTreeSet<(Rank, LaneId)>,
    /// How many of these lanes hold jobs that are kept from some runner.
    pub(crate) kept_lanes: usize,
    /// Its attached streams by priority, the highest first.
    pub(crate) levels: BTreeMap<Reverse<i32>, Level>,
    pub(crate) sessions: BTreeSet<Session>,
    /// Names of the configured runners in it.
    pub(crate) configured: BTreeSet<Arc<str>>,
    /// Jobs in its lanes, free and used slots.
    pub(crate) waiting: u64,
    pub(crate) running: u64,
    pub(crate) capacity: u64,
    pub(crate) free: u64,
    pub(crate) signalled: Signalled,
    /// When the levels that are full are looked at again.
    pub(crate) hold_at: Option<Duration>,
}

/// The streams of one priority in a capability group.
#[derive(Default)]
pub(crate) struct Level {
    /// Streams with free slots, the one with the most of them first.
    pub(crate) free: BTreeSet<(Reverse<u32>, Session)>,
    /// Streams that take jobs when they have a free slot.
    pub(crate) open: usize,
    /// Streams of any kind.
    pub(crate) streams: usize,
    /// Since when all open streams have been full. A slot that is free only between two jobs does not interrupt it.
    pub(crate) full_since: Option<Duration>,
}

/// All capability groups.
#[derive(Default)]
pub(crate) struct Groups {
    slots: Vec<Option<Group>>,
    by_fingerprint: HashMap<Fingerprint, GroupId>,
}

impl Groups {
    pub(crate) fn find(&self, fingerprint: &Fingerprint) -> Option<GroupId> {
        self.by_fingerprint.get(fingerprint).copied()
    }

    /// A new group, without lanes.
    pub(crate) fn insert(&mut self, capability: Capability, fingerprint: Fingerprint) -> GroupId {
        let group = Some(Group::new(capability, fingerprint));
        let place = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        // Groups come from the configuration and from attached runners; there are not four billion of either.
        let id = GroupId(u32::try_from(place).unwrap_or(u32::MAX));
        match self.slots.get_mut(place) {
            Some(slot) => *slot = group,
            None => self.slots.push(group),
        }
        self.by_fingerprint.insert(fingerprint, id);
        id
    }

    pub(crate) fn remove(&mut self, id: GroupId) {
        if let Some(group) = self.slots.get_mut(id.0 as usize).and_then(Option::take) {
            self.by_fingerprint.remove(&group.fingerprint);
        }
    }

    pub(crate) fn get(&self, id: GroupId) -> Option<&Group> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        let numbered = (0..).map(GroupId).zip(&self.slots);
        numbered.filter_map(|(id, group)| group.as_ref().map(|group| (id, group)))
    }

    pub(crate) fn ids(&self) -> Vec<GroupId> {
        self.iter().map(|(id, _)| id).collect()
    }
}

impl Group {
    fn new(capability: Capability, fingerprint: Fingerprint) -> Self {
        Self {
            capability,
            fingerprint,
            lanes: BTreeSet::new(),
            kept_lanes: 0,
            levels: BTreeMap::new(),
            sessions: BTreeSet::new(),
            configured: BTreeSet::new(),
            waiting: 0,
            running: 0,
            capacity: 0,
            free: 0,
            signalled: Signalled::default(),
            hold_at: None,
        }
    }

    /// A stream begins or ends.
    pub(crate) fn attach(&mut self, session: Session, priority: i32, capacity: u32) {
        self.sessions.insert(session);
        self.capacity += u64::from(capacity);
        self.levels.entry(Reverse(priority)).or_default().streams += 1;
    }

    pub(crate) fn detach(&mut self, session: Session, priority: i32, capacity: u32) {
        self.sessions.remove(&session);
        self.capacity -= u64::from(capacity);
        if let Some(level) = self.levels.get_mut(&Reverse(priority)) {
            level.streams -= 1;
            if level.streams == 0 {
                self.levels.remove(&Reverse(priority));
            }
        }
    }

    /// A stream stands otherwise than it did.
    pub(crate) fn recount(&mut self, session: Session, priority: i32, before: Counted, after: Counted) {
        self.running = self.running + u64::from(after.running) - u64::from(before.running);
        self.free = self.free + u64::from(after.free) - u64::from(before.free);
        let Some(level) = self.levels.get_mut(&Reverse(priority)) else { return };
        level.open = level.open + usize::from(after.open) - usize::from(before.open);
        if before.free != after.free {
            level.free.remove(&(Reverse(before.free), session));
            if after.free > 0 {
                level.free.insert((Reverse(after.free), session));
            }
        }
    }

    /// Levels whose slots a job may have now, the highest first. A level opens when each one above it that is there has been
    /// full for `hold`. `passes` says whether a free slot above cannot be used by the job in question anyway.
    pub(crate) fn open_levels(
        &self,
        hold: Duration,
        now: Duration,
        passes: impl Fn(&Level) -> bool,
    ) -> impl Iterator<Item = (i32, &Level)> {
        let mut open = true;
        self.levels.iter().map_while(move |(Reverse(priority), level)| {
            let this = open;
            if level.open > 0 && !level.is_full(hold, now) && !passes(level) {
                open = false;
            }
            this.then_some((*priority, level))
        })
    }

    /// Notes which levels are full at the end of a step.
    pub(crate) fn note_full(&mut self, now: Duration) {
        for level in self.levels.values_mut() {
            level.full_since = match level.open > 0 && level.free.is_empty() {
                true => level.full_since.or(Some(now)),
                false => None,
            };
        }
    }

    /// When a level will have been full for `hold`, if that has to be watched and is not yet.
    pub(crate) fn watch_hold(&mut self, hold: Duration, now: Duration) -> Option<Duration> {
        if self.hold_at.is_some() || self.levels.len() < 2 {
            return None;
        }
        let ends = self.levels.values().filter_map(|level| level.full_since.map(|since| since + hold));
        self.hold_at = ends.filter(|end| *end > now).min();
        self.hold_at
    }
}

impl Level {
    /// Whether it has been full for so long that others help out.
    pub(crate) fn is_full(&self, hold: Duration, now: Duration) -> bool {
        let full = self.free.is_empty() && hold.is_zero();
        full || self.full_since.is_some_and(|since| self.free.is_empty() && now.saturating_sub(since) >= hold)
    }
}
