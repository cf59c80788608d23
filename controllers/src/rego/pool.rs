//! The evaluation threads of one policy. A policy that does not stop costs its own thread, never the caller's runtime.

use std::{
    collections::{HashMap, VecDeque},
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jobgate_sdk::{AdmissionRequest, FailureCause, Verdict};
use tokio::sync::oneshot;

use super::{decide::Decider, replica::Recipe};

/// Threads that evaluate one policy, and the questions that wait for them.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    policy: Arc<Recipe>,
    budget: Duration,
    workers: usize,
    state: Mutex<State>,
    wake: Condvar,
    /// Questions handed over so far: what a thread that looks out looks at.
    handed_over: AtomicU64,
    overdue: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Task>,
    /// Threads that take questions, by number, and since when each is at one.
    working: HashMap<u64, Option<Instant>>,
    /// Threads that were given up and have not come back.
    lost: usize,
    /// A thread is looking out for a question before it goes to sleep; nobody has to wake it.
    looking_out: bool,
    born: u64,
    closed: bool,
}

#[derive(Debug)]
struct Task {
    request: AdmissionRequest,
    started: Arc<OnceLock<Instant>>,
    reply: oneshot::Sender<Verdict>,
}

/// Questions that may wait for one policy. More than this and the policy is not keeping up: better said than queued.
const QUEUE: usize = 1024;

/// What an evaluation may overrun its budget by before its thread is given up: the engine looks at the clock between
/// steps, and a builtin, or a machine that stands still, can make one step long.
const GRACE: Duration = Duration::from_millis(250);

/// Threads given up and not back at once; with more, the policy only fails, and costs nothing more.
const LOST: usize = 4;

/// How long a thread stays awake after a question. Questions come in bursts, and waking a thread costs more than deciding.
const LOOK_OUT: Duration = Duration::from_micros(20);

/// Address space, not memory. Policies are held to a nesting that fits several times over; see `source`.
const STACK: usize = 64 << 20;

/// Does on a stack as deep as those of evaluation what would not fit on just any. A panic comes back as its message.
pub(crate) fn deep<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("jobgate-rego-load".into()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work).map_err(|error| error.to_string())?;
        thread.join().map_err(|_| "it panicked".to_owned())
    })
}

