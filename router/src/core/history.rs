use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    admission::LateVerdict,
    decision::Decision,
    handle::{CoreError, IdempotencyKey},
    job::{JobId, JobState},
    scheduler::Now,
    store::Submission,
};

/// Decisions kept for `jobgate decisions`; the export keeps them all.
const DECISIONS: usize = 20_000;
/// An idempotency key holds so long (design, section 7).
const KEY_LIFE: SignedDuration = SignedDuration::from_hours(24);
/// Idempotency keys kept at once.
const KEYS: usize = 100_000;

/// What was decided and submitted lately.
#[derive(Default)]
pub(super) struct History {
    next: u64,
    decisions: BTreeMap<u64, Arc<Decision>>,
    by_job: HashMap<JobId, Vec<u64>>,
    keys: HashMap<(Arc<str>, String), Known>,
    keys_in_order: VecDeque<(Timestamp, (Arc<str>, String))>,
    /// How the jobs of these keys ended: the scheduler forgets finished jobs before a key does.
    ends: HashMap<JobId, Option<JobState>>,
}

struct Known {
    digest: [u8; 32],
    jobs: Vec<JobId>,
    at: Timestamp,
}

impl History {
    /// Keeps a decision.
    pub(super) fn record(&mut self, decision: Decision) -> Arc<Decision> {
        let decision = Arc::new(decision);
        self.next += 1;
        self.decisions.insert(self.next, decision.clone());
        self.by_job.entry(decision.job_id.clone()).or_default().push(self.next);
        if self.decisions.len() > DECISIONS
            && let Some((number, oldest)) = self.decisions.pop_first()
            && let Some(numbers) = self.by_job.get_mut(&oldest.job_id)
        {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_job.remove(&oldest.job_id);
            }
        }
        decision
    }

    /// Adds a verdict that came after its decision.
    pub(super) fn append(&mut self, late: LateVerdict) -> Option<Arc<Decision>> {
        let numbers = self.by_job.get(&late.job)?;
        let number = *numbers.iter().rev().find(|number| {
            self.decisions.get(number).is_some_and(|decision| decision.admission_id == late.admission)
        })?;
        let decision = self.decisions.get_mut(&number)?;
        Arc::make_mut(decision).verdicts.push(late.verdict);
        Some(decision.clone())
    }

    /// Decisions about one job, or of all; newest first.
    pub(super) fn decisions(&self, job: Option<&JobId>, limit: usize) -> Vec<Arc<Decision>> {
        match job {
            Some(job) => {
                let numbers = self.by_job.get(job).map(Vec::as_slice).unwrap_or_default();
                numbers.iter().rev().filter_map(|number| self.decisions.get(number)).take(limit).cloned().collect()
            }
            None => self.decisions.values().rev().take(limit).cloned().collect(),
        }
    }

    /// The jobs that this key stands for already, or an error when it stands for other documents.
    pub(super) fn repeated(&self, key: &IdempotencyKey, now: Now) -> Option<Result<Vec<JobId>, CoreError>> {
        let known = self.keys.get(&(key.token.clone(), key.key.clone()))?;
        if is_over(known.at, now) {
            return None;
        }
        Some(if known.digest == key.digest { Ok(known.jobs.clone()) } else { Err(CoreError::KeyReused) })
    }

    /// A job came to this final state.
    pub(super) fn ended(&mut self, job: &JobId, state: JobState) {
        if let Some(end) = self.ends.get_mut(job) {
            *end = Some(state);
        }
    }

    /// How a job of a remembered key ended.
    pub(super) fn end_of(&self, job: &JobId) -> Option<JobState> {
        self.ends.get(job).copied().flatten()
    }

    /// Remembers a key; `false` when it was known.
    pub(super) fn submitted(&mut self, submission: Submission, now: Now) -> bool {
        let Submission { key, jobs, time } = submission;
        let name = (key.token, key.key);
        if self.keys.get(&name).is_some_and(|known| !is_over(known.at, now)) {
            return false;
        }
        while let Some((at, _)) = self.keys_in_order.front()
            && (is_over(*at, now) || self.keys_in_order.len() >= KEYS)
        {
            if let Some((at, oldest)) = self.keys_in_order.pop_front()
                && self.keys.get(&oldest).is_some_and(|known| known.at == at)
            {
                let jobs = self.keys.remove(&oldest).map(|known| known.jobs).unwrap_or_default();
                for job in jobs {
                    self.ends.remove(&job);
                }
            }
        }
        self.ends.extend(jobs.iter().map(|job| (job.clone(), None)));
        self.keys_in_order.push_back((time, name.clone()));
        self.keys.insert(name, Known { digest: key.digest, jobs, at: time });
        true
    }

    /// Takes up what a store held.
    pub(super) fn restore(&mut self, decisions: Vec<Decision>, submissions: Vec<Submission>, now: Now) {
        for decision in decisions {
            self.record(decision);
        }
        for submission in submissions {
            self.submitted(submission, now);
        }
    }
}

/// Whether a key has served its time. By the calendar, so that a restart does not matter; a clock that was set back keeps
/// it longer, which harms nobody.
fn is_over(at: Timestamp, now: Now) -> bool {
    now.wall.duration_since(at) > KEY_LIFE
}
