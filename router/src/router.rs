use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jobgate_sdk::{Controller, FailureCause};
use jobgate_yaml::Faults;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::{
    admission::Observer,
    chain::Rules,
    config::{Config, ControllerConfig, ControllerKind, ControllerState, OnFailure},
    core::{self, Event, Running},
    decision::{Cause, Ruling},
    faces::{self, Auth, BindError, DecisionLog, DecisionLogEnd, Limits, Metrics, Readiness, Server, Tls},
    gitlab::{Front, Names, Prepared, UpstreamError},
    handle::Handle,
    path::Scope,
    policy::PolicySource,
    remote::Tunnels,
    roster::{Linked, Roster},
    scheduler,
    store::{DiskOptions, DiskStore, OpenError, Restored, Store, StoreError},
};

/// Finished jobs that can still be looked at.
const FINISHED: usize = 10_000;
/// Open questions and requests finish within this, once the router shuts down.
const DRAIN: Duration = Duration::from_secs(30);

/// A router that does not listen yet.
///
/// Give it a configuration, what makes policies, and controllers of your own if you like; then [`Router::bind`] and
/// [`Bound::serve`].
#[must_use = "a router does nothing before it is bound and served"]
pub struct Router {
    config: Config,
    policies: Arc<dyn PolicySource>,
    linked: Vec<Linked>,
    /// Another store than a directory.
    store: Option<Box<dyn Store>>,
    limits: Limits,
    on_decision: Option<OnDecision>,
}

type OnDecision = Arc<dyn Fn(&Arc<crate::Decision>) + Send + Sync>;

/// A router that has its address, and serves nobody yet.
#[must_use = "nobody is served before `serve`"]
pub struct Bound {
    server: Server,
    running: Running,
    reloader: Reloader,
    closing: watch::Sender<bool>,
    log: Option<(DecisionLog, DecisionLogEnd)>,
}

/// Gives a running router another configuration.
#[derive(Clone)]
pub struct Reloader(Arc<Shared>);

struct Shared {
    policies: Arc<dyn PolicySource>,
    linked: Vec<Linked>,
    current: Mutex<(Config, Roster)>,
    /// One reload at a time: each is built upon the one before.
    turn: tokio::sync::Mutex<()>,
    events: tokio::sync::mpsc::Sender<Event>,
    gitlab: Option<Front>,
    tunnels: Tunnels,
    auth: Auth,
    tls: Option<Tls>,
}

