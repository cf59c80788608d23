//! A store as simple as can be, and histories to compare it with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use jobgate_proto::job::v1::JobState as State;

use super::simulated::Dice;
use crate::{
    decision::{Decision, Ruling},
    handle::IdempotencyKey,
    job::JobId,
    store::{Archive, Batch, JobRow, Restored, Submission, row::EventRow},
};

/// What a store must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    live: BTreeMap<String, JobRow>,
    over: BTreeMap<String, JobRow>,
    documents: BTreeMap<String, Bytes>,
    /// By job and admission, as JSON.
    decisions: BTreeMap<(String, String), String>,
    submissions: BTreeSet<String>,
    settings: BTreeMap<String, Vec<u8>>,
    lease: u64,
    sequence: u64,
}

impl Model {
    pub(super) fn apply(&mut self, batch: &Batch) {
        for (job, document) in &batch.documents {
            self.documents.insert(job.to_string(), document.clone());
        }
        for row in &batch.rows {
            let row = JobRow { document: None, ..row.clone() };
            self.lease = self.lease.max(row.lease.unwrap_or(0));
            self.sequence = self.sequence.max(row.sequence);
            if is_over(&row) {
                self.live.remove(&row.id);
                self.documents.remove(&row.id);
                self.over.insert(row.id.clone(), row);
            } else {
                self.live.insert(row.id.clone(), row);
            }
        }
        for decision in &batch.decisions {
            let key = (decision.job_id.to_string(), decision.admission_id.to_string());
            self.decisions.insert(key, serde_json::to_string(&**decision).unwrap());
        }
        self.submissions.extend(batch.submissions.iter().map(|one| format!("{one:?}")));
        for (key, value) in &batch.settings {
            match value {
                Some(value) => self.settings.insert(key.clone(), value.clone()),
                None => self.settings.remove(key),
            };
        }
    }

    /// What a store holds, read back in every way it can be. An error is a finding.
    pub(super) fn read(restored: &Restored, archive: &dyn Archive) -> Result<Self, String> {
        let mut model = Self::default();
        for row in &restored.jobs {
            if let Some(at) = row.document {
                let document = archive.document(at).map_err(|error| error.to_string())?;
                model.documents.insert(row.id.clone(), document);
            }
            let row = JobRow { document: None, ..row.clone() };
            if model.live.insert(row.id.clone(), row).is_some() {
                return Err("a job was restored twice".to_owned());
            }
        }
        for row in &restored.finished {
            let row = JobRow { document: None, ..row.clone() };
            let (record, events) = archive
                .finished(&JobId::new(row.id.as_str()))
                .map_err(|error| error.to_string())?
                .ok_or("a finished job is not in the archive")?;
            if format!("{record:?} {events:?}") != format!("{:?} {:?}", row.record().unwrap(), row.events()) {
                return Err(format!("the archive says something else about {}", row.id));
            }
            model.over.insert(row.id.clone(), row);
        }
        let listed = archive.list_finished(None, usize::MAX).map_err(|error| error.to_string())?;
        let listed: Vec<_> = listed.into_iter().map(|record| record.id.to_string()).collect();
        if listed != model.over.keys().rev().cloned().collect::<Vec<_>>() {
            return Err(format!("the archive lists {listed:?}, restored were {:?}", model.over.keys()));
        }
        for decision in &restored.decisions {
            let key = (decision.job_id.to_string(), decision.admission_id.to_string());
            let json = serde_json::to_string(decision).unwrap();
            let found = archive.decisions(&decision.job_id, usize::MAX).map_err(|error| error.to_string())?;
            if !found.iter().any(|found| serde_json::to_string(found).unwrap() == json) {
                return Err(format!("the archive does not have decision {key:?}"));
            }
            model.decisions.insert(key, json);
        }
        model.submissions = restored.submissions.iter().map(|one| format!("{one:?}")).collect();
        model.settings = restored.settings.clone();
        model.lease = restored.highest_lease;
        model.sequence = restored.highest_sequence;
        Ok(model)
    }

    /// The same, apart from what is over and may be forgotten.
    pub(super) fn without_history(mut self) -> Self {
        self.over.clear();
        self.decisions.clear();
        self
    }

    pub(super) fn finished(&self) -> impl Iterator<Item = &JobRow> {
        self.over.values()
    }
}

fn is_over(row: &JobRow) -> bool {
    row.state >= State::Rejected as i32
}

/// Makes batches as a router would, by a seed.
#[derive(Debug)]
pub(super) struct Histories {
    seed: u64,
    dice: Dice,
    pub(super) now: Timestamp,
    live: Vec<JobRow>,
    jobs: u64,
    lease: u64,
}

