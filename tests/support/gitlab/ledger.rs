//! What a test does to jobs, and what it sees of them.

use super::{
    GitLab,
    documents::JobDocument,
    jobs::{Job, Status},
    shared::State,
};

impl GitLab {
    /// A job for whoever asks first.
    pub fn enqueue(&self, document: JobDocument) -> u64 {
        self.enqueue_for(None, document)
    }

    /// A job for one runner only.
    pub fn enqueue_for(&self, runner: Option<&str>, document: JobDocument) -> u64 {
        self.shared.write(|state| {
            let id = document.id;
            let before = state.jobs.insert(id, Job::new(document, runner));
            assert!(before.is_none(), "job {id} twice");
            state.queue.push_back(id);
            state.queue_changed(runner);
            id
        })
    }

    /// A user's cancel, at any moment. True when the job was not over.
    pub fn cancel(&self, id: u64) -> bool {
        self.end(id, |job| job.status = Status::Canceled)
    }

    /// A cancel that lets `after_script` run, if the manager said at the request that it can (facts 7.27).
    pub fn cancel_gracefully(&self, id: u64) -> bool {
        self.end(id, |job| {
            let can = job.assignments.last().is_some_and(|to| to.has_feature("cancel_gracefully"));
            job.status = if can && job.status == Status::Running { Status::Canceling } else { Status::Canceled };
        })
    }

    /// Two minutes without an acknowledgement (facts 5.1). GitLab then retries with a new job, which a test may enqueue.
    pub fn expire_ack(&self, id: u64) -> bool {
        self.end(id, |job| {
            if job.status == Status::Pending {
                job.drop_with("runner_provisioning_timeout");
            }
        })
    }

    fn end(&self, id: u64, end: impl FnOnce(&mut Job)) -> bool {
        self.shared.write(|state| {
            let job = state.jobs.get_mut(&id).expect("a job that was enqueued");
            let (lasting, runner) = (!job.status.is_final(), job.runner.clone());
            if lasting {
                end(job);
                let queued = state.queue.len();
                state.queue.retain(|other| *other != id);
                if state.queue.len() != queued {
                    state.queue_changed(runner.as_deref());
                }
            }
            lasting
        })
    }

    pub fn job(&self, id: u64) -> Job {
        self.shared.read(|state| state.jobs[&id].clone())
    }

    pub fn queued(&self) -> usize {
        self.shared.read(|state| state.queue.len())
    }

    /// Waits until a job is as wanted.
    pub async fn job_until(&self, id: u64, wanted: impl Fn(&Job) -> bool) -> Job {
        let look = |state: &State| state.jobs.get(&id).filter(|job| wanted(job)).cloned();
        self.shared.until(&format!("job {id} as wanted"), look).await
    }

    /// Waits until a job is over.
    pub async fn ended(&self, id: u64) -> Job {
        self.job_until(id, |job| job.status.is_final()).await
    }

    /// All jobs, by id.
    pub fn ledger(&self) -> Vec<Job> {
        self.shared.read(|state| state.jobs.values().cloned().collect())
    }

    /// Waits until every job that was ever assigned is over, and none is left in the queue.
    pub async fn all_ended(&self) -> Vec<Job> {
        let over = |state: &State| state.jobs.values().all(|job| job.status.is_final()).then_some(());
        self.shared.until("the end of all jobs", over).await;
        self.ledger()
    }

    /// The same, but jobs may be left in the queue.
    pub async fn all_assigned_ended(&self) -> Vec<Job> {
        let over = |job: &Job| job.status.is_final() || job.status == Status::Queued;
        let all = |state: &State| state.jobs.values().all(over).then_some(());
        self.shared.until("the end of all assigned jobs", all).await;
        self.ledger()
    }
}
