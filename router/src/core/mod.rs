//! The one task that owns jobs, runners and decisions: takes what is waiting, applies it to the state machine, commits, and
//! only then lets anything leave.

mod asking;
mod history;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use self::history::History;
use crate::{
    admission::{LateVerdict, Observer},
    chain::Chains,
    config::{Config, RunnerConfig},
    decision::Decision,
    handle::{Command, CoreError, Handle, JobDetails, Reply, RunnerOrder, RunnerStatus, Session},
    job::{JobId, JobRecord},
    scheduler::{Decided, Effect, Limits, Now, Scheduler},
    store::{Batch, Store, Submission},
};

/// Messages the task's inbox holds before senders wait.
const INBOX: usize = 4096;
/// Messages taken in one step, so that one commit serves many.
const STEP: usize = 1024;
/// Admissions that begin at once.
const ADMISSIONS: usize = 1024;
/// Orders a runner's stream may lag behind, beyond one for each of its slots.
const ORDERS: usize = 64;
/// Pause before a failed commit is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Orders kept for one runner's stream while the store cannot write.
const MOST_HELD: usize = 4096;

/// What happens inside the router.
pub(crate) enum Event {
    /// An admission ended.
    Decided(Decided, Box<Decision>),
    /// A dry-run verdict came late.
    Late(LateVerdict),
    /// A controller decides by these policy versions now.
    Versions { controller: Arc<str>, versions: BTreeSet<Arc<str>>, reads_runner: Option<bool> },
    /// The configuration changed.
    Reconfigured { chains: Chains, runners: Runners, admission_ttl: Duration },
}

/// Which runners may attach.
pub(crate) enum Runners {
    /// Any, in trial mode.
    Any,
    /// Those of the configuration.
    Configured(Vec<Arc<RunnerConfig>>),
}

/// What the task needs from outside.
pub(crate) struct Parts {
    pub(crate) chains: Chains,
    pub(crate) runners: Runners,
    pub(crate) limits: Limits,
    pub(crate) store: Box<dyn Store>,
    pub(crate) observer: Arc<dyn Observer>,
    /// Where committed decisions are exported to.
    pub(crate) export: Export,
}

/// Hears of every committed decision; must not block.
pub(crate) type Export = Box<dyn Fn(&Arc<Decision>) + Send>;

/// How the rest of the router reaches the task.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) events: mpsc::Sender<Event>,
    /// Whether the store can write.
    pub(crate) store_ok: watch::Receiver<bool>,
    /// Knows when no admission is open.
    pub(crate) open: TaskTracker,
    /// The task; ends when every handle is gone.
    pub(crate) task: tokio::task::JoinHandle<()>,
}

struct Core {
    scheduler: Scheduler,
    history: History,
    runners: Runners,
    store: Box<dyn Store>,
    observer: Arc<dyn Observer>,
    export: Export,
    outboxes: HashMap<Session, mpsc::Sender<RunnerOrder>>,
    changes: broadcast::Sender<Arc<JobRecord>>,
    events: mpsc::WeakSender<Event>,
    admissions: Arc<Semaphore>,
    open: TaskTracker,
    store_ok: watch::Sender<bool>,
    began: Instant,
    /// No new questions are asked.
    draining: Arc<AtomicBool>,
    /// What this step has to write, and what leaves once it is written.
    pending: Pending,
    /// When a store that could not write is tried again.
    retry_at: Option<Duration>,
}

#[derive(Default)]
struct Pending {
    batch: Batch,
    /// Effects of earlier steps that could not be committed.
    held: Vec<Effect>,
    /// How many of them each runner's stream waits for.
    held_orders: HashMap<Session, usize>,
    effects: Vec<Effect>,
    replies: Vec<Box<dyn FnOnce() + Send>>,
}

