//! Why a job waits: for each capability group the first thing that keeps it and the job apart.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Now, Scheduler,
    groups::Group,
    job::{Job, Phase},
    lanes::LaneKey,
    matching::lane_key,
    session::SessionState,
};
use crate::{
    handle::{JobDetails, JobEvent, Obstacle, Waits},
    job::JobId,
};

/// Names of runners in one obstacle.
const MOST_NAMES: usize = 10;
/// Capability groups in one explanation.
const MOST_GROUPS: usize = 50;

/// How near a group is to taking the job: groups that could ever take it come first.
type Distance = (u8, usize);

impl Scheduler {
    /// One job with its events, and what it waits for.
    pub(crate) fn explain(&self, id: &JobId, now: Now) -> Option<JobDetails> {
        let job = self.job(id)?;
        let events = job.events.iter().map(|event| JobEvent {
            time: event.when(),
            state: event.state,
            text: event.text.as_deref().unwrap_or_default().to_owned(),
        });
        Some(JobDetails { job: job.record.clone(), events: events.collect(), waits: self.waits_for(job, now) })
    }

    fn waits_for(&self, job: &Job, now: Now) -> Option<Waits> {
        let alone = |why, text: String| Some(Waits { why, text, groups: Vec::new() });
        match &job.phase {
            Phase::Assigned(_) | Phase::Running(_) | Phase::Finished => None,
            Phase::Routing { admission: Some(_), .. } => {
                alone("admission", "its controllers are being asked".to_owned())
            }
            Phase::Routing { admission: None, .. } => {
                let reason = &job.record.reason;
                alone("admission", format!("its controllers will be asked again soon: {reason}"))
            }
            Phase::Admitted { check: Some(check), .. } => {
                alone("admission", format!("the controllers of runner {} are being asked", check.runner))
            }
            Phase::Admitted { .. } if self.draining => {
                alone("draining", "the router is shutting down and gives out no jobs".to_owned())
            }
            Phase::Admitted { .. } if self.paused => {
                alone("store", "the router cannot write its state, and gives out no jobs until it can".to_owned())
            }
            Phase::Admitted { .. } => Some(self.apart(job, now)),
        }
    }

    fn apart(&self, job: &Job, now: Now) -> Waits {
        let key = lane_key(job);
        let mut found: Vec<_> =
            self.groups.iter().map(|(_, group)| self.obstacle(group, job, &key, now.tick)).collect();
        found.sort_by_key(|(distance, _)| *distance);
        let groups: Vec<_> = found.iter().take(MOST_GROUPS).map(|(_, obstacle)| obstacle.clone()).collect();
        let (why, text) = match found.first() {
            None => ("no_matching_runner", "no runner is configured or attached".to_owned()),
            Some(((0, _), nearest)) => (nearest.what, nearest.text.clone()),
            // Whose other runners are is not told to everybody who may see the job.
            Some((_, nearest)) if nearest.what == "owner" => {
                ("no_matching_runner", "no runner takes jobs of this project".to_owned())
            }
            Some((_, nearest)) => {
                let names = nearest.runners.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
                ("no_matching_runner", format!("no runner can take it; nearest are {names}: {}", nearest.text))
            }
        };
        Waits { why, text, groups }
    }

    fn obstacle(&self, group: &Group, job: &Job, key: &LaneKey, now: Duration) -> (Distance, Obstacle) {
        let sessions: Vec<_> = group.sessions.iter().filter_map(|session| self.sessions.get(session)).collect();
        let mut names: BTreeSet<Arc<str>> = group.configured.clone();
        names.extend(sessions.iter().map(|state| state.config.name.clone()));
        let (distance, what, text) = match lacks(group, key) {
            Some((lacking, what, text)) => ((1, lacking), what, text),
            None => {
                let (what, text) = self.unavailable(group, &sessions, job, now);
                let near = ["admission", "spillover_hold", "all_full", "kept_from_runner", "not_leader"];
                ((0, near.iter().position(|near| *near == what).unwrap_or(near.len())), what, text)
            }
        };
        let runners = names.into_iter().take(MOST_NAMES).collect();
        (distance, Obstacle { fingerprint: group.fingerprint.to_string(), runners, what, text })
    }

