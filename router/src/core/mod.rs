//! The one task that owns jobs, runners and decisions: takes what is waiting, applies it to the state machine, commits, and
//! only then lets anything leave.

mod answer;
mod asking;
mod commit;
mod handouts;
mod history;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::handouts::{HandOutCommand, HandOutParts, Judged, Ruled};
use self::{asking::Question, commit::Pending, handouts::Desk, history::History};
use crate::{
    admission::{LateVerdict, Observer},
    chain::Chains,
    config::{Config, PriorityRule, RunnerConfig},
    decision::Decision,
    gitlab::{Names, Standing},
    handle::{Command, CoreError, Handle, RunnerOrder, Session},
    job::JobRecord,
    scheduler::{Decided, Limits, Now, Rules, Scheduler},
    store::{Archive, Restored, Store, StoreError},
};

/// Messages the task's inbox holds before senders wait.
const INBOX: usize = 4096;
/// Messages taken in one step, so that one commit serves many.
const STEP: usize = 1024;
/// Orders a runner's stream may lag behind, beyond one for each of its slots.
const ORDERS: usize = 64;
/// The clock begins here, so that what was before a restart has a place on it.
const BEGINNING: Duration = Duration::from_secs(400 * 24 * 3600);

/// What happens inside the router.
pub(crate) enum Event {
    /// An admission ended; the last says whether another one may begin for it.
    Decided(Decided, Box<Decision>, bool),
    /// An admission takes so long that another one may begin.
    Room,
    /// A dry-run verdict came late.
    Late(LateVerdict),
    /// A controller decides by these policy versions now.
    Versions { controller: Arc<str>, versions: BTreeSet<Arc<str>>, reads_runner: Option<bool> },
    /// The configuration changed.
    Reconfigured { chains: Chains, runners: Runners, settings: Settings, names: Names, admission_ttl: Duration },
}

/// Which runners may attach.
pub(crate) enum Runners {
    /// Any, in trial mode.
    Any,
    /// Those of the configuration.
    Configured(Vec<Arc<RunnerConfig>>),
}

/// What else of a configuration the task goes by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) rules: Rules,
    pub(crate) priorities: Arc<[PriorityRule]>,
}

/// What the task needs from outside.
pub(crate) struct Parts {
    pub(crate) chains: Chains,
    pub(crate) runners: Runners,
    pub(crate) settings: Settings,
    pub(crate) limits: Limits,
    pub(crate) store: Box<dyn Store>,
    pub(crate) restored: Restored,
    pub(crate) observer: Arc<dyn Observer>,
    /// Where it stands in front of a GitLab.
    pub(crate) handouts: Option<HandOutParts>,
    /// Where committed decisions are exported to.
    pub(crate) export: Export,
    /// A thread of its own, so that a sync of the disk holds up nobody's connection.
    pub(crate) own_thread: bool,
    /// The calendar.
    pub(crate) clock: Clock,
}

/// Tells the time by the calendar. It may jump: everything that waits goes by another clock.
pub(crate) type Clock = Box<dyn Fn() -> Timestamp + Send + Sync>;

/// Hears of every committed decision; must not block.
pub(crate) type Export = Box<dyn Fn(&Arc<Decision>) + Send>;

/// How the rest of the router reaches the task.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    pub(crate) events: mpsc::Sender<Event>,
    /// Chains and names in use. A decision under older ones is found stale when it would serve.
    pub(crate) standing: watch::Receiver<Standing>,
    /// Salt of the short hashes that runners of GitLab are known by.
    pub(crate) salt: [u8; 16],
    /// Whether the store can write.
    pub(crate) store_ok: watch::Receiver<bool>,
    /// Knows when no admission is open.
    pub(crate) open: TaskTracker,
    /// Ends the task.
    pub(crate) end: CancellationToken,
    /// The task; ends when it is told to, or when every handle is gone.
    pub(crate) task: tokio::task::JoinHandle<()>,
}