impl Pool {
    pub(crate) fn start(policy: Arc<Recipe>, budget: Duration, workers: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            policy,
            budget,
            workers: workers.max(1),
            state: Mutex::default(),
            wake: Condvar::new(),
            handed_over: AtomicU64::new(0),
            overdue: AtomicU64::new(0),
        });
        let pool = Self { shared };
        let mut state = pool.shared.state();
        for _ in 0..pool.shared.workers {
            pool.shared.spawn(&mut state)?;
        }
        drop(state);
        Ok(pool)
    }

    /// Evaluations that did not stop in time and lost their thread, since the start.
    pub(crate) fn overdue(&self) -> u64 {
        self.shared.overdue.load(Ordering::Relaxed)
    }

    /// Decides about one job. Completes within the time left, whatever the policy does.
    pub(crate) async fn decide(&self, request: &AdmissionRequest) -> Verdict {
        let asked = Instant::now();
        let over = asked + request.time_left().min(Duration::from_secs(3600));
        let started = Arc::new(OnceLock::new());
        let (reply, mut answer) = oneshot::channel();
        if let Err(why) = self.shared.submit(Task { request: request.clone(), started: started.clone(), reply }) {
            return Verdict::fail(why);
        }
        let patience = self.shared.budget + GRACE;
        let mut look = asked + patience;
        loop {
            let until = look.min(over).saturating_duration_since(Instant::now());
            if let Ok(answer) = tokio::time::timeout(until, &mut answer).await {
                return answer.unwrap_or_else(|_| Verdict::failed(FailureCause::Panic, "the evaluation thread died"));
            }
            // The runtime's clock may be a simulated one; evaluation runs on the real one, so that one is asked.
            let now = Instant::now();
            if now >= over {
                return Verdict::failed(
                    FailureCause::NoTimeLeft,
                    "the time left was over before the policy had decided",
                );
            }
            match started.get() {
                Some(since) if now >= *since + patience => {
                    self.shared.replace_overdue(now);
                    return Verdict::fail(format!(
                        "the evaluation did not stop within its budget of {:?}; its thread was given up",
                        self.shared.budget
                    ));
                }
                Some(since) => look = *since + patience,
                None if now >= look => {
                    self.shared.replace_overdue(now);
                    look = now + patience;
                }
                None => {}
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        drop(state);
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; if something did, the state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Self>, task: Task) -> Result<(), String> {
        let mut state = self.state();
        if state.waiting.len() >= QUEUE {
            state.waiting.retain(|task| !task.reply.is_closed());
        }
        if state.working.is_empty() {
            return Err(format!("{} evaluations of this policy have not stopped", state.lost));
        }
        if state.waiting.len() >= QUEUE {
            return Err(format!("{QUEUE} questions are waiting for this policy already"));
        }
        state.waiting.push_back(task);
        self.handed_over.fetch_add(1, Ordering::Release);
        // The thread that looks out takes one question; the next one wakes another thread.
        let somebody_sees_it = std::mem::take(&mut state.looking_out);
        drop(state);
        if !somebody_sees_it {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Gives up threads that are past all patience, and starts others in their place.
    fn replace_overdue(self: &Arc<Self>, now: Instant) {
        let patience = self.budget + GRACE;
        let mut state = self.state();
        let before = state.working.len();
        state.working.retain(|_, since| since.is_none_or(|since| now < since + patience));
        let given_up = before - state.working.len();
        state.lost += given_up;
        self.overdue.fetch_add(given_up as u64, Ordering::Relaxed);
        while state.working.len() < self.workers && state.lost <= LOST && !state.closed {
            if let Err(error) = self.spawn(&mut state) {
                tracing::error!(%error, "no thread to evaluate a policy on");
                break;
            }
        }
        if given_up > 0 {
            tracing::warn!(given_up, lost = state.lost, "evaluations of a policy did not stop within their budget");
        }
    }

    fn spawn(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let number = state.born;
        let shared = self.clone();
        thread::Builder::new().name("jobgate-rego".into()).stack_size(STACK).spawn(move || shared.work(number))?;
        state.born += 1;
        state.working.insert(number, None);
        Ok(())
    }

    fn work(self: Arc<Self>, number: u64) {
        let mut decider = Decider::new(self.policy.clone(), self.budget);
        while let Some(task) = self.next(number) {
            let verdict = panic::catch_unwind(AssertUnwindSafe(|| decider.decide(&task.request)));
            let verdict = verdict.unwrap_or_else(|_| {
                decider = Decider::new(self.policy.clone(), self.budget);
                Verdict::failed(FailureCause::Panic, "the evaluation panicked")
            });
            // Nobody may be waiting any more; then nobody wants it.
            let _ = task.reply.send(verdict);
            decider.tidy();
        }
    }

    /// The next question; `None` when this thread is no longer wanted.
    fn next(&self, number: u64) -> Option<Task> {
        let mut state = self.state();
        let mut rested = false;
        match state.working.get_mut(&number) {
            Some(since) => *since = None,
            // Given up, but back after all.
            None => {
                state.lost = state.lost.saturating_sub(1);
                if state.working.len() >= self.workers {
                    return None;
                }
                state.working.insert(number, None);
            }
        }
        loop {
            while let Some(task) = state.waiting.pop_front() {
                if task.reply.is_closed() {
                    continue;
                }
                let now = Instant::now();
                state.working.insert(number, Some(now));
                let _ = task.started.set(now);
                return Some(task);
            }
            if state.closed {
                return None;
            }
            if !rested && !state.looking_out && self.workers > 1 {
                rested = true;
                state.looking_out = true;
                let seen = self.handed_over.load(Ordering::Acquire);
                drop(state);
                self.look_out(seen);
                state = self.state();
                // If a question came, whoever handed it over has cleared this already, and another thread may look out.
                if self.handed_over.load(Ordering::Acquire) == seen {
                    state.looking_out = false;
                }
                continue;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits awake for the next question, for about as long as waking up would take.
    fn look_out(&self, seen: u64) {
        let begun = Instant::now();
        while self.handed_over.load(Ordering::Acquire) == seen && begun.elapsed() < LOOK_OUT {
            for _ in 0..32 {
                std::hint::spin_loop();
            }
        }
    }
}
