use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jobgate_proto::admission::v1::Strings;
use jobgate_sdk::Runner;

use crate::{
    config::RunnerConfig,
    handle::RunnerHello,
    job::{JobId, NewJob},
    scheduler::{HEALTHY, Now},
};

/// One stream of a runner.
pub(crate) struct SessionState {
    pub(crate) config: Arc<RunnerConfig>,
    pub(crate) system: Arc<str>,
    pub(crate) capacity: u32,
    /// Slots it granted and that are not used.
    pub(crate) credits: u32,
    /// Jobs that are being asked about while one of these slots is held for each.
    pub(crate) reserved: BTreeSet<JobId>,
    /// Jobs it has.
    pub(crate) jobs: BTreeSet<JobId>,
    pub(crate) draining: bool,
    pub(crate) heard: Duration,
    /// What controllers are told of it.
    pub(crate) facts: Arc<Runner>,
}

impl SessionState {
    pub(crate) fn new(hello: &RunnerHello, now: Now) -> Self {
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
        Self {
            config,
            system: hello.system_id.as_str().into(),
            capacity: hello.capacity,
            credits: 0,
            reserved: BTreeSet::new(),
            jobs: BTreeSet::new(),
            draining: false,
            heard: now.tick,
            facts: Arc::new(facts),
        }
    }

    /// Slots a job could have now.
    pub(crate) fn free(&self, now: Now) -> u32 {
        let healthy = now.tick.saturating_sub(self.heard) <= HEALTHY;
        if self.draining || !healthy { 0 } else { self.credits.saturating_sub(count(&self.reserved)) }
    }
}

/// How many jobs of one stream; there are no more than its capacity.
pub(crate) fn count(jobs: &BTreeSet<JobId>) -> u32 {
    u32::try_from(jobs.len()).unwrap_or(u32::MAX)
}

/// Whether the rules of eligibility let this runner take this job; GitLab's own rules.
pub(crate) fn may_take(runner: &RunnerConfig, job: &NewJob) -> bool {
    let tags = match job.tags.as_slice() {
        [] => runner.run_untagged,
        tags => tags.iter().all(|tag| runner.tags.binary_search(tag).is_ok()),
    };
    tags && (job.protected || !runner.protected) && runner.owner.covers(&job.project)
}