struct Core {
    scheduler: Scheduler,
    history: History,
    runners: Runners,
    priorities: Arc<[PriorityRule]>,
    store: Box<dyn Store>,
    archive: Option<Arc<dyn Archive>>,
    observer: Arc<dyn Observer>,
    export: Export,
    outboxes: HashMap<Session, mpsc::Sender<RunnerOrder>>,
    changes: broadcast::Sender<Arc<JobRecord>>,
    events: mpsc::WeakSender<Event>,
    /// Where admissions run.
    runtime: tokio::runtime::Handle,
    /// Admissions that have not begun, and how many may.
    questions: VecDeque<Question>,
    room: usize,
    open: TaskTracker,
    store_ok: watch::Sender<bool>,
    standing: watch::Sender<Standing>,
    /// What GitLab's runners are called.
    names: Names,
    /// Hand-outs of GitLab, where there is one.
    desk: Option<Desk>,
    began: Instant,
    clock: Clock,
    /// No new questions are asked.
    draining: Arc<AtomicBool>,
    /// What this step has to write, and what leaves once it is written.
    pending: Pending,
    /// When a store that could not write is tried again.
    retry_at: Option<Duration>,
}

/// Starts the task, with what the store held.
///
/// # Errors
///
/// When that makes no sense; nothing has been changed then.
pub(crate) fn start(parts: Parts) -> Result<Running, StoreError> {
    let (inbox, commands) = mpsc::channel(INBOX);
    let (events_in, events) = mpsc::channel(INBOX);
    let (changes, _) = broadcast::channel(INBOX);
    let (store_ok, store_state) = watch::channel(true);
    let names = parts.handouts.as_ref().map(|parts| parts.names.clone()).unwrap_or_default();
    let (standing, current) = watch::channel(Standing { chains: parts.chains.clone(), names: names.clone() });
    let mut core = Core {
        scheduler: Scheduler::new(parts.chains, parts.limits, parts.settings.rules),
        history: History::default(),
        runners: parts.runners,
        priorities: parts.settings.priorities,
        archive: parts.store.archive(),
        store: parts.store,
        observer: parts.observer,
        export: parts.export,
        outboxes: HashMap::new(),
        changes: changes.clone(),
        events: events_in.downgrade(),
        runtime: tokio::runtime::Handle::current(),
        questions: VecDeque::new(),
        room: asking::ADMISSIONS,
        open: TaskTracker::new(),
        store_ok,
        standing,
        names,
        desk: parts.handouts.map(Desk::new),
        began: Instant::now(),
        clock: parts.clock,
        draining: Arc::default(),
        pending: Pending::default(),
        retry_at: None,
    };
    let salt = core.restore(parts.restored)?;
    let (open, end) = (core.open.clone(), CancellationToken::new());
    let run = core.run(commands, events, end.clone());
    let task = match parts.own_thread {
        true => on_a_thread(run),
        false => tokio::spawn(run),
    };
    let handle = Handle { inbox, changes };
    Ok(Running { handle, events: events_in, standing: current, salt, store_ok: store_state, open, end, task })
}

/// Runs it on a thread that does nothing else.
fn on_a_thread(run: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_blocking(move || match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(run),
        Err(error) => tracing::error!(%error, "the thread of the task that owns the state cannot start"),
    })
}

