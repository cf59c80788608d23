//! What the router counts, as Prometheus reads it.

mod queue;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use self::queue::QueueGauges;
use super::ControllerStatus;
use crate::{
    gitlab::GitLabMetrics,
    handle::{QueueStatus, RunnerStatus},
};

/// Upper bounds of the latency histograms, in seconds: in-process policies take microseconds, remote controllers up to their
/// time limit.
const BOUNDS: [f64; 14] =
    [0.000_025, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 2.5, 10.0];

/// The counters and gauges of one router; cheap to clone. Labels are names of the configuration and fixed words, never
/// anything of a job.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    questions: Family<Question, Counter>,
    question_time: Family<OfController, Histogram, fn() -> Histogram>,
    admissions: Family<Ruled, Counter>,
    admission_time: Histogram,
    late_answers: Family<OfController, Counter>,
    store_errors: Counter,
    export_errors: Counter,
    exports_lost: Counter,
    refused: Family<Refused, Counter>,
    accept_errors: Counter,
    connections: Gauge,
    gitlab: GitLabMetrics,
    scraped: Scraped,
    scrape: Mutex<()>,
}

/// Set from the state of the router at each scrape.
#[derive(Default)]
struct Scraped {
    jobs: Family<InState, Gauge>,
    oldest_wait: Gauge,
    free_slots: Gauge,
    controllers: Family<OfController, Gauge>,
    policies: Family<Policy, Gauge>,
    stale: Family<OfController, Gauge>,
    runners: Family<OfRunner, Gauge>,
    queue: QueueGauges,
    ready: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Question {
    controller: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfController {
    controller: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ruled {
    decision: &'static str,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Policy {
    controller: Arc<str>,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRunner {
    runner: Arc<str>,
}

/// The state of the router at a scrape.
pub(super) struct Snapshot {
    pub(super) ready: bool,
    pub(super) queue: QueueStatus,
    pub(super) runners: Vec<RunnerStatus>,
    pub(super) controllers: Vec<ControllerStatus>,
}

#[cfg(test)]
impl Snapshot {
    pub(super) fn empty() -> Self {
        Self { ready: false, queue: QueueStatus::default(), runners: Vec::new(), controllers: Vec::new() }
    }
}

/// A connection that is open until this is dropped.
pub(super) struct OpenConnection(Gauge);

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("jobgate"),
            questions: Family::default(),
            question_time: Family::new_with_constructor(histogram),
            admissions: Family::default(),
            admission_time: histogram(),
            late_answers: Family::default(),
            store_errors: Counter::default(),
            export_errors: Counter::default(),
            exports_lost: Counter::default(),
            refused: Family::default(),
            accept_errors: Counter::default(),
            connections: Gauge::default(),
            gitlab: GitLabMetrics::default(),
            scraped: Scraped::default(),
            scrape: Mutex::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }

    /// A controller was asked: `outcome` is `admitted`, `rejected`, or how it failed.
    pub fn question(&self, controller: &str, outcome: &'static str, took: Duration) {
        let label = OfController { controller: controller.into() };
        self.0.question_time.get_or_create(&label).observe(took.as_secs_f64());
        let label = Question { controller: label.controller, outcome };
        self.0.questions.get_or_create(&label).inc();
    }

    /// A chain came to a decision: `decision` is `admitted` or `rejected`, `cause` is `policy`, `failure` or empty.
    pub fn admission(&self, decision: &'static str, cause: &'static str, took: Duration) {
        self.0.admission_time.observe(took.as_secs_f64());
        self.0.admissions.get_or_create(&Ruled { decision, cause }).inc();
    }

    /// An answer came to a question that was closed, or was never asked on that stream.
    pub fn late_answer(&self, controller: &str) {
        self.0.late_answers.get_or_create(&OfController { controller: controller.into() }).inc();
    }

    /// The store could not write or read.
    pub fn store_error(&self) {
        self.0.store_errors.inc();
    }

    /// The decision log could not be written; so many decisions were not exported.
    pub fn export_error(&self, lost: u64) {
        self.0.export_errors.inc();
        self.0.exports_lost.inc_by(lost);
    }

    /// A request was refused before it was read: `no_token`, `wrong_token`, `forbidden`, `foreign_host`, `origin`.
    pub fn refused(&self, reason: &'static str) {
        self.0.refused.get_or_create(&Refused { reason }).inc();
    }

    /// What is counted in front of GitLab.
    pub(crate) fn gitlab(&self) -> GitLabMetrics {
        self.0.gitlab.clone()
    }

    pub(super) fn accept_error(&self) {
        self.0.accept_errors.inc();
    }

    pub(super) fn connection(&self) -> OpenConnection {
        self.0.connections.inc();
        OpenConnection(self.0.connections.clone())
    }

    /// Everything as text in the OpenMetrics format, with the gauges set from a snapshot.
    ///
    /// # Errors
    ///
    /// When the text cannot be formatted, which does not happen with labels that are words.
    pub(super) fn encode(&self, now: &Snapshot) -> Result<String, fmt::Error> {
        // Two scrapes at once must not mix their gauges.
        let _alone = self.0.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.scraped.set(now);
        let mut text = String::with_capacity(8192);
        prometheus_client::encoding::text::encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

impl Inner {
    fn register(&mut self) {
        let to = &mut self.registry;
        to.register("questions", "Questions by controller and outcome", self.questions.clone());
        let help = "Time from a question to its verdict";
        to.register_with_unit("question_duration", help, Unit::Seconds, self.question_time.clone());
        to.register("admissions", "Decisions by cause", self.admissions.clone());
        let help = "Time of a whole chain";
        to.register_with_unit("admission_duration", help, Unit::Seconds, self.admission_time.clone());
        to.register("late_answers", "Answers to closed questions, dropped", self.late_answers.clone());
        to.register("store_errors", "Failed reads and writes of the store", self.store_errors.clone());
        to.register("export_errors", "Failed writes of the decision log", self.export_errors.clone());
        to.register("exports_lost", "Decisions that are not in the decision log", self.exports_lost.clone());
        to.register("refused_requests", "Requests refused before they were read", self.refused.clone());
        to.register("accept_errors", "Connections that could not be accepted", self.accept_errors.clone());
        to.register("connections", "Open connections", self.connections.clone());
        self.gitlab.register(to);
        self.scraped.register(to);
    }
}

impl Scraped {
    fn register(&self, to: &mut Registry) {
        to.register("jobs", "Jobs by state", self.jobs.clone());
        let help = "Age of the oldest job that waits for a runner";
        to.register_with_unit("oldest_wait", help, Unit::Seconds, self.oldest_wait.clone());
        to.register("free_slots", "Free slots of all attached runners", self.free_slots.clone());
        to.register("controller_attached", "Instances of a controller that can be asked", self.controllers.clone());
        to.register("policy", "Always 1; the label says which version decides", self.policies.clone());
        to.register(
            "controller_stale",
            "1 while an older version decides because the newest is faulty",
            self.stale.clone(),
        );
        to.register("runner_streams", "Attached streams of a runner", self.runners.clone());
        self.queue.register(to);
        to.register("ready", "1 when the router is ready", self.ready.clone());
    }

    fn set(&self, now: &Snapshot) {
        self.ready.set(now.ready.into());
        self.jobs.clear();
        for (state, count) in &now.queue.jobs {
            self.jobs.get_or_create(&InState { state }).set(signed(*count));
        }
        self.oldest_wait.set(now.queue.oldest_wait_seconds.map_or(0, signed));
        self.free_slots.set(signed(now.queue.free_slots));
        self.queue.set(&now.queue, &now.runners);
        self.controllers.clear();
        self.policies.clear();
        self.stale.clear();
        for status in &now.controllers {
            let label = OfController { controller: status.name.clone() };
            self.controllers.get_or_create(&label).set(status.attached.into());
            self.stale.get_or_create(&label).set(status.stale.into());
            if let Some(version) = &status.policy_version {
                let label = Policy { controller: label.controller, version: version.to_string() };
                self.policies.get_or_create(&label).set(1);
            }
        }
        self.runners.clear();
        for status in &now.runners {
            let label = OfRunner { runner: status.name.clone() };
            self.runners.get_or_create(&label).set(signed(status.systems.len()));
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn histogram() -> Histogram {
    Histogram::new(BOUNDS)
}

fn signed(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