    /// Why a group that could take the job does not at present.
    fn unavailable(
        &self,
        group: &Group,
        sessions: &[&SessionState],
        job: &Job,
        now: Duration,
    ) -> (&'static str, String) {
        if sessions.is_empty() {
            return ("no_runner_online", "none of its runners is attached".to_owned());
        }
        let open: Vec<_> = sessions.iter().filter(|state| state.is_open()).collect();
        if open.is_empty() {
            return self.nobody_open(sessions);
        }
        let kept = job.kept.as_slice();
        let kept_from = |state: &SessionState| {
            let version = self.version(job.project(), crate::chain::Part::Runner(&state.config.name));
            kept.iter().find(|kept| kept.kind == state.kind && kept.version == version)
        };
        let usable: Vec<_> = open.iter().filter(|state| kept_from(state).is_none()).collect();
        if usable.is_empty() {
            let reasons = open.iter().filter_map(|state| kept_from(state));
            let mut reasons: Vec<_> = reasons.map(|kept| format!("{}: {}", kept.runner, kept.reason)).collect();
            reasons.dedup();
            reasons.truncate(3);
            return ("kept_from_runner", format!("it is kept from {}", reasons.join("; ")));
        }
        let (slots, count) = (usable.iter().map(|state| u64::from(state.capacity)).sum::<u64>(), usable.len());
        let free = usable.iter().filter(|state| state.free() > 0).map(|state| state.config.priority).max();
        let Some(priority) = free else {
            return ("all_full", format!("all {slots} slots of {count} streams are taken, or not offered"));
        };
        let above = group.levels.iter().filter(|(level, of)| level.0 > priority && of.open > 0);
        let full = above.filter_map(|(level, of)| of.full_since.map(|since| (level.0, now.saturating_sub(since))));
        if let Some((level, full)) = full.min_by_key(|(_, full)| *full)
            && full < self.hold
        {
            let (full, hold) = (full.as_secs(), self.hold.as_secs());
            return (
                "spillover_hold",
                format!(
                    "runners of priority {level} have been full for {full} s; those of priority {priority} help out \
                     after {hold} s"
                ),
            );
        }
        ("admission", "it is its turn next".to_owned())
    }

    fn nobody_open(&self, sessions: &[&SessionState]) -> (&'static str, String) {
        let led = |state: &&&SessionState| !state.leads && !state.draining && !state.silent && !state.tainted;
        if let Some(state) = sessions.iter().find(led) {
            let group = self.runner_groups.iter().find(|group| state.config.group.as_ref() == Some(&group.name));
            let name = group.map(|group| group.name.clone()).unwrap_or_default();
            return match group.and_then(|group| group.leader.as_ref()) {
                Some(leader) => (
                    "not_leader",
                    format!(
                        "only the leader of runner group {name} gets jobs: {} ({}), which cannot take it now",
                        leader.runner, leader.system
                    ),
                ),
                None => ("not_leader", format!("runner group {name} has no leader at present: no runner can be it")),
            };
        }
        let count = |is: fn(&SessionState) -> bool| sessions.iter().filter(|state| is(state)).count();
        let parts = [
            (count(|state| state.tainted), "tainted"),
            (count(|state| state.draining), "draining"),
            (count(|state| state.silent), "silent"),
        ];
        let parts: Vec<_> =
            parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
        ("no_runner_online", format!("none of its streams takes jobs: {}", parts.join(", ")))
    }
}

/// Why runners of a group can never take jobs like these: how much is lacking, and the first thing of it.
fn lacks(group: &Group, key: &LaneKey) -> Option<(usize, &'static str, String)> {
    let capability = &group.capability;
    let mut lacks = Vec::new();
    let missing: Vec<_> =
        key.tags.iter().filter(|tag| capability.tags.binary_search(tag).is_err()).map(String::as_str).collect();
    if !missing.is_empty() {
        let tags = if missing.len() == 1 { "the tag" } else { "the tags" };
        lacks.push((missing.len(), "tags", format!("they lack {tags} {}", missing.join(", "))));
    }
    if key.tags.is_empty() && !capability.run_untagged {
        lacks.push((1, "untagged", "they take no jobs without tags".to_owned()));
    }
    if capability.protected && !key.protected {
        lacks.push((1, "protected", "they take jobs of protected refs only".to_owned()));
    }
    if !capability.owner.covers(&key.project) {
        let owner = capability.owner.path().unwrap_or_default();
        let kind = capability.owner.kind_name();
        lacks.push((2, "owner", format!("they take jobs of {kind} {owner} only")));
    }
    let all = lacks.iter().map(|(count, ..)| count).sum();
    lacks.into_iter().next().map(|(_, what, text)| (all, what, text))
}
