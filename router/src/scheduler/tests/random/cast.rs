//! Who takes part: runners, projects, policies. Each by a number.

use std::sync::Arc;

use super::super::{super::*, *};
use crate::config::RunnerConfig;

/// What is in every document and must come out nowhere.
pub(super) const SECRET: &str = "hunter2-marker";

/// SplitMix64.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.below(of.len())].clone()) }
    }
}

/// Versions of the controllers, and which of those about runners there are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    instance: usize,
    group: usize,
    runner: usize,
    of_runners: bool,
    reads_runner: bool,
}

impl Policy {
    pub(super) fn any(dice: &mut Dice) -> Self {
        Self {
            instance: dice.below(2),
            group: dice.below(2),
            runner: dice.below(2),
            of_runners: dice.percent(70),
            reads_runner: dice.percent(40),
        }
    }

    pub(super) fn chains(&self) -> Chains {
        let mut entries = vec![
            entry("i", "instance", &format!("v{}", self.instance)),
            entry("g", "group:acme", &format!("v{}", self.group)),
        ];
        if self.of_runners {
            entries.push(entry("c", "runner:c", &format!("v{}", self.runner)));
            entries.push(entry("f", "runner:f", &format!("v{}", self.runner)));
        }
        if self.reads_runner {
            entries.push(crate::chain::Entry { reads_runner: true, ..entry("p", "project:beta/app", "v1") });
        }
        chains(entries)
    }

    /// Whether somebody is asked about this runner before it gets a job of this project.
    pub(super) fn asks_about(&self, project: &str, runner: &str) -> bool {
        self.of_runners && matches!(runner, "c" | "f") || self.reads_runner && project.eq_ignore_ascii_case("beta/app")
    }
}

/// What makes jobs differ.
pub(super) const PROJECTS: [&str; 4] = ["acme/payments/api", "ACME/web", "beta/app", "acme/web"];
pub(super) const TAGS: [&[&str]; 5] = [&[], &[], &["docker"], &["gpu"], &["docker", "gpu"]];

/// A job with these properties.
pub(super) fn job(templates: &[NewJob], number: usize, dice: &mut Dice) -> (NewJob, usize) {
    let project = dice.below(PROJECTS.len());
    let tags = TAGS[dice.below(TAGS.len())];
    let job = NewJob {
        id: JobId::new(format!("j{number:06}")),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        protected: dice.percent(30),
        retry_on_lost: dice.percent(50),
        priority: i32::try_from(dice.below(3)).unwrap() - 1,
        ..templates[project].clone()
    };
    (job, project)
}

pub(super) fn templates() -> Vec<NewJob> {
    let of = |project: &&str| {
        let document = serde_json::json!({
            "job": { "name": "build" }, "project": { "path": project }, "payload": { "script": [SECRET] }
        });
        crate::testing::job_of("template", document)
    };
    PROJECTS.iter().map(of).collect()
}

pub(super) const RUNNERS: usize = 8;

/// The runner of this number; a reload may make another variant of it.
pub(super) fn cast(number: usize, variant: bool) -> Arc<RunnerConfig> {
    let (name, tags, run_untagged, owner, protected, priority, group): (_, &[&str], _, _, _, _, Option<&str>) =
        match number {
            0 => ("a", &["docker"], true, RunnerOwner::Instance, false, 10, None),
            1 => ("b", &["docker"], true, RunnerOwner::Instance, false, 0, None),
            2 => ("c", &["docker"], true, RunnerOwner::Instance, false, 5, None),
            3 => ("d", &["docker", "gpu"], false, RunnerOwner::Instance, false, 0, None),
            4 => ("e", &["docker"], true, RunnerOwner::Group("acme".parse().unwrap()), true, 0, None),
            5 => ("f", &["gpu"], false, RunnerOwner::Instance, false, 5, Some("g")),
            6 => ("h", &["gpu"], false, RunnerOwner::Instance, false, 0, Some("g")),
            _ => ("k", &["gpu"], true, RunnerOwner::Project("beta/app".parse().unwrap()), false, 0, Some("g")),
        };
    let base = runner(name, tags, owner, protected);
    Arc::new(RunnerConfig {
        run_untagged,
        priority: if variant { 7 } else { priority },
        group: group.map(Into::into),
        ..RunnerConfig::clone(&base)
    })
}

/// The rules of eligibility, written down once more.
pub(super) fn may_take(runner: &RunnerConfig, job: &NewJob) -> bool {
    let project = job.project.as_str().to_ascii_lowercase();
    let owned = match &runner.owner {
        RunnerOwner::Instance => true,
        RunnerOwner::Group(group) => project.starts_with(&format!("{}/", group.as_str().to_ascii_lowercase())),
        RunnerOwner::Project(own) => project == own.as_str().to_ascii_lowercase(),
    };
    let tagged =
        if job.tags.is_empty() { runner.run_untagged } else { job.tags.iter().all(|tag| runner.tags.contains(tag)) };
    owned && tagged && (job.protected || !runner.protected)
}
