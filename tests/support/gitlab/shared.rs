//! What all calls share, and how a test waits for a change of it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Mutex,
};

use tokio::sync::watch;

use super::{
    answers::Answer,
    artifacts::Artifact,
    calls::{Call, Endpoint},
    jobs::Job,
    patiently,
    runners::Runner,
    settings::Settings,
};

pub(super) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

pub(super) struct State {
    pub(super) settings: Settings,
    pub(super) runners: BTreeMap<String, Runner>,
    pub(super) jobs: BTreeMap<u64, Job>,
    pub(super) queue: VecDeque<u64>,
    pub(super) artifacts: HashMap<u64, Artifact>,
    pub(super) calls: Vec<Call>,
    pub(super) counts: HashMap<Endpoint, usize>,
    pub(super) scripts: HashMap<Endpoint, VecDeque<Answer>>,
    pub(super) outage: Option<u16>,
    /// Requests held at present.
    pub(super) held: usize,
    pub(super) next_runner: u64,
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        let state = State {
            settings,
            runners: BTreeMap::new(),
            jobs: BTreeMap::new(),
            queue: VecDeque::new(),
            artifacts: HashMap::new(),
            calls: Vec::new(),
            counts: HashMap::new(),
            scripts: HashMap::new(),
            outage: None,
            held: 0,
            next_runner: 1,
        };
        Self { state: Mutex::new(state), changed: watch::Sender::new(()) }
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap())
    }

    pub(super) fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap());
        self.changed.send_replace(());
        result
    }

    /// Waits until there is something to see.
    pub(super) async fn until<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let looking = async {
            loop {
                if let Some(seen) = self.read(&look) {
                    return seen;
                }
                changed.changed().await.unwrap();
            }
        };
        patiently(what, looking).await
    }
}
