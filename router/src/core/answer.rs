//! Questions about jobs and runners, and new jobs. Looking changes nothing, but what is seen must be committed: answers wait
//! for the step, too.

use std::{collections::BTreeMap, sync::Arc};

use super::Core;
use crate::{
    decision::Decision,
    handle::{Command, CoreError, IdempotencyKey, JobDetails, JobFilter, JobPage, Reply},
    job::{JobId, JobRecord, JobState, NewJob},
    scheduler::Now,
    store::{Archive, StoreError, Submission},
};

impl Core {
    pub(super) fn submit(
        &mut self,
        jobs: Vec<NewJob>,
        key: Option<IdempotencyKey>,
        reply: Reply<Vec<(JobId, JobState)>>,
        now: Now,
    ) {
        let result = match key.as_ref().and_then(|key| self.history.repeated(key, now)) {
            Some(Err(error)) => Err(error),
            Some(Ok(ids)) => Ok(self.states(ids)),
            None => self.scheduler.submit(self.classed(jobs), now),
        };
        if let (Ok(jobs), Some(key)) = (&result, key) {
            let jobs = jobs.iter().map(|(id, _)| id.clone()).collect();
            let submission = Submission { key, jobs, time: now.wall };
            if self.history.submitted(submission.clone(), now) {
                self.pending.batch.submissions.push(submission);
            }
        }
        self.reply(reply, result);
    }

    fn classed(&self, mut jobs: Vec<NewJob>) -> Vec<NewJob> {
        for job in &mut jobs {
            job.priority = crate::priority::class_of(&self.priorities, job);
        }
        jobs
    }

    pub(super) fn answer(&mut self, question: Command, now: Now) {
        match question {
            Command::Job(id, reply) => match self.scheduler.job(&id).map(|job| job.record.clone()) {
                Some(found) => self.reply(reply, Ok(found)),
                None => self.read_back(reply, move |archive| {
                    let found = archive.finished(&id)?;
                    Ok(found.map(|(record, _)| Arc::new(record)).ok_or(CoreError::NoSuchJob(id)))
                }),
            },
            Command::Explain(id, reply) => match self.scheduler.explain(&id, now) {
                Some(found) => self.reply(reply, Ok(found)),
                None => self.read_back(reply, move |archive| {
                    let found = archive.finished(&id)?;
                    let details = found.map(|(job, events)| JobDetails { job: Arc::new(job), events, waits: None });
                    Ok(details.ok_or(CoreError::NoSuchJob(id)))
                }),
            },
            Command::List(filter, reply) => self.list(filter, reply),
            Command::Decisions(job, limit, reply) => self.decisions(job, limit, reply),
            Command::Runners(reply) => {
                let runners = self.scheduler.runners();
                self.reply(reply, Ok(runners));
            }
            Command::Queue(reply) => {
                let queue = self.scheduler.queue(now);
                self.reply(reply, Ok(queue));
            }
            // The others are no questions.
            _ => {}
        }
    }

    /// A page of what is in memory and of what the store has of jobs that are over.
    fn list(&mut self, filter: JobFilter, reply: Reply<JobPage>) {
        let page = self.scheduler.list(&filter);
        match self.archive {
            Some(_) => self.read_back(reply, move |archive| merged(archive, page, &filter).map(Ok)),
            None => self.reply(reply, Ok(page)),
        }
    }

    fn decisions(&mut self, job: Option<JobId>, limit: usize, reply: Reply<Vec<Arc<Decision>>>) {
        let found = self.history.decisions(job.as_ref(), limit);
        match job {
            Some(job) if found.is_empty() || self.scheduler.job(&job).is_none() => {
                self.read_back_or(reply, found, move |archive| {
                    Ok(archive.decisions(&job, limit)?.into_iter().map(Arc::new).collect())
                });
            }
            _ => self.reply(reply, Ok(found)),
        }
    }