/// Why a router does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Its policies have faults.
    #[error("{0}")]
    Faults(#[from] Faults),
    /// Its address cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its GitLab cannot be asked.
    #[error(transparent)]
    GitLab(#[from] UpstreamError),
    /// The decision log cannot be started.
    #[error("the decision log cannot be started: {0}")]
    DecisionLog(std::io::Error),
    /// Its store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What its store held makes no sense.
    #[error("the store cannot be taken up: {0}")]
    Store(StoreError),
    /// The router cannot go on.
    #[error("the router broke down: the task that owns the state ended: {0}")]
    Broken(String),
}

impl Router {
    /// A router of this configuration, whose `policy:` controllers come from `policies`.
    pub fn new(config: Config, policies: Arc<dyn PolicySource>) -> Self {
        Self { config, policies, linked: Vec::new(), store: None, limits: Limits::default(), on_decision: None }
    }

    /// Adds a controller of your own, without a network hop. It stands after those of the configuration.
    pub fn controller(mut self, name: &str, scope: Scope, controller: impl Controller) -> Self {
        let config = ControllerConfig {
            name: name.into(),
            scope,
            state: ControllerState::Enabled,
            kind: ControllerKind::Linked,
            timeout: Duration::from_secs(2),
            on_failure: OnFailure::Reject,
            expose: crate::Expose::default(),
        };
        self.linked.push(Linked { config: Arc::new(config), controller: Arc::new(controller) });
        self
    }

    /// Keeps its state there instead of in the directory `state` of the configuration; [`MemoryStore`](crate::MemoryStore)
    /// keeps it nowhere.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Calls `hear` with every decision once it is committed, and again when a late verdict is added. It must not block.
    pub fn on_decision(mut self, hear: impl Fn(&Arc<crate::Decision>) + Send + Sync + 'static) -> Self {
        self.on_decision = Some(Arc::new(hear));
        self
    }

    /// Compiles the policies, opens the store, takes the address and starts the task that owns the state.
    ///
    /// # Errors
    ///
    /// All faults of all policies; or why the store or the address cannot be had.
    pub async fn bind(self) -> Result<Bound, RunError> {
        let Self { config, policies, linked, store, limits, on_decision } = self;
        let roster = Roster::build(&config, &linked, &*policies, &Roster::default())?;
        let (store, restored) = match store {
            Some(store) => (store, Restored::default()),
            None => open_store(&config).await?,
        };
        let metrics = Metrics::new();
        let log = config.decision_log.as_ref().map(|log| DecisionLog::start(log, metrics.clone()));
        let log = log.transpose().map_err(RunError::DecisionLog)?;
        let exporter = log.as_ref().map(|(log, _)| log.clone());
        let prepared = Prepared::new(&config, metrics.gitlab())?;
        let observer: Arc<dyn Observer> = Arc::new(Counting(metrics.clone()));
        let running = core::start(core::Parts {
            chains: roster.chains(rules(&config)),
            runners: core::Runners::of(&config),
            limits: scheduler::Limits {
                max_jobs: config.max_jobs,
                max_finished: FINISHED,
                admission_ttl: config.admission_ttl,
            },
            settings: core::Settings::of(&config),
            store,
            restored,
            own_thread: true,
            clock: Box::new(jiff::Timestamp::now),
            observer: observer.clone(),
            handouts: prepared.as_ref().map(Prepared::parts),
            export: Box::new(move |decision| {
                if let Some(log) = &exporter {
                    log.export(decision.clone());
                }
                if let Some(hear) = &on_decision {
                    hear(decision);
                }
            }),
        });
        let running = running.map_err(RunError::Store)?;
        let gitlab = prepared.map(|prepared| prepared.start(&config, &running, observer));
        let (closing, is_closing) = watch::channel(false);
        let late = metrics.clone();
        let tunnels = Tunnels::new(roster.slots(), is_closing, Arc::new(move |name| late.late_answer(name)));
        let readiness = Readiness::new();
        readiness.set_policies(true);
        follow_store(running.store_ok.clone(), readiness.clone(), metrics.clone());
        let roster_for_status: Arc<std::sync::OnceLock<Reloader>> = Arc::default();
        let status = roster_for_status.clone();
        let parts = faces::Parts {
            handle: running.handle.clone(),
            controllers: Arc::new(move || status.get().map(Reloader::controllers).unwrap_or_default()),
            metrics,
            readiness,
            services: Routes::new(tunnels.clone().service()),
            limits,
            gitlab: gitlab.clone(),
        };
        let server = Server::bind(&config, parts).await?;
        roster.follow(&running.events);
        let reloader = Reloader(Arc::new(Shared {
            policies,
            linked,
            current: Mutex::new((config, roster)),
            turn: tokio::sync::Mutex::default(),
            events: running.events.clone(),
            gitlab,
            tunnels,
            auth: server.auth(),
            tls: server.tls(),
        }));
        // Set once, here.
        let _ = roster_for_status.set(reloader.clone());
        Ok(Bound { server, running, reloader, closing, log })
    }
}

impl Bound {
    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// A client of the task that owns the state.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.running.handle.clone()
    }

    /// One of its controllers, to be asked alone.
    #[cfg(feature = "bench")]
    #[doc(hidden)]
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<Arc<dyn Controller>> {
        self.reloader.0.current.lock().unwrap_or_else(PoisonError::into_inner).1.controller(name)
    }

    /// Gives it another configuration while it runs.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    /// Serves until `shutdown`; then no new question is asked, open ones finish within 30 s, and runners are told to drain.
    ///
    /// # Errors
    ///
    /// [`RunError::Broken`] when the task that owns the state ended by itself.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), RunError> {
        let Self { server, running, reloader, closing, log } = self;
        let Running { handle, open, end, mut task, .. } = running;
        let mut broken = None;
        let shutdown = async {
            tokio::select! {
                () = shutdown => {}
                ended = &mut task => {
                    // Without it nothing is admitted and nothing recorded: the process ends instead of looking alive.
                    tracing::error!("the task that owns the state ended");
                    broken = Some(RunError::Broken(ended.err().map_or_else(String::new, |error| error.to_string())));
                    if let Some(front) = &reloader.0.gitlab {
                        front.source().drain();
                    }
                    return;
                }
            }
            tracing::info!("shutting down: no new questions, runners are told to drain");
            let _ = handle.drain().await;
            if let Some(front) = &reloader.0.gitlab {
                front.source().drain();
            }
            // Admissions that have begun go on to their end, level by level; then the streams of their controllers end.
            open.close();
            if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
                tracing::warn!("some questions were still open after 30 s");
            }
            closing.send_replace(true);
        };
        server.serve(shutdown).await;
        drop(reloader);
        if broken.is_none() {
            end.cancel();
            // What the task had to export is exported when it is gone.
            let _ = task.await;
        }
        if let Some((log, end)) = log {
            drop(log);
            let _ = tokio::time::timeout(Duration::from_secs(5), end.wait()).await;
        }
        broken.map_or(Ok(()), Err)
    }
}

