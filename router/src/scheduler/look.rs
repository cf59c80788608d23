//! The scheduler as people look at it.

use std::{collections::BTreeMap, sync::Arc};

use super::{Now, Scheduler, fingerprint::Capability, groups::Group, job::Job, session::SessionState};
use crate::{
    config::RunnerConfig,
    handle::{GroupQueue, JobFilter, JobPage, LeaderStatus, QueueStatus, RunnerStatus, SystemStatus, TaintStatus},
    job::JobId,
};

impl Scheduler {
    pub(crate) fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(self.jobs.slot(id)?)
    }

    pub(crate) fn list(&self, filter: &JobFilter) -> JobPage {
        let records = self.jobs.newest(filter.before.as_ref()).map(|job| &job.record);
        let mut found = records.filter(|record| filter.fits(record));
        let jobs: Vec<_> = found.by_ref().take(filter.limit).cloned().collect();
        let next = found.next().and(jobs.last()).map(|record| record.id.clone());
        JobPage { jobs, next }
    }

    pub(crate) fn queue(&self, now: Now) -> QueueStatus {
        let mut status = QueueStatus { jobs: self.counts.clone(), ..QueueStatus::default() };
        status.jobs.retain(|_, count| *count > 0);
        let seconds = |since: std::time::Duration| now.tick.saturating_sub(since).as_secs();
        status.oldest_wait_seconds = self.groups_and_lacks().filter_map(|(_, _, oldest)| oldest).min().map(seconds);
        status.free_slots = self.groups.iter().map(|(_, group)| group.free).sum();
        let mut groups: BTreeMap<String, GroupQueue> = BTreeMap::new();
        for (capability, counts, oldest) in self.groups_and_lacks() {
            let fingerprint = capability.fingerprint().to_string();
            let group = groups.entry(fingerprint.clone()).or_insert_with(|| queue_of(fingerprint, &capability));
            match counts {
                Counts::Group(of) => {
                    group.served = true;
                    group.waiting = of.waiting;
                    group.running = of.running;
                    group.capacity = of.capacity;
                    group.free = of.free;
                    group.systems = of.sessions.len() as u64;
                }
                Counts::Lack(waiting) => group.waiting += waiting,
            }
            let oldest = oldest.map(seconds);
            group.oldest_wait_seconds = group.oldest_wait_seconds.max(oldest);
        }
        status.groups = groups.into_values().collect();
        status.leaders = self.leaders();
        status
    }

    /// Every capability group, and what the lanes that no group could take lack.
    fn groups_and_lacks(&self) -> impl Iterator<Item = (Capability, Counts<'_>, Option<std::time::Duration>)> {
        let groups = self
            .groups
            .iter()
            .map(|(_, group)| (group.capability.clone(), Counts::Group(group), self.oldest_of(group)));
        let lacks = self.lanes.iter().filter(|(_, lane)| lane.groups.is_empty()).map(|(_, lane)| {
            let capability = Capability::lacking(&lane.key.tags);
            (capability, Counts::Lack(lane.count as u64), self.lanes.oldest(lane, &self.jobs))
        });
        groups.chain(lacks)
    }

    fn leaders(&self) -> Vec<LeaderStatus> {
        let led = self.runner_groups.iter().filter(|group| group.single_leader);
        let leaders = led.map(|group| LeaderStatus {
            group: group.name.clone(),
            runner: group.leader.as_ref().map(|leader| leader.runner.clone()),
            system: group.leader.as_ref().map(|leader| leader.system.clone()),
            pinned: group.pinned.as_ref().map(|pin| pin.runner.clone()),
            fence: group.fence,
        });
        leaders.collect()
    }

    /// The runners that are attached or configured, by name.
    pub(crate) fn runners(&self) -> Vec<RunnerStatus> {
        let mut runners: BTreeMap<Arc<str>, RunnerStatus> = BTreeMap::new();
        for config in &self.configured {
            runners.insert(config.name.clone(), self.runner(config));
        }
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_by_key(|(session, _)| **session);
        for (_, session) in sessions {
            let config = &session.config;
            let status = runners.entry(config.name.clone()).or_insert_with(|| self.runner(config));
            status.state = match (status.state, session.state()) {
                ("online", _) | (_, "online") => "online",
                ("draining", _) | (_, "draining") => "draining",
                (_, state) => state,
            };
            status.capacity += u64::from(session.capacity);
            status.running += session.jobs.len() as u64;
            let leader = self.leads(session);
            status.leader |= leader;
            status.systems.push(SystemStatus {
                system_id: session.system.to_string(),
                version: session.facts.version.clone(),
                state: session.state(),
                capacity: session.capacity,
                credits: session.credits,
                running: session.jobs.len(),
                leader,
            });
        }
        runners.into_values().collect()
    }

    fn runner(&self, config: &RunnerConfig) -> RunnerStatus {
        let taints = self.taints.iter().filter(|(key, _)| key.runner == config.name);
        let taints = taints.map(|(key, taint)| TaintStatus {
            kind: key.kind,
            system: key.system.clone(),
            reason: taint.reason.clone(),
            by: taint.by.clone(),
            since: taint.since,
        });
        let group = self.runner_groups.iter().find(|group| config.group.as_ref() == Some(&group.name));
        RunnerStatus {
            name: config.name.clone(),
            kind: config.owner.kind_name(),
            owner: config.owner.path().map(str::to_owned),
            tags: config.tags.clone(),
            run_untagged: config.run_untagged,
            protected: config.protected,
            priority: config.priority,
            group: config.group.clone(),
            fingerprint: Capability::of(config).fingerprint().to_string(),
            state: "offline",
            capacity: 0,
            running: 0,
            leader: false,
            pinned: group.and_then(|group| group.pinned.as_ref()).is_some_and(|pin| pin.runner == config.name),
            taints: taints.collect(),
            systems: Vec::new(),
        }
    }

    /// Whether this is the leader of a group with a single one.
    fn leads(&self, session: &SessionState) -> bool {
        let group = self.runner_groups.iter().find(|group| session.config.group.as_ref() == Some(&group.name));
        session.leads && group.is_some_and(|group| group.single_leader)
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lanes.len()
    }
}

enum Counts<'a> {
    Group(&'a Group),
    Lack(u64),
}

fn queue_of(fingerprint: String, capability: &Capability) -> GroupQueue {
    GroupQueue {
        fingerprint,
        kind: capability.owner.kind_name(),
        owner: capability.owner.path().map(str::to_owned),
        tags: capability.tags.clone(),
        run_untagged: capability.run_untagged,
        protected: capability.protected,
        served: false,
        waiting: 0,
        running: 0,
        oldest_wait_seconds: None,
        capacity: 0,
        free: 0,
        systems: 0,
    }
}
