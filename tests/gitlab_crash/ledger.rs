//! What runners have seen, from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use tokio::sync::watch;

#[derive(Default)]
pub struct Ledger {
    /// Managers that were given a job, each time.
    given: Mutex<BTreeMap<u64, Vec<String>>>,
    /// Jobs whose runner died with them, without a word.
    dead: Mutex<BTreeSet<u64>>,
    /// Jobs that jobgate or GitLab ended in their runner.
    aborted: Mutex<BTreeSet<u64>>,
    events: watch::Sender<usize>,
}

impl Ledger {
    pub fn given(&self, job: u64, system_id: &str) {
        self.given.lock().unwrap().entry(job).or_default().push(system_id.to_owned());
        self.happened();
    }

    pub fn died_with(&self, job: u64) {
        self.dead.lock().unwrap().insert(job);
    }

    pub fn aborted(&self, job: u64) {
        self.aborted.lock().unwrap().insert(job);
    }

    /// To whom a job was given.
    pub fn managers(&self, job: u64) -> Vec<String> {
        self.given.lock().unwrap().get(&job).cloned().unwrap_or_default()
    }

    pub fn is_dead(&self, job: u64) -> bool {
        self.dead.lock().unwrap().contains(&job)
    }

    pub fn aborts(&self) -> Vec<u64> {
        self.aborted.lock().unwrap().iter().copied().collect()
    }

    /// An answer came, or a step of a job is done.
    pub fn happened(&self) {
        self.events.send_modify(|events| *events += 1);
    }

    pub fn events(&self) -> watch::Receiver<usize> {
        self.events.subscribe()
    }

    /// Waits until so many things have happened from now on.
    pub async fn more(&self, events: usize) {
        let mut all = self.events.subscribe();
        let enough = *all.borrow() + events;
        all.wait_for(|now| *now >= enough).await.unwrap();
    }
}
