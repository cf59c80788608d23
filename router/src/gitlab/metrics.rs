//! What is counted in front of GitLab. Labels are fixed words and names of runners, never a token or anything of a job.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Runners that are counted by name; those beyond are counted together.
const MOST_RUNNERS: usize = 1000;
const OTHER: &str = "other";

/// The counters; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct GitLabMetrics {
    polls: Family<Polled, Counter>,
    jobs: Family<Given, Counter>,
    upstream: Family<Answered, Counter>,
    finished: Family<Told, Counter>,
    lost: Family<Lost, Counter>,
    pauses: Counter,
    open: Gauge,
    handouts: Family<InStage, Gauge>,
    runners: Arc<Mutex<HashSet<Arc<str>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Polled {
    face: &'static str,
    answer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Given {
    runner: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Told {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lost {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InStage {
    stage: &'static str,
}

/// A poll that is open until this is dropped.
pub(super) struct OpenPoll(Gauge);

impl GitLabMetrics {
    pub(crate) fn register(&self, to: &mut Registry) {
        to.register("gitlab_polls", "Polls of GitLab's runners by answer", self.polls.clone());
        to.register("gitlab_jobs", "Jobs that GitLab gave, by runner and what became of them", self.jobs.clone());
        to.register("gitlab_answers", "GitLab's answers to job requests by status; 0: none", self.upstream.clone());
        to.register(
            "gitlab_finished",
            "Jobs finished in GitLab that no runner had, by who ended them",
            self.finished.clone(),
        );
        to.register(
            "gitlab_lost_answers",
            "Jobs that GitLab gave in answers that could not be read",
            self.lost.clone(),
        );
        to.register("gitlab_pauses", "Times that GitLab asked for a pause (429)", self.pauses.clone());
        to.register("gitlab_open_polls", "Polls that wait for an answer", self.open.clone());
        to.register("gitlab_handouts", "Jobs on their way to a runner, or to be finished", self.handouts.clone());
    }

    /// `answer` is `job`, `empty`, `refused`, `busy`, `unavailable` or `bad_request`.
    pub(super) fn polled(&self, face: &'static str, answer: &'static str) {
        self.polls.get_or_create(&Polled { face, answer }).inc();
    }

    /// `outcome` is `delivered`, `rejected`, `failed` or `returned`.
    pub(super) fn job(&self, runner: &Arc<str>, outcome: &'static str) {
        let runner = {
            let mut known = self.runners.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() < MOST_RUNNERS {
                known.insert(runner.clone());
            }
            if known.contains(runner) { runner.clone() } else { OTHER.into() }
        };
        self.jobs.get_or_create(&Given { runner, outcome }).inc();
    }

    pub(super) fn answered(&self, status: u16) {
        self.upstream.get_or_create(&Answered { status }).inc();
    }

    pub(super) fn finished(&self, told: bool) {
        self.finished.get_or_create(&Told { by: if told { "jobgate" } else { "gitlab" } }).inc();
    }

    /// `why` is `unreadable`, `broke_off`, `late`, `cut_off`, when nobody waited for it any more, or `broke`, when we did.
    pub(super) fn lost(&self, why: &'static str) {
        self.lost.get_or_create(&Lost { why }).inc();
    }

    pub(super) fn paused(&self) {
        self.pauses.inc();
    }

    pub(super) fn open(&self) -> OpenPoll {
        self.open.inc();
        OpenPoll(self.open.clone())
    }

    /// How many hand-outs are being asked about, delivered, and failing.
    pub(crate) fn set_handouts(&self, counts: [usize; 3]) {
        for (stage, count) in ["asking", "delivering", "failing"].into_iter().zip(counts) {
            self.handouts.get_or_create(&InStage { stage }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

impl Drop for OpenPoll {
    fn drop(&mut self) {
        self.0.dec();
    }
}
