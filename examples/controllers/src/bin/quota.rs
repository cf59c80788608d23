//! cargo run -p jobgate-examples --bin quota
//!
//! Shared state and back-pressure: a project gets so many jobs an hour. A question may be asked again and must get the same
//! answer, so jobs are counted by their id, and by the question's own time, never by a clock here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use jobgate_sdk::{AdmissionRequest, Controller, ServeError, Verdict, async_trait, serve};

const HOUR: Duration = Duration::from_secs(3600);

/// Admits so many jobs of each project in an hour.
pub struct Quota {
    limit: usize,
    admitted: Mutex<HashMap<String, BTreeMap<String, SystemTime>>>,
}

impl Quota {
    /// At most this many jobs.
    pub fn new(limit: usize) -> Self {
        Self { limit, admitted: Mutex::default() }
    }
}

#[async_trait]
impl Controller for Quota {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        let (project, job, now) = (&request.project().path, &request.job().id, request.time());
        // Held for a moment, and never across an `await`.
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = admitted.entry(project.clone()).or_default();
        jobs.retain(|_, then| now.duration_since(*then).unwrap_or_default() < HOUR);
        if jobs.len() >= self.limit && !jobs.contains_key(job) {
            return Verdict::reject(format!("{project} has had its {} jobs of this hour", self.limit)).rule("quota");
        }
        jobs.entry(job.clone()).or_insert(now);
        Verdict::admit()
    }
}

#[tokio::main]
async fn main() -> Result<(), ServeError> {
    let listen = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:7501".into());
    serve(Quota::new(100)).max_in_flight(16).listen(listen).with_shutdown(tokio::signal::ctrl_c()).await
}
