use std::{
    collections::{BTreeSet, HashMap},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use jobgate_proto::admission::v1::{AdmitResponse, Withdrawn, router_message::Message};
use jobgate_sdk::{AdmissionRequest, Controller, FailureCause, Verdict, async_trait};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tonic::Status;

use super::word::{Question, Word};

/// Most instances of one controller.
pub(crate) const MOST_INSTANCES: usize = 64;

/// A controller that dials in, once or several times; questions are spread over those that are there.
pub(crate) struct Attached {
    instances: Mutex<Vec<Arc<Instance>>>,
    /// The policy versions its instances decide by; absent ones have none.
    versions: watch::Sender<BTreeSet<Arc<str>>>,
    next: AtomicU64,
    /// Where looking for the next instance begins: equals take turns.
    turn: AtomicUsize,
    room_made: Arc<Notify>,
}

/// What goes out on a stream; an error ends it.
pub(super) type Outgoing = Result<Word, Status>;

/// One attached stream.
pub(crate) struct Instance {
    number: u64,
    outgoing: mpsc::Sender<Outgoing>,
    /// Says that there may be room again.
    room_made: Arc<Notify>,
    /// Says that a question was closed.
    ended: Notify,
    /// Most open questions at once.
    room: usize,
    open: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Open questions, by id. Dropping a sender tells who waits that the instance is gone.
    questions: HashMap<Arc<str>, oneshot::Sender<AdmitResponse>>,
    version: Option<Arc<str>>,
    draining: bool,
    closed: bool,
}

/// Who may be asked next.
enum Pick {
    One(Open, oneshot::Receiver<AdmitResponse>),
    /// There are instances, but none has room.
    Busy,
    Nobody,
}

/// What became of one question at one instance.
enum Asked {
    Answered(AdmitResponse),
    /// The instance went away with it.
    Gone,
}

impl Attached {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            instances: Mutex::default(),
            versions: watch::Sender::new(BTreeSet::new()),
            next: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            room_made: Arc::default(),
        })
    }

    /// The policy versions of its instances, as they change.
    pub(crate) fn versions(&self) -> watch::Receiver<BTreeSet<Arc<str>>> {
        self.versions.subscribe()
    }

    /// How many instances are there.
    pub(crate) fn count(&self) -> usize {
        lock(&self.instances).len()
    }

    /// A stream begins; `None` when there are too many.
    pub(super) fn join(
        &self,
        outgoing: mpsc::Sender<Outgoing>,
        room: usize,
        version: Option<Arc<str>>,
    ) -> Option<Arc<Instance>> {
        let mut instances = lock(&self.instances);
        if instances.len() >= MOST_INSTANCES {
            return None;
        }
        let instance = Arc::new(Instance {
            number: self.next.fetch_add(1, Ordering::Relaxed),
            outgoing,
            room_made: self.room_made.clone(),
            ended: Notify::new(),
            room,
            open: AtomicUsize::new(0),
            state: Mutex::new(State { version, ..State::default() }),
        });
        instances.push(instance.clone());
        self.publish(&instances);
        self.room_made.notify_waiters();
        Some(instance)
    }

    /// A stream ended; its open questions are asked elsewhere.
    pub(crate) fn leave(&self, instance: &Instance) {
        let mut instances = lock(&self.instances);
        instances.retain(|other| other.number != instance.number);
        let mut state = lock(&instance.state);
        state.closed = true;
        state.questions.clear();
        drop(state);
        self.publish(&instances);
        // Who waits for room here must look elsewhere.
        self.room_made.notify_waiters();
    }

    /// An instance decides by another policy version.
    pub(crate) fn policy_changed(&self, instance: &Instance, version: Option<Arc<str>>) {
        let instances = lock(&self.instances);
        lock(&instance.state).version = version;
        self.publish(&instances);
    }

    fn publish(&self, instances: &[Arc<Instance>]) {
        let versions: BTreeSet<_> =
            instances.iter().filter_map(|instance| lock(&instance.state).version.clone()).collect();
        // An absent controller keeps its last known version, so that its coming back does not make every decision stale.
        if instances.is_empty() {
            return;
        }
        self.versions.send_if_modified(|known| {
            let changed = *known != versions;
            *known = versions;
            changed
        });
    }

    /// Opens a question at the instance with the fewest open ones that has room and was not tried yet.
    fn pick(&self, tried: &[u64], question: &Arc<str>) -> Pick {
        // Held until the question is open, so that all who look at once see the room that is really there.
        let instances = lock(&self.instances);
        let mut best: Option<(&Arc<Instance>, usize)> = None;
        let mut busy = false;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % instances.len().max(1);
        let (later, first) = instances.split_at(turn);
        for instance in first.iter().chain(later).filter(|instance| !tried.contains(&instance.number)) {
            if lock(&instance.state).draining {
                continue;
            }
            let open = instance.open.load(Ordering::Acquire);
            if open >= instance.room {
                busy = true;
            } else if best.is_none_or(|(_, least)| open < least) {
                best = Some((instance, open));
            }
        }
        let opened = best.and_then(|(instance, _)| Open::new(instance, question.clone()));
        match opened {
            Some((open, answer)) => Pick::One(open, answer),
            // The best one began to drain in this moment.
            None if busy || best.is_some() => Pick::Busy,
            None => Pick::Nobody,
        }
    }
}