/// Starts the task.
pub(crate) fn start(parts: Parts) -> Running {
    let (inbox, mut commands) = mpsc::channel(INBOX);
    let (events_in, mut events) = mpsc::channel(INBOX);
    let (changes, _) = broadcast::channel(INBOX);
    let (store_ok, store_state) = watch::channel(true);
    let mut core = Core {
        scheduler: Scheduler::new(parts.chains, parts.limits),
        history: History::default(),
        runners: parts.runners,
        store: parts.store,
        observer: parts.observer,
        export: parts.export,
        outboxes: HashMap::new(),
        changes: changes.clone(),
        events: events_in.downgrade(),
        admissions: Arc::new(Semaphore::new(ADMISSIONS)),
        open: TaskTracker::new(),
        store_ok,
        began: Instant::now(),
        draining: Arc::default(),
        pending: Pending::default(),
        retry_at: None,
    };
    let open = core.open.clone();
    let task = tokio::spawn(async move {
        let mut taken_commands = Vec::with_capacity(STEP);
        let mut taken_events = Vec::with_capacity(STEP);
        loop {
            let wake = core.wake_at();
            tokio::select! {
                biased;
                count = events.recv_many(&mut taken_events, STEP) => if count == 0 { break },
                count = commands.recv_many(&mut taken_commands, STEP) => if count == 0 { break },
                () = tokio::time::sleep_until(wake) => {}
            }
            // However many events there are, commands have their turn in every step.
            while taken_commands.len() < STEP
                && let Ok(command) = commands.try_recv()
            {
                taken_commands.push(command);
            }
            let now = core.now();
            for event in taken_events.drain(..) {
                core.event(event, now);
            }
            for command in taken_commands.drain(..) {
                core.command(command, now);
            }
            core.scheduler.tick(now);
            core.settle(now);
        }
    });
    Running { handle: Handle { inbox, changes }, events: events_in, store_ok: store_state, open, task }
}

impl Core {
    fn now(&self) -> Now {
        Now { tick: self.began.elapsed(), wall: Timestamp::now() }
    }

    /// When there is something to do though nobody says anything.
    fn wake_at(&self) -> Instant {
        let hour = self.began.elapsed() + Duration::from_secs(3600);
        let deadline = self.scheduler.next_deadline().unwrap_or(hour);
        self.began + self.retry_at.map_or(deadline, |retry| retry.min(deadline))
    }

    fn event(&mut self, event: Event, now: Now) {
        match event {
            Event::Decided(decided, decision) => {
                let decision = self.history.record(*decision);
                self.pending.batch.decisions.push(decision);
                self.scheduler.decided(decided, now);
            }
            Event::Late(late) => {
                if let Some(decision) = self.history.append(late) {
                    self.pending.batch.decisions.push(decision);
                }
            }
            Event::Versions { controller, versions, reads_runner } => {
                if let Some(chains) = self.scheduler.chains().with_versions(&controller, &versions, reads_runner) {
                    self.scheduler.set_chains(chains, now);
                }
            }
            Event::Reconfigured { chains, runners, admission_ttl } => {
                self.scheduler.reconfigure(chains, runners.configured(), admission_ttl, now);
                self.runners = runners;
            }
        }
    }

