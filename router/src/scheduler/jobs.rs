use std::{collections::BTreeMap, ops::Bound};

use super::job::Job;
use crate::job::JobId;

/// Where a job is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot(u32);

/// All jobs, by place and by id.
#[derive(Default)]
pub(crate) struct Jobs {
    slots: Vec<Option<Box<Job>>>,
    free: Vec<Slot>,
    by_id: BTreeMap<JobId, Slot>,
}

impl Jobs {
    /// `None` when there is no place left: there may be four billion.
    pub(crate) fn insert(&mut self, job: Job) -> Option<Slot> {
        let id = job.record.id.clone();
        let job = Some(Box::new(job));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.0 as usize] = job;
                slot
            }
            None => {
                let slot = Slot(u32::try_from(self.slots.len()).ok()?);
                self.slots.push(job);
                slot
            }
        };
        self.by_id.insert(id, slot);
        Some(slot)
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Job> {
        let job = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.by_id.remove(&job.record.id);
        self.free.push(slot);
        Some(*job)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Job> {
        self.slots.get(slot.0 as usize)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Job> {
        self.slots.get_mut(slot.0 as usize)?.as_deref_mut()
    }

    pub(crate) fn slot(&self, id: &JobId) -> Option<Slot> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Jobs by id, the newest first, from the one before `before`.
    pub(crate) fn newest(&self, before: Option<&JobId>) -> impl Iterator<Item = &Job> {
        let upper = before.map_or(Bound::Unbounded, |before| Bound::Excluded(before.clone()));
        self.by_id.range((Bound::Unbounded, upper)).rev().filter_map(|(_, slot)| self.get(*slot))
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.by_id.values().filter_map(|slot| self.get(*slot))
    }
}