#[async_trait]
impl Controller for Attached {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        let mut tried = Vec::new();
        loop {
            let mut picked = self.pick(&tried, &request.question().id);
            if matches!(picked, Pick::Busy) {
                // Again, as one who waits already: each question that ends wakes another who waits, and room made in between
                // is not missed. The time limit of the question ends this.
                let mut room_made = pin!(self.room_made.notified());
                room_made.as_mut().enable();
                picked = self.pick(&tried, &request.question().id);
                if matches!(picked, Pick::Busy) {
                    room_made.await;
                    continue;
                }
            }
            match picked {
                Pick::One(open, answer) => {
                    let number = open.instance.number;
                    match open.ask(answer, request).await {
                        Asked::Answered(response) => return response.into(),
                        Asked::Gone => tried.push(number),
                    }
                }
                Pick::Busy => {}
                Pick::Nobody if tried.is_empty() => {
                    return Verdict::failed(FailureCause::NotAttached, "no instance of it is attached");
                }
                Pick::Nobody => {
                    return Verdict::failed(
                        FailureCause::Unreachable,
                        "it broke the connection with the question open",
                    );
                }
            }
        }
    }
}

impl Instance {
    /// An answer came on this stream; `false` when no such question is open on it.
    pub(crate) fn answer(&self, response: AdmitResponse) -> bool {
        let waiting = lock(&self.state).questions.remove(response.id.as_str());
        // Who stopped waiting in this moment counts as late, too.
        waiting.is_some_and(|waiting| waiting.send(response).is_ok())
    }

    /// It takes no new questions.
    pub(crate) fn drain(&self) {
        lock(&self.state).draining = true;
        // Who waits for room here must look elsewhere.
        self.room_made.notify_waiters();
    }

    /// Ends when a question that was open is not any more.
    pub(crate) fn question_ended(&self) -> impl Future<Output = ()> + '_ {
        self.ended.notified()
    }

    /// Whether no question is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }
}

/// A question that is open at an instance. Dropped before its answer came, it is withdrawn.
struct Open {
    instance: Arc<Instance>,
    id: Arc<str>,
}

impl Open {
    fn new(instance: &Arc<Instance>, id: Arc<str>) -> Option<(Self, oneshot::Receiver<AdmitResponse>)> {
        let (waiting, answer) = oneshot::channel();
        let mut state = lock(&instance.state);
        if state.closed || state.draining {
            return None;
        }
        state.questions.insert(id.clone(), waiting);
        instance.open.fetch_add(1, Ordering::AcqRel);
        drop(state);
        Some((Self { instance: instance.clone(), id }, answer))
    }
}

impl Open {
    async fn ask(self, mut answer: oneshot::Receiver<AdmitResponse>, request: &AdmissionRequest) -> Asked {
        let question = Question::new(request, request.time_left());
        tokio::select! {
            // An instance that goes away answers nothing, even while its stream takes nothing.
            biased;
            answered = &mut answer => return answered.map_or(Asked::Gone, Asked::Answered),
            sent = self.instance.outgoing.send(Ok(Word::Ask(question))) => if sent.is_err() { return Asked::Gone },
        }
        answer.await.map_or(Asked::Gone, Asked::Answered)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let unanswered = lock(&self.instance.state).questions.remove(&self.id).is_some();
        self.instance.open.fetch_sub(1, Ordering::AcqRel);
        self.instance.room_made.notify_one();
        self.instance.ended.notify_one();
        if unanswered {
            let withdrawn = Withdrawn { id: self.id.to_string() };
            // A stream that is full or gone learns it by the time limit of the question.
            let _ = self.instance.outgoing.try_send(Ok(Word::Say(Message::Withdrawn(withdrawn))));
        }
    }
}

/// Locks; what a panic elsewhere left is still whole, as every change under these locks is one step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Attached {
    /// Ends the instance with the most open questions.
    pub(super) fn leave_busiest(&self) {
        let busiest =
            lock(&self.instances).iter().max_by_key(|instance| instance.open.load(Ordering::Acquire)).cloned();
        self.leave(&busiest.unwrap());
    }

    /// Open questions at all instances.
    pub(super) fn open(&self) -> usize {
        lock(&self.instances).iter().map(|instance| instance.open.load(Ordering::Acquire)).sum()
    }
}
