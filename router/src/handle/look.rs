//! Runners, queues and jobs as people look at them.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::TaintKind;
use crate::job::{JobRecord, JobState};

/// A runner as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct RunnerStatus {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// `instance`, `group` or `project`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its group or project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What it offers.
    pub tags: Vec<String>,
    /// Whether it takes jobs without tags.
    pub run_untagged: bool,
    /// Whether it takes jobs of protected refs only.
    pub protected: bool,
    /// Spillover: higher ones get jobs first.
    pub priority: i32,
    /// Its runner group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    /// Its capability fingerprint, in hexadecimal.
    pub fingerprint: String,
    /// `online`, `draining`, `silent` (no heartbeat for 15 s) or `offline`.
    pub state: &'static str,
    /// Jobs it runs at once, over all its systems.
    pub capacity: u64,
    /// Jobs it has.
    pub running: u64,
    /// Whether one of its systems leads its runner group.
    pub leader: bool,
    /// Whether it is pinned as the leader.
    pub pinned: bool,
    /// What keeps it out.
    pub taints: Vec<TaintStatus>,
    /// Its streams.
    pub systems: Vec<SystemStatus>,
}

/// A taint as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct TaintStatus {
    /// Out of what.
    pub kind: TaintKind,
    /// One of its systems; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Arc<str>>,
    /// Why.
    pub reason: String,
    /// Who said so; `runner` for the runner itself.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

/// One stream of a runner as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct SystemStatus {
    /// The machine or process.
    pub system_id: String,
    /// Version of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `online`, `draining` or `silent`.
    pub state: &'static str,
    /// Jobs it runs at once.
    pub capacity: u32,
    /// Free slots it granted.
    pub credits: u32,
    /// Jobs it has.
    pub running: usize,
    /// Whether it leads its runner group.
    pub leader: bool,
}

/// How many jobs wait, and for how long.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueStatus {
    /// Jobs by state.
    pub jobs: std::collections::BTreeMap<&'static str, usize>,
    /// Age of the oldest job that waits for a runner, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_wait_seconds: Option<u64>,
    /// Free slots of all attached runners.
    pub free_slots: u64,
    /// Demand and capacity of each capability group: those of attached and of configured runners, and those that waiting
    /// jobs lack.
    pub groups: Vec<GroupQueue>,
    /// Runner groups with a single leader.
    pub leaders: Vec<LeaderStatus>,
}

/// Demand for the runners of one capability group, and what they have.
#[derive(Clone, Debug, Serialize)]
pub struct GroupQueue {
    /// The capability fingerprint, in hexadecimal.
    pub fingerprint: String,
    /// `instance`, `group` or `project`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its group or project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What its runners offer.
    pub tags: Vec<String>,
    /// Whether they take jobs without tags.
    pub run_untagged: bool,
    /// Whether they take jobs of protected refs only.
    pub protected: bool,
    /// Whether any runner of the group is configured or attached. If not, this is what waiting jobs lack.
    pub served: bool,
    /// Jobs waiting that it could take. A job counts in every group that could take it.
    pub waiting: u64,
    /// Jobs its runners have.
    pub running: u64,
    /// Age of the oldest of the waiting ones, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_wait_seconds: Option<u64>,
    /// Slots of its attached runners.
    pub capacity: u64,
    /// Free ones of them.
    pub free: u64,
    /// Its attached streams.
    pub systems: u64,
}

/// Who leads a runner group.
#[derive(Clone, Debug, Serialize)]
pub struct LeaderStatus {
    /// The runner group.
    pub group: Arc<str>,
    /// The runner that leads; absent while nobody can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner: Option<Arc<str>>,
    /// Its system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Arc<str>>,
    /// The runner that is pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<Arc<str>>,
    /// Number of this leadership; every change makes it higher.
    pub fence: u64,
}

/// A job, how it came to where it is, and what it waits for.
#[derive(Clone, Debug)]
pub struct JobDetails {
    /// Its record.
    pub job: Arc<JobRecord>,
    /// What happened to it, oldest first. Of very many the ones in the middle are left out.
    pub events: Vec<JobEvent>,
    /// What it waits for; `None` when it does not wait.
    pub waits: Option<Waits>,
}

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobEvent {
    /// When.
    pub time: Timestamp,
    /// Where it was then.
    #[serde(serialize_with = "state_name")]
    pub state: JobState,
    /// What happened, for people: `refused by runner a: disk is full`.
    pub text: String,
}

/// What a job waits for.
#[derive(Clone, Debug, Serialize)]
pub struct Waits {
    /// The one thing to know: `no_matching_runner`, `no_runner_online`, `all_full`, `spillover_hold`, `admission`, `kept_from_runner`,
    /// `not_leader`, `store`, `draining`.
    pub why: &'static str,
    /// The same in a sentence, with the nearest miss.
    pub text: String,
    /// For each capability group the first thing that keeps it and the job apart; nearest first.
    pub groups: Vec<Obstacle>,
}

/// What keeps a job and the runners of a capability group apart.
#[derive(Clone, Debug, Serialize)]
pub struct Obstacle {
    /// The capability fingerprint, in hexadecimal.
    pub fingerprint: String,
    /// Runners of the group, by name; at most ten.
    pub runners: Vec<Arc<str>>,
    /// One of the words of [`Waits::why`], or `tags`, `untagged`, `protected`, `owner`.
    pub what: &'static str,
    /// The same in a sentence: which tag or property is lacking.
    pub text: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn state_name<S: serde::Serializer>(state: &JobState, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state.as_str())
}