    /// Answers from the store, on another thread: it may have to read.
    fn read_back<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        read: impl FnOnce(&dyn Archive) -> Result<Result<T, CoreError>, StoreError> + Send + 'static,
    ) {
        let Some(archive) = self.archive.clone() else {
            let answer = read(&Nothing).unwrap_or(Err(CoreError::StoreUnavailable));
            return self.reply(reply, answer);
        };
        let runtime = self.runtime.clone();
        self.pending.replies.push(Box::new(move || {
            runtime.spawn_blocking(move || {
                let answer = read(&*archive).unwrap_or_else(|error| {
                    tracing::error!(%error, "what is over cannot be read back");
                    Err(CoreError::StoreUnavailable)
                });
                let _ = reply.send(answer);
            });
        }));
    }

    fn read_back_or<T: Send + 'static>(
        &mut self,
        reply: Reply<T>,
        otherwise: T,
        read: impl FnOnce(&dyn Archive) -> Result<T, StoreError> + Send + 'static,
    ) {
        match self.archive {
            Some(_) => self.read_back(reply, move |archive| read(archive).map(Ok)),
            None => self.reply(reply, Ok(otherwise)),
        }
    }

    pub(super) fn reply<T: Send + 'static>(&mut self, to: Reply<T>, answer: Result<T, CoreError>) {
        // Who does not wait any more needs no answer.
        self.pending.replies.push(Box::new(move || drop(to.send(answer))));
    }

    fn states(&self, ids: Vec<JobId>) -> Vec<(JobId, JobState)> {
        let archived = |id: &JobId| -> Option<JobState> { Some(self.archive.as_ref()?.finished(id).ok()??.0.state) };
        let state = |id: &JobId| {
            let present = self.scheduler.job(id).map(|job| job.record.state);
            // The scheduler forgets only what is finished, and how it ended was noted then.
            present.or_else(|| self.history.end_of(id)).or_else(|| archived(id)).unwrap_or(JobState::Dropped)
        };
        ids.into_iter().map(|id| (id.clone(), state(&id))).collect()
    }
}

/// Jobs that are over and looked at for one page: so many at once, so often.
const LOOK: usize = 1000;
const LOOKS: usize = 10;

/// A page of both, newest first. Where one of them was not looked at to its end, the page ends there, and the next goes on.
fn merged(archive: &dyn Archive, held: JobPage, filter: &JobFilter) -> Result<JobPage, StoreError> {
    let mut jobs: BTreeMap<JobId, Arc<JobRecord>> = BTreeMap::new();
    let (mut before, mut found) = (filter.before.clone(), 0);
    let mut reached = None;
    for _ in 0..LOOKS {
        let records = archive.list_finished(before.as_ref(), LOOK)?;
        let Some(last) = records.last() else {
            reached = None;
            break;
        };
        reached = Some(last.id.clone());
        before.clone_from(&reached);
        for record in records.into_iter().filter(|record| filter.fits(record)) {
            found += 1;
            jobs.insert(record.id.clone(), Arc::new(record));
        }
        if found > filter.limit {
            break;
        }
    }
    jobs.extend(held.jobs.into_iter().map(|record| (record.id.clone(), record)));
    let mut next = reached.max(held.next);
    if let Some(next) = &next {
        jobs.retain(|id, _| id >= next);
    }
    let mut jobs: Vec<_> = jobs.into_values().rev().collect();
    if jobs.len() > filter.limit {
        jobs.truncate(filter.limit);
        next = jobs.last().map(|record| record.id.clone());
    }
    Ok(JobPage { jobs, next })
}

/// The archive of a store that keeps nothing.
struct Nothing;

impl Archive for Nothing {
    fn document(&self, _: crate::store::DocumentRef) -> Result<bytes::Bytes, StoreError> {
        Err(StoreError::new("this store keeps no documents"))
    }

    fn finished(&self, _: &JobId) -> Result<Option<(JobRecord, Vec<crate::handle::JobEvent>)>, StoreError> {
        Ok(None)
    }

    fn list_finished(&self, _: Option<&JobId>, _: usize) -> Result<Vec<JobRecord>, StoreError> {
        Ok(Vec::new())
    }

    fn decisions(&self, _: &JobId, _: usize) -> Result<Vec<Decision>, StoreError> {
        Ok(Vec::new())
    }
}