impl Core {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::Receiver<Event>,
        end: CancellationToken,
    ) {
        let mut taken_commands = Vec::with_capacity(STEP);
        let mut taken_events = Vec::with_capacity(STEP);
        self.scheduler.begin(self.now());
        self.settle(self.now());
        loop {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = end.cancelled() => break,
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
            let now = self.now();
            for event in taken_events.drain(..) {
                self.event(event, now);
            }
            for command in taken_commands.drain(..) {
                self.command(command, now);
            }
            self.scheduler.tick(now);
            if let Some(desk) = &mut self.desk {
                desk.tick(now);
            }
            self.settle(now);
        }
        self.close_handouts(&mut commands);
    }

    /// Takes up what was kept, and gives the salt.
    fn restore(&mut self, mut restored: Restored) -> Result<[u8; 16], StoreError> {
        let now = self.now();
        let salt = self.desk.as_mut().map(|desk| desk.restore(&restored, now)).transpose()?;
        self.history.restore(std::mem::take(&mut restored.decisions), std::mem::take(&mut restored.submissions), now);
        self.scheduler.restore(restored, now)?;
        Ok(salt.unwrap_or_default())
    }

    fn now(&self) -> Now {
        // As exact as what is kept, so that a restart changes no time of a record.
        let wall = Timestamp::from_microsecond((self.clock)().as_microsecond());
        Now { tick: BEGINNING + self.began.elapsed(), wall: wall.unwrap_or(Timestamp::UNIX_EPOCH) }
    }

    /// When there is something to do though nobody says anything.
    fn wake_at(&self) -> Instant {
        let hour = BEGINNING + self.began.elapsed() + Duration::from_secs(3600);
        let handouts = self.desk.as_ref().and_then(|desk| desk.table().next_deadline());
        let deadline = self.scheduler.next_deadline().into_iter().chain(handouts).min().unwrap_or(hour);
        let deadline = self.retry_at.map_or(deadline, |retry| retry.min(deadline));
        self.began + deadline.saturating_sub(BEGINNING)
    }

    fn event(&mut self, event: Event, now: Now) {
        match event {
            Event::Decided(decided, decision, room) => {
                self.room += usize::from(room);
                self.decided(decided, *decision, now);
            }
            Event::Room => self.room += 1,
            Event::Late(late) => {
                if let Some(decision) = self.history.append(late) {
                    self.pending.batch.decisions.push(decision);
                }
            }
            Event::Versions { controller, versions, reads_runner } => {
                if let Some(chains) = self.scheduler.chains().with_versions(&controller, &versions, reads_runner) {
                    self.scheduler.set_chains(chains, now);
                    self.show_standing();
                }
            }
            Event::Reconfigured { chains, runners, settings, names, admission_ttl } => {
                let anybody = matches!(runners, Runners::Any);
                self.scheduler.reconfigure(chains, settings.rules, admission_ttl, anybody, now);
                self.names = names;
                self.show_standing();
                self.priorities = settings.priorities;
                self.runners = runners;
            }
        }
    }

    fn decided(&mut self, decided: Decided, decision: Decision, now: Now) {
        let decision = self.history.record(decision);
        self.pending.batch.decisions.push(decision);
        self.scheduler.decided(decided, now);
    }

    fn command(&mut self, command: Command, now: Now) {
        let open = *self.store_ok.borrow();
        let Some(command) = (if open { Some(command) } else { command.refuse(CoreError::StoreUnavailable) }) else {
            return;
        };
        match command {
            Command::Submit(jobs, key, reply) => self.submit(jobs, key, reply, now),
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
            Command::Operate(action, reply) => {
                let result = self.scheduler.operate(action, now);
                self.reply(reply, result);
            }
            Command::HandOut(command) => self.handout(command, now),
            question => self.answer(question, now),
        }
    }
}

impl Runners {
    /// Those of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        if config.is_trial() { Self::Any } else { Self::Configured(config.runners.clone()) }
    }

    fn contains(&self, runner: &Arc<RunnerConfig>) -> bool {
        match self {
            Self::Any => true,
            Self::Configured(runners) => runners.contains(runner),
        }
    }
}

impl Settings {
    /// Those of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let rules = Rules {
            runners: config.runners.clone(),
            groups: config.runner_groups.clone(),
            fairness: config.fairness.clone(),
            hold: config.spillover_hold,
        };
        Self { rules, priorities: config.priorities.clone() }
    }
}
