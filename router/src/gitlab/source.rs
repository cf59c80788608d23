//! GitLab as a source of jobs: what all polls share.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    finish::Finisher,
    handout::HandOut,
    identity::Identities,
    metrics::GitLabMetrics,
    names::Standing,
    outstanding::Outstanding,
    tokens::{Salt, TokenKey},
    turns::{Places, Turns},
    upstream::Upstream,
};
use crate::{
    admission::{LateVerdict, Observer},
    config::GitLabConfig,
    core::{Event, HandOutCommand, Running},
    faces::Throttle,
    handle::Handle,
};

/// Admissions of GitLab's jobs at once. One that takes long makes room for another.
const ADMISSIONS: usize = 256;

/// Requests beyond the usual size that are read at once. Real ones are below it, and do not wait.
const LARGE_REQUESTS: usize = 64;
/// Tokens that pause, at most: those that GitLab knows and has heard too much of.
const MOST_PAUSES: usize = 50_000;

/// Asks GitLab on behalf of runners, and has what it gives admitted or finished; cheap to clone.
#[derive(Clone)]
pub(crate) struct Source(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) upstream: Upstream,
    pub(super) settings: ArcSwap<Settings>,
    pub(super) handle: Handle,
    /// Where verdicts go that come after their decision.
    pub(super) late: mpsc::Sender<LateVerdict>,
    pub(super) standing: watch::Receiver<Standing>,
    pub(super) store_ok: watch::Receiver<bool>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) outstanding: Outstanding,
    /// Jobs that GitLab is to be told of, where that cannot be written first.
    pub(super) finish: mpsc::UnboundedSender<HandOut>,
    pub(super) salt: Salt,
    pub(super) identities: Identities,
    pub(super) places: Places,
    pub(super) turns: Turns,
    pub(super) pauses: Pauses,
    pub(super) metrics: GitLabMetrics,
    /// The router shuts down: GitLab is not asked any more.
    pub(super) draining: CancellationToken,
    /// Polls that have not come to their end.
    pub(super) open: TaskTracker,
    /// Large requests that are read at once; the others wait.
    pub(super) large: Semaphore,
    /// Lost answers come in numbers, and are said once in a while.
    pub(super) losses: Throttle,
    /// So do polls that cannot be served.
    pub(super) outages: Throttle,
}

/// What the configuration says.
pub(super) struct Settings {
    pub(super) policy_reasons: Vec<String>,
    pub(super) failure_reasons: Vec<String>,
    pub(super) polls_per_token: usize,
}

/// What a source needs.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a GitLabConfig,
    pub(crate) upstream: Upstream,
    pub(crate) running: &'a Running,
    pub(crate) outstanding: Outstanding,
    pub(crate) finish: mpsc::UnboundedSender<HandOut>,
    /// Jobs that GitLab is to be told of.
    pub(crate) to_finish: mpsc::UnboundedReceiver<HandOut>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) metrics: GitLabMetrics,
}

impl Source {
    /// Begins to tell GitLab of jobs that are over, and is ready to ask for others. Must be called within a Tokio runtime.
    pub(crate) fn start(parts: Parts<'_>) -> Self {
        let Parts { config, upstream, running, outstanding, finish, to_finish, observer, metrics } = parts;
        let (handle, counted) = (running.handle.clone(), metrics.clone());
        let finisher = Finisher {
            upstream: upstream.clone(),
            finished: Arc::new(move |job, told| {
                counted.finished(told);
                handle.tell(HandOutCommand::Finished(job));
            }),
            clock: Arc::new(Timestamp::now),
        };
        tokio::spawn(finisher.run(to_finish));
        Self(Arc::new(Inner {
            upstream,
            settings: ArcSwap::from_pointee(Settings::of(config)),
            handle: running.handle.clone(),
            late: late(running.events.clone()),
            standing: running.standing.clone(),
            store_ok: running.store_ok.clone(),
            observer,
            outstanding,
            finish,
            salt: Salt::new(running.salt),
            identities: Identities::default(),
            places: Places::default(),
            turns: Turns::new(ADMISSIONS),
            pauses: Pauses::default(),
            metrics,
            draining: CancellationToken::new(),
            open: running.open.clone(),
            large: Semaphore::new(LARGE_REQUESTS),
            losses: Throttle::default(),
            outages: Throttle::default(),
        }))
    }

    /// Takes what another configuration says of runners, reasons and limits.
    pub(crate) fn reconfigure(&self, config: &GitLabConfig) {
        self.0.settings.store(Arc::new(Settings::of(config)));
    }

    /// Asks GitLab for nothing any more. Polls that wait for its answer end soon.
    pub(crate) fn drain(&self) {
        self.0.draining.cancel();
    }
}

fn late(events: mpsc::Sender<Event>) -> mpsc::Sender<LateVerdict> {
    let (late, mut verdicts) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(verdict) = verdicts.recv().await {
            // A closed inbox means that the router is gone.
            let _ = events.send(Event::Late(verdict)).await;
        }
    });
    late
}

impl Settings {
    fn of(config: &GitLabConfig) -> Self {
        Self {
            policy_reasons: config.policy_reasons.clone(),
            failure_reasons: config.failure_reasons.clone(),
            polls_per_token: config.polls_per_token,
        }
    }

    /// The first of these that this GitLab knows, or the last (facts 5.3).
    pub(super) fn choose<'a>(wanted: &'a [String], known: &[String]) -> &'a str {
        let known = wanted.iter().find(|reason| known.contains(reason));
        // There is always one: the configuration's reader refuses an empty list.
        known.or(wanted.last()).map_or("runner_system_failure", String::as_str)
    }
}

/// Tokens that GitLab wants to hear nothing from for a while.
#[derive(Default)]
pub(super) struct Pauses(Mutex<HashMap<TokenKey, Instant>>);

impl Pauses {
    /// How long this token has to wait.
    pub(super) fn left(&self, key: TokenKey) -> Option<Duration> {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = pauses.get(&key)?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            pauses.remove(&key);
            return None;
        }
        Some(left)
    }

    pub(super) fn set(&self, key: TokenKey, pause: Duration) {
        let mut pauses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if pauses.len() >= MOST_PAUSES && !pauses.contains_key(&key) {
            pauses.retain(|_, until| *until > now);
            if pauses.len() >= MOST_PAUSES {
                return;
            }
        }
        pauses.insert(key, now + pause);
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("upstream", &self.0.upstream).finish_non_exhaustive()
    }
}
