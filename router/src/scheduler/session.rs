use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jobgate_proto::admission::v1::Strings;
use jobgate_sdk::Runner;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{groups::GroupId, jobs::Slot};
use crate::{config::RunnerConfig, handle::RunnerHello, scheduler::Now};

/// What controllers are told of a runner, as a hash: runners of one kind get the same answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RunnerKind([u8; 16]);

/// One stream of a runner.
pub(crate) struct SessionState {
    pub(crate) config: Arc<RunnerConfig>,
    pub(crate) system: Arc<str>,
    pub(crate) capacity: u32,
    /// Slots it granted and that are not used.
    pub(crate) credits: u32,
    /// Jobs that are being asked about while one of these slots is held for each.
    pub(crate) reserved: BTreeSet<Slot>,
    /// Jobs it has.
    pub(crate) jobs: BTreeSet<Slot>,
    pub(crate) draining: bool,
    /// Not heard of for a while: it gets nothing new.
    pub(crate) silent: bool,
    /// Kept out of all jobs, or of leadership.
    pub(crate) tainted: bool,
    pub(crate) may_lead: bool,
    /// In a group with a single leader, whether this is it; true elsewhere.
    pub(crate) leads: bool,
    pub(crate) heard: Duration,
    /// Since when its system has been here without a break.
    pub(crate) since: Duration,
    /// What controllers are told of it.
    pub(crate) facts: Arc<Runner>,
    pub(crate) kind: RunnerKind,
    pub(crate) group: GroupId,
    /// What its capability group counts it as.
    pub(crate) counted: Counted,
}

/// How a stream stands in the indexes of its capability group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// It is there for spillover: it may take jobs when it has a slot.
    pub(crate) open: bool,
    /// Its free slots.
    pub(crate) free: u32,
    pub(crate) running: u32,
}

impl SessionState {
    pub(crate) fn new(hello: &RunnerHello, group: GroupId, now: Now) -> Self {
        let config = hello.runner.clone();
        let facts = Runner {
            name: config.name.to_string(),
            id: None,
            r#type: Some(config.owner.kind().into()),
            tags: Some(Strings { values: config.tags.clone() }),
            run_untagged: Some(config.run_untagged),
            protected: Some(config.protected),
            version: hello.version.clone(),
            platform: hello.platform.clone(),
            executor: hello.executor.clone(),
        };
        let kind = RunnerKind::of(&facts);
        Self {
            config,
            system: hello.system_id.as_str().into(),
            capacity: hello.capacity,
            credits: 0,
            reserved: BTreeSet::new(),
            jobs: BTreeSet::new(),
            draining: false,
            silent: false,
            tainted: false,
            may_lead: true,
            leads: true,
            heard: now.tick,
            since: now.tick,
            facts: Arc::new(facts),
            kind,
            group,
            counted: Counted::default(),
        }
    }

    /// Whether it may get jobs when it has a free slot.
    pub(crate) fn is_open(&self) -> bool {
        !self.draining && !self.silent && !self.tainted && self.leads
    }

    /// Slots a job could have now.
    pub(crate) fn free(&self) -> u32 {
        if self.is_open() { self.credits.saturating_sub(count(&self.reserved)) } else { 0 }
    }

    /// Whether it could lead its group.
    pub(crate) fn is_candidate(&self) -> bool {
        !self.draining && !self.silent && !self.tainted && self.may_lead
    }

    pub(crate) fn state(&self) -> &'static str {
        match (self.draining, self.silent) {
            (true, _) => "draining",
            (false, true) => "silent",
            (false, false) => "online",
        }
    }
}

impl RunnerKind {
    fn of(facts: &Runner) -> Self {
        let digest = Sha256::digest(facts.encode_to_vec());
        let mut kind = [0; 16];
        kind.copy_from_slice(&digest[..16]);
        Self(kind)
    }
}

/// How many jobs of one stream; there are no more than its capacity.
pub(crate) fn count(jobs: &BTreeSet<Slot>) -> u32 {
    u32::try_from(jobs.len()).unwrap_or(u32::MAX)
}