    fn command(&mut self, command: Command, now: Now) {
        let open = *self.store_ok.borrow();
        let Some(command) = (if open { Some(command) } else { command.refuse(CoreError::StoreUnavailable) }) else {
            return;
        };
        match command {
            Command::Submit(jobs, key, reply) => {
                let result = match key.as_ref().and_then(|key| self.history.repeated(key, now.tick)) {
                    Some(Err(error)) => Err(error),
                    Some(Ok(ids)) => Ok(self.states(ids)),
                    None => self.scheduler.submit(jobs, now),
                };
                if let (Ok(jobs), Some(key)) = (&result, key) {
                    let ids: Vec<_> = jobs.iter().map(|(id, _)| id.clone()).collect();
                    if self.history.submitted(&key, &ids, now.tick) {
                        self.pending.batch.submissions.push(Submission { key, jobs: ids, time: now.wall });
                    }
                }
                self.reply(reply, result);
            }
            Command::Cancel(id, by, reply) => {
                let result = self.scheduler.cancel(&id, format!("canceled by {by}"), now);
                self.reply(reply, result);
            }
            // Its token was looked at some time ago.
            Command::Attach(hello, reply) if !self.runners.contains(&hello.runner) => {
                self.reply(reply, Err(CoreError::RunnerChanged));
            }
            Command::Attach(hello, reply) => {
                let capacity = hello.capacity as usize;
                let result = self.scheduler.attach(&hello, now).map(|session| {
                    let (orders, receiver) = mpsc::channel(capacity.min(1024) + ORDERS);
                    self.outboxes.insert(session, orders);
                    (session, receiver)
                });
                self.reply(reply, result);
            }
            Command::Runner(session, event) => self.scheduler.event(session, event, now),
            Command::Detach(session) => {
                self.outboxes.remove(&session);
                self.scheduler.detach(session, now);
            }
            Command::Drain(reply) => {
                self.draining.store(true, Ordering::Relaxed);
                self.scheduler.drain();
                // There is nothing in it to commit: the router shuts down even while its store cannot write.
                let _ = reply.send(Ok(()));
            }
            // Looking changes nothing, but what is seen must be committed: these wait for the step, too.
            Command::Job(id, reply) => {
                let found = self.scheduler.job(&id).map(|job| job.record.clone());
                self.reply(reply, found.ok_or(CoreError::NoSuchJob(id)));
            }
            Command::List(filter, reply) => {
                let page = self.scheduler.list(&filter);
                self.reply(reply, Ok(page));
            }
            Command::Decisions(job, limit, reply) => {
                let found = self.history.decisions(job.as_ref(), limit);
                self.reply(reply, Ok(found));
            }
            Command::Runners(reply) => {
                let runners = self.all_runners(now);
                self.reply(reply, Ok(runners));
            }
            Command::Explain(id, reply) => {
                let found = self.scheduler.job(&id).map(|job| JobDetails {
                    job: job.record.clone(),
                    events: Vec::new(),
                    waits: None,
                });
                self.reply(reply, found.ok_or(CoreError::NoSuchJob(id)));
            }
            Command::Operate(action, reply) => {
                let _ = action;
                self.reply(reply, Err(CoreError::NoSuchRunner(String::new())));
            }
            Command::Queue(reply) => {
                let queue = self.scheduler.queue(now);
                self.reply(reply, Ok(queue));
            }
        }
    }

