use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    job::{JobId, NewJob},
    path::ProjectPath,
};

/// Admitted jobs that wait for a runner, by what they ask of one.
///
/// Jobs of one class can be taken by the same runners, so matching looks at the head of each class and not at every job.
#[derive(Default)]
pub(crate) struct Waiting {
    classes: HashMap<Class, BTreeSet<Place>>,
    size: usize,
    /// The same jobs in the order in which they were admitted.
    since: BTreeSet<(Option<Timestamp>, u64)>,
}

/// What eligibility depends on.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Class {
    tags: Arc<[String]>,
    protected: bool,
    project: ProjectPath,
}

/// Order within a class and between classes: priority, then first come, first served.
pub(crate) type Place = (Reverse<i32>, u64, JobId);

impl Waiting {
    pub(crate) fn insert(&mut self, job: &NewJob, place: Place, admitted_at: Option<Timestamp>) {
        self.since.insert((admitted_at, place.1));
        if self.classes.entry(Class::of(job)).or_default().insert(place) {
            self.size += 1;
        }
    }

    pub(crate) fn remove(&mut self, job: &NewJob, place: &Place, admitted_at: Option<Timestamp>) {
        let class = Class::of(job);
        let Some(places) = self.classes.get_mut(&class) else { return };
        if places.remove(place) {
            self.size -= 1;
            self.since.remove(&(admitted_at, place.1));
        }
        if places.is_empty() {
            self.classes.remove(&class);
        }
    }

    /// Since when the job has waited that was admitted first.
    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.since.first().and_then(|(since, _)| *since)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.size
    }

    /// The first job, in order, whose class `may` be taken and that is `fine` itself.
    pub(crate) fn first(&self, may: impl Fn(&JobId) -> bool, fine: impl Fn(&JobId) -> bool) -> Option<JobId> {
        let heads = self.classes.values().filter_map(|places| {
            // All of a class are alike for eligibility: its head answers for it.
            let (_, _, head) = places.first()?;
            if !may(head) {
                return None;
            }
            places.iter().find(|(_, _, job)| fine(job))
        });
        heads.min().map(|(_, _, job)| job.clone())
    }
}

impl Class {
    fn of(job: &NewJob) -> Self {
        let mut tags = job.tags.clone();
        tags.sort();
        Self { tags: tags.into(), protected: job.protected, project: job.project.clone() }
    }
}
