//! What submitters and runners have seen, from outside.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

#[derive(Default)]
pub struct Ledger {
    /// Acknowledged jobs, and whether policy forbids them.
    acknowledged: Mutex<HashMap<String, bool>>,
    /// Who works on a job at present: runner and lease.
    held: Mutex<HashMap<String, (usize, u64)>>,
    pub counts: Counts,
    events: watch::Sender<usize>,
}

#[derive(Default)]
pub struct Counts {
    pub assigned: AtomicUsize,
    pub twice_at_once: AtomicUsize,
    pub unadmitted: AtomicUsize,
}

impl Ledger {
    pub fn acknowledge(&self, ids: impl IntoIterator<Item = (String, bool)>) {
        self.acknowledged.lock().unwrap().extend(ids);
        self.events.send_modify(|events| *events += 1);
    }

    pub fn acknowledged(&self) -> HashMap<String, bool> {
        self.acknowledged.lock().unwrap().clone()
    }

    /// A runner gets a job, and works on it until [`Ledger::released`].
    pub fn assigned(&self, job: &str, runner: usize, lease: u64, forbidden: bool) {
        self.counts.assigned.fetch_add(1, Ordering::SeqCst);
        if forbidden {
            self.counts.unadmitted.fetch_add(1, Ordering::SeqCst);
        }
        if let Some(other) = self.held.lock().unwrap().insert(job.to_owned(), (runner, lease)) {
            eprintln!("job {job} is with {other:?} and goes to {runner} under lease {lease}");
            self.counts.twice_at_once.fetch_add(1, Ordering::SeqCst);
        }
        self.events.send_modify(|events| *events += 1);
    }

    /// A runner works on a job no more.
    pub fn released(&self, job: &str, runner: usize, lease: u64) {
        let mut held = self.held.lock().unwrap();
        if held.get(job) == Some(&(runner, lease)) {
            held.remove(job);
        }
    }

    pub fn events(&self) -> usize {
        *self.events.borrow()
    }

    /// Waits until so many things have happened.
    pub async fn reaches(&self, events: usize) {
        let mut all = self.events.subscribe();
        all.wait_for(|now| *now >= events).await.unwrap();
    }
}