    fn reply<T: Send + 'static>(&mut self, to: Reply<T>, answer: Result<T, CoreError>) {
        // Who does not wait any more needs no answer.
        self.pending.replies.push(Box::new(move || drop(to.send(answer))));
    }

    fn states(&self, ids: Vec<JobId>) -> Vec<(JobId, crate::job::JobState)> {
        let state = |id: &JobId| {
            let present = self.scheduler.job(id).map(|job| job.record.state);
            // The scheduler forgets only what is finished, and how it ended was noted then.
            present.or_else(|| self.history.end_of(id)).unwrap_or(crate::job::JobState::Dropped)
        };
        ids.into_iter().map(|id| (id.clone(), state(&id))).collect()
    }

    fn all_runners(&self, now: Now) -> Vec<RunnerStatus> {
        let mut all = self.scheduler.runners(now);
        for config in self.runners.configured() {
            if all.iter().all(|runner| runner.name != config.name) {
                all.push(RunnerStatus {
                    name: config.name.clone(),
                    kind: config.owner.kind_name(),
                    owner: config.owner.path().map(str::to_owned),
                    tags: config.tags.clone(),
                    run_untagged: config.run_untagged,
                    protected: config.protected,
                    priority: config.priority,
                    group: config.group.clone(),
                    fingerprint: String::new(),
                    state: "offline",
                    capacity: 0,
                    running: 0,
                    leader: false,
                    pinned: false,
                    taints: Vec::new(),
                    systems: Vec::new(),
                });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Commits what the step changed, and lets it take effect. What cannot be committed waits, and takes no effect.
    fn settle(&mut self, now: Now) {
        loop {
            self.collect();
            if self.pending.is_empty() {
                return;
            }
            if !self.commit(now) {
                return self.hold(now);
            }
            let Pending { batch, held, effects, replies, .. } = std::mem::take(&mut self.pending);
            // Before the answers: who asks for a job and follows it then knows which changes its answer contains.
            for record in batch.records {
                // Nobody watching is fine.
                let _ = self.changes.send(record);
            }
            for reply in replies {
                reply();
            }
            for decision in &batch.decisions {
                (self.export)(decision);
            }
            // An effect may fail and change the state again: another round.
            for effect in held.into_iter().chain(effects) {
                self.perform(effect, now);
            }
            self.scheduler.resume(now);
        }
    }

    fn collect(&mut self) {
        let outcome = self.scheduler.take_outcome();
        for record in outcome.changed.iter().filter(|record| record.state.is_final()) {
            self.history.ended(&record.id, record.state);
        }
        self.pending.batch.records.extend(outcome.changed);
        self.pending.effects.extend(outcome.effects);
    }

    /// What becomes of a step that cannot be committed. No assignment is kept for later: its lease would run out, and its
    /// decision grow old, before it leaves. What tells runners that the router lives, or that their stream is over, does not
    /// wait: runners that hear nothing kill their jobs.
    fn hold(&mut self, now: Now) {
        self.scheduler.pause();
        for effect in std::mem::take(&mut self.pending.effects) {
            match effect {
                Effect::Order(_, RunnerOrder::Assign { job, lease, .. }) => self.scheduler.take_back(&job, lease, now),
                Effect::Order(_, RunnerOrder::Heartbeat | RunnerOrder::Drain) | Effect::End(..) => {
                    self.perform(effect, now);
                }
                Effect::Order(session, _) if !self.may_hold(session) => {
                    tracing::warn!("a runner has too many answers to wait for; it is detached");
                    self.outboxes.remove(&session);
                    self.scheduler.detach(session, now);
                }
                effect => self.pending.held.push(effect),
            }
        }
        self.collect();
    }

    /// Counts an order that waits for the store; `false` when there are too many of its stream.
    fn may_hold(&mut self, session: Session) -> bool {
        let held = self.pending.held_orders.entry(session).or_default();
        *held += 1;
        *held <= MOST_HELD
    }

    fn commit(&mut self, now: Now) -> bool {
        if self.retry_at.is_some_and(|retry| now.tick < retry) {
            return false;
        }
        if self.pending.batch.is_empty() {
            // What leaves now may rest on what is not written yet.
            return *self.store_ok.borrow();
        }
        match self.store.commit(&self.pending.batch) {
            Ok(_) => {
                self.retry_at = None;
                if !self.store_ok.send_replace(true) {
                    tracing::info!("the store can write again");
                }
                true
            }
            Err(error) => {
                self.retry_at = Some(now.tick + STORE_RETRY);
                if self.store_ok.send_replace(false) {
                    tracing::error!(%error, "nothing is delivered until the store can write");
                }
                false
            }
        }
    }

    fn perform(&mut self, effect: Effect, now: Now) {
        match effect {
            Effect::Ask { job, admission } => self.ask(&job, admission, None),
            Effect::AskAboutRunner { job, admission, runner } => self.ask(&job, admission, Some(runner)),
            Effect::Order(session, order) => {
                let Some(outbox) = self.outboxes.get(&session) else { return };
                if let Err(error) = outbox.try_send(order) {
                    tracing::warn!(%error, "a runner does not read its stream; it is detached");
                    self.outboxes.remove(&session);
                    self.scheduler.detach(session, now);
                }
            }
            Effect::End(session, error) => {
                if let Some(outbox) = self.outboxes.remove(&session) {
                    // If it does not even read this, the end of the channel tells it.
                    let _ = outbox.try_send(RunnerOrder::End(error));
                }
            }
        }
    }
}

impl Runners {
    /// Those of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        if config.is_trial() { Self::Any } else { Self::Configured(config.runners.clone()) }
    }

    fn configured(&self) -> &[Arc<RunnerConfig>] {
        match self {
            Self::Any => &[],
            Self::Configured(runners) => runners,
        }
    }

    fn contains(&self, runner: &Arc<RunnerConfig>) -> bool {
        matches!(self, Self::Any) || self.configured().contains(runner)
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.held.is_empty() && self.effects.is_empty() && self.replies.is_empty()
    }
}
