//! The scheduler as people look at it.

use std::{collections::BTreeMap, sync::Arc};

use super::{HEALTHY, Now, Scheduler, job::Job};
use crate::{
    handle::{JobFilter, JobPage, QueueStatus, RunnerStatus, SystemStatus},
    job::JobId,
};

impl Scheduler {
    pub(crate) fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id)
    }

    pub(crate) fn list(&self, filter: &JobFilter) -> JobPage {
        let upper = match &filter.before {
            Some(before) => std::ops::Bound::Excluded(before.clone()),
            None => std::ops::Bound::Unbounded,
        };
        let range = self.jobs.range((std::ops::Bound::Unbounded, upper));
        let mut found = range.rev().map(|(_, job)| &job.record).filter(|record| {
            (filter.states.is_empty() || filter.states.contains(&record.state))
                && filter.project.as_ref().is_none_or(|project| *project == record.project)
        });
        let jobs: Vec<_> = found.by_ref().take(filter.limit).cloned().collect();
        let next = found.next().and(jobs.last()).map(|record| record.id.clone());
        JobPage { jobs, next }
    }

    pub(crate) fn queue(&self, now: Now) -> QueueStatus {
        let mut status = QueueStatus { jobs: self.counts.clone(), ..QueueStatus::default() };
        status.jobs.retain(|_, count| *count > 0);
        status.oldest_wait_seconds = self
            .waiting
            .since()
            .map(|since| now.wall.duration_since(since).as_secs())
            .map(|seconds| u64::try_from(seconds).unwrap_or_default());
        status.free_slots = self.sessions.values().map(|session| u64::from(session.free(now))).sum();
        status
    }

    /// The runners that are attached, by name; the configuration knows the others.
    pub(crate) fn runners(&self, now: Now) -> Vec<RunnerStatus> {
        let mut runners: BTreeMap<Arc<str>, RunnerStatus> = BTreeMap::new();
        for session in self.sessions.values() {
            let config = &session.config;
            let status = runners.entry(config.name.clone()).or_insert_with(|| RunnerStatus {
                name: config.name.clone(),
                kind: config.owner.kind_name(),
                owner: config.owner.path().map(str::to_owned),
                tags: config.tags.clone(),
                run_untagged: config.run_untagged,
                protected: config.protected,
                priority: config.priority,
                group: config.group.clone(),
                fingerprint: String::new(),
                state: "draining",
                capacity: 0,
                running: 0,
                leader: false,
                pinned: false,
                taints: Vec::new(),
                systems: Vec::new(),
            });
            if !session.draining && now.tick.saturating_sub(session.heard) <= HEALTHY {
                status.state = "online";
            }
            status.systems.push(SystemStatus {
                system_id: session.system.to_string(),
                version: session.facts.version.clone(),
                capacity: session.capacity,
                credits: session.credits,
                running: session.jobs.len(),
                state: "online",
                leader: false,
            });
        }
        runners.into_values().collect()
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}