impl Histories {
    pub(super) fn new(seed: u64) -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        Self { seed, dice: Dice(seed), now, live: Vec::new(), jobs: 0, lease: 0 }
    }

    pub(super) fn batch(&mut self) -> Batch {
        self.now += jiff::SignedDuration::from_millis(10);
        let mut batch = Batch::default();
        for _ in 0..self.dice.roll(4) {
            self.submit(&mut batch);
        }
        for _ in 0..self.dice.roll(4) {
            self.go_on(&mut batch);
        }
        match self.dice.roll(6) {
            0 => drop(batch.settings.insert(format!("taint/{}", self.dice.roll(3)), Some(vec![1, 2, 3]))),
            1 => drop(batch.settings.insert(format!("taint/{}", self.dice.roll(3)), None)),
            2 => drop(batch.settings.insert("leader".to_owned(), Some(self.jobs.to_le_bytes().to_vec()))),
            _ => {}
        }
        if batch.is_empty() {
            batch.settings.insert("beat".to_owned(), Some(self.jobs.to_le_bytes().to_vec()));
        }
        batch
    }

    /// A batch with one job that waits.
    pub(super) fn waiting_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        self.submit(&mut batch);
        self.live.clear();
        batch
    }

    /// A batch of jobs that are over at once, and so have no document that must be kept.
    pub(super) fn finishing_batch(&mut self) -> Batch {
        self.now += jiff::SignedDuration::from_secs(1);
        let mut batch = Batch::default();
        for _ in 0..2 {
            self.submit(&mut batch);
            while !self.live.is_empty() {
                self.go_on(&mut batch);
            }
        }
        batch
    }

    fn submit(&mut self, batch: &mut Batch) {
        self.jobs += 1;
        let id = format!("{:016x}{:016x}", self.seed, self.jobs);
        let length = match self.dice.roll(20) {
            0 => 0,
            1 => 20_000,
            _ => self.dice.roll(1_500),
        };
        let fill = self.dice.roll(256) as u8;
        batch.documents.push((JobId::new(id.as_str()), Bytes::from(vec![fill; length as usize])));
        let row = JobRow {
            id: id.clone(),
            project: "acme/payments/api".to_owned(),
            name: Some(format!("job {}", self.jobs)),
            tags: vec!["linux".to_owned()],
            sequence: self.jobs,
            state: State::Routing.into(),
            submitted_at: self.now.as_microsecond(),
            events: vec![EventRow {
                time: self.now.as_microsecond(),
                state: State::Routing.into(),
                text: "submitted".to_owned(),
            }],
            ..JobRow::default()
        };
        if self.dice.roll(3) == 0 {
            batch.submissions.push(Submission {
                key: IdempotencyKey { token: "ci".into(), key: format!("key {}", self.jobs), digest: [fill; 32] },
                jobs: vec![JobId::new(id.as_str())],
                time: self.now,
            });
        }
        batch.rows.push(row.clone());
        self.live.push(row);
    }

    fn go_on(&mut self, batch: &mut Batch) {
        if self.live.is_empty() {
            return;
        }
        let at = self.dice.roll(self.live.len() as u64) as usize;
        let mut row = self.live.swap_remove(at);
        let state = match row.state {
            1 => [State::Admitted, State::Rejected][self.dice.roll(4) as usize / 3],
            2 => State::Assigned,
            3 => State::Running,
            _ => [State::Success, State::Failed][self.dice.roll(2) as usize],
        };
        row.state = state.into();
        if state == State::Assigned {
            self.lease += 1;
            row.lease = Some(self.lease);
            row.runner = Some("runner".to_owned());
        }
        if is_over(&row) {
            row.finished_at = Some(self.now.as_microsecond());
        }
        row.admissions += 1;
        batch.decisions.push(Arc::new(Decision {
            // Some are added to later, under the same admission.
            admission_id: format!("admission {}", row.admissions / 2).into(),
            job_id: JobId::new(row.id.as_str()),
            project: "acme/payments/api".into(),
            runner: None,
            decision: Ruling::Admitted,
            cause: None,
            reason: "x".repeat(self.dice.roll(100) as usize),
            will_retry: false,
            chain_version: "v1".into(),
            time: self.now,
            verdicts: Vec::new(),
        }));
        batch.rows.retain(|other| other.id != row.id);
        batch.rows.push(row.clone());
        if !is_over(&row) {
            self.live.push(row);
        }
    }
}

/// A batch that offers what could not be written again, with more in it, as the router does.
pub(super) fn merged(mut first: Batch, second: Batch) -> Batch {
    for row in second.rows {
        first.rows.retain(|other| other.id != row.id);
        first.rows.push(row);
    }
    first.documents.extend(second.documents);
    first.decisions.extend(second.decisions);
    first.submissions.extend(second.submissions);
    first.settings.extend(second.settings);
    first
}