impl Reloader {
    /// Takes another configuration, all or nothing. Decisions made under the old one are found stale when they would serve.
    ///
    /// `listen`, `state`, `decision_log`, `max_jobs`, `retention`, where GitLab is and whether there is TLS stay as they were: they need
    /// a restart, and the names of those that differ are returned.
    ///
    /// # Errors
    ///
    /// All faults of its policies; the old configuration stays.
    pub async fn reload(&self, config: Config) -> Result<Vec<&'static str>, Faults> {
        let shared = &self.0;
        let _turn = shared.turn.lock().await;
        let (before, old) = shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let roster = Roster::build(&config, &shared.linked, &*shared.policies, &old)?;
        if let Err(error) = shared.auth.replace(&config) {
            return Err(jobgate_yaml::Fault::new("tokens", error.to_string()).into());
        }
        shared.tunnels.replace(roster.slots());
        let event = Event::Reconfigured {
            chains: roster.chains(rules(&config)),
            runners: core::Runners::of(&config),
            settings: core::Settings::of(&config),
            names: Names::of(&config),
            admission_ttl: config.admission_ttl,
        };
        // A task that is gone has no use for it.
        let _ = shared.events.send(event).await;
        if let (Some(front), Some(gitlab)) = (&shared.gitlab, &config.gitlab) {
            front.source().reconfigure(gitlab);
        }
        // After it: what changed since the chains were made is told again.
        roster.follow(&shared.events);
        let fixed = [
            ("listen", before.listen != config.listen),
            ("tls", before.tls != config.tls),
            ("state", before.state != config.state),
            ("decision_log", before.decision_log != config.decision_log),
            ("max_jobs", before.max_jobs != config.max_jobs),
            ("gitlab", place(&before) != place(&config)),
            ("retention", before.retention != config.retention),
        ];
        *shared.current.lock().unwrap_or_else(PoisonError::into_inner) = (config, roster);
        Ok(fixed.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect())
    }

    /// Reads the certificate files again; the old pair stays when the new one is faulty.
    ///
    /// # Errors
    ///
    /// What is wrong with the new pair.
    pub fn reload_certificate(&self) -> Result<(), faces::TlsError> {
        self.0.tls.as_ref().map_or(Ok(()), Tls::reload)
    }

    /// The configuration in use.
    #[must_use]
    pub fn config(&self) -> Config {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn controllers(&self) -> Vec<faces::ControllerStatus> {
        let roster = self.0.current.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        roster.status()
    }
}

/// Counts questions and admissions.
struct Counting(Metrics);

impl Observer for Counting {
    fn answered(&self, controller: &Arc<str>, outcome: &'static str, failure: Option<FailureCause>, took: Duration) {
        self.0.question(controller, failure.map_or(outcome, FailureCause::as_str), took);
    }

    fn decided(&self, decision: &crate::Decision, took: Duration) {
        let ruling = match decision.decision {
            Ruling::Admitted => "admitted",
            Ruling::Rejected => "rejected",
        };
        let cause = match decision.cause {
            None => "",
            Some(Cause::Policy) => "policy",
            Some(Cause::Failure) => "failure",
        };
        self.0.admission(ruling, cause, took);
    }
}

/// Which GitLab, and how it is reached.
fn place(config: &Config) -> Option<(&str, Option<&[u8]>)> {
    config.gitlab.as_ref().map(|gitlab| (&*gitlab.url, gitlab.ca.as_deref()))
}

fn rules(config: &Config) -> Rules {
    Rules { no_controllers: config.no_controllers, admission_timeout: config.admission_timeout }
}

/// Opens the directory of the configuration. That may take seconds where a million jobs wait.
async fn open_store(config: &Config) -> Result<(Box<dyn Store>, Restored), RunError> {
    let (directory, retention) = (config.state.clone(), config.retention);
    let open = move || DiskStore::open(&directory, DiskOptions { retention, ..DiskOptions::default() });
    let opened = tokio::task::spawn_blocking(open).await;
    let (store, restored, repairs) = opened.map_err(|error| RunError::Broken(error.to_string()))??;
    for repair in repairs.iter() {
        tracing::warn!(state = %config.state.display(), "the store was put right: {repair}");
    }
    let waiting = restored.settings.keys().filter(|key| key.starts_with("gitlab/job/")).count();
    if waiting > 0 && config.gitlab.is_none() {
        tracing::warn!(
            waiting,
            "jobs of a GitLab wait to be told of, and the configuration has no `gitlab`: they are kept"
        );
    }
    let (jobs, directory) = (restored.jobs.len(), config.state.display());
    tracing::info!(state = %directory, jobs, "the store is open");
    Ok((Box::new(store), restored))
}

fn follow_store(mut store_ok: watch::Receiver<bool>, readiness: Readiness, metrics: Metrics) {
    readiness.set_store(*store_ok.borrow());
    tokio::spawn(async move {
        while store_ok.changed().await.is_ok() {
            let can_write = *store_ok.borrow_and_update();
            readiness.set_store(can_write);
            if !can_write {
                metrics.store_error();
            }
        }
        // The task that owns the store is gone.
        readiness.set_store(false);
    });
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("address", &self.local_addr()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reloader")
    }
}
