//! Jobs as rows of the store: written after each step that changed them, read back at a start.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use jobgate_proto::job::v1 as wire;

use super::{
    GRACE, Job, Now, Phase, Scheduler, Slot, Stamp,
    job::{Event, Grant},
    timers::Timer,
};
use crate::{
    chain::ChainVersion,
    job::{JobRecord, JobState, Lease},
    store::{EventRow, JobRow, Restored, StoreError},
};

impl Scheduler {
    /// The row of a job, as it is now.
    pub(crate) fn row(&self, slot: Slot, now: Now) -> Option<JobRow> {
        self.jobs.get(slot).map(|job| job.row(now))
    }

    /// The rows of these jobs are written.
    pub(crate) fn written(&mut self, slots: &[Slot]) {
        for slot in slots {
            if let Some(job) = self.jobs.get_mut(*slot) {
                job.dirty = false;
            }
        }
        self.forget_finished();
    }

    /// Takes up what a store held. Nobody is asked and nothing goes out before [`Scheduler::begin`].
    pub(crate) fn restore(&mut self, restored: Restored, now: Now) -> Result<(), StoreError> {
        let Restored { jobs, finished, settings, highest_lease, highest_sequence, .. } = restored;
        self.lease = highest_lease;
        self.sequence = highest_sequence;
        let bad = self.restore_settings(&settings, now.tick + GRACE);
        if let Some(key) = bad.first() {
            // A taint that is not read would let a runner in.
            return Err(StoreError::new(format!("what was kept as `{key}` cannot be read")));
        }
        for row in finished {
            let record = row.record()?;
            let mut job = self.job_of(row, record, now);
            job.phase = Phase::Finished;
            if let Some(slot) = self.jobs.insert(job) {
                self.finished.push_back(slot);
                self.count(slot);
            }
        }
        // One text for all jobs that were admitted under it.
        let mut versions = HashMap::new();
        for row in jobs {
            let record = row.record()?;
            self.restore_job(row, record, &mut versions, now)?;
        }
        for place in 0..self.runner_groups.len() {
            self.elect(place, now);
        }
        Ok(())
    }

    fn restore_job(
        &mut self,
        row: JobRow,
        record: JobRecord,
        versions: &mut HashMap<String, ChainVersion>,
        now: Now,
    ) -> Result<(), StoreError> {
        let missing = |what| StoreError::new(format!("job {}: its {what} is not known", record.id));
        let state = record.state;
        if row.document.is_none() {
            return Err(missing("document"));
        }
        let stamp = match &row.chain_version {
            // A clock that was set back makes it as old as it can be: it is asked again.
            Some(version) => Some(Stamp {
                version: versions.entry(version.clone()).or_insert_with(|| ChainVersion::from_text(version)).clone(),
                at: row.decided_at.map(time).filter(|at| *at <= now.wall).map(|at| now.tick_at(at)),
            }),
            None => None,
        };
        let phase = match state {
            JobState::Routing => Phase::Routing { admission: None, reserved: None },
            JobState::Admitted => Phase::Admitted { stamp: stamp.ok_or_else(|| missing("decision"))?, check: None },
            JobState::Assigned | JobState::Running => {
                let grant = Box::new(Grant {
                    lease: Lease(row.lease.ok_or_else(|| missing("lease"))?),
                    runner: row.runner.as_deref().ok_or_else(|| missing("runner"))?.into(),
                    system: row.system.as_deref().ok_or_else(|| missing("runner's system"))?.into(),
                    session: None,
                    expires: now.tick + GRACE,
                    alive: now.tick,
                    due: now.tick + GRACE,
                    shared: row.instance,
                    fence: row.fence,
                    stamp: stamp.ok_or_else(|| missing("decision"))?,
                });
                if state == JobState::Assigned { Phase::Assigned(grant) } else { Phase::Running(grant) }
            }
            _ => return Err(StoreError::new(format!("job {}: it is over, and among those that are not", record.id))),
        };
        let mut job = self.job_of(row, record, now);
        job.phase = phase;
        let granted = job.grant().map(|grant| (grant.lease, grant.due, grant.shared));
        let project = job.record.project.clone();
        let too_many = || StoreError::new("there are too many jobs");
        let slot = self.jobs.insert(job).ok_or_else(too_many)?;
        self.count(slot);
        match granted {
            Some((lease, due, shared)) => {
                self.timers.set(due, Timer::Lease(slot, lease));
                if shared {
                    self.lanes.running(&project, true, &self.jobs, &mut self.groups, &mut self.timers, now.tick);
                }
            }
            None => self.waits(slot),
        }
        match state {
            // In a lane; nothing is attached yet that could take it.
            JobState::Admitted => self.place(slot, now),
            JobState::Routing => self.unasked.push(slot),
            _ => {}
        }
        Ok(())
    }

    /// Has those asked about that were being asked about before the restart.
    pub(crate) fn begin(&mut self, now: Now) {
        for slot in std::mem::take(&mut self.unasked) {
            self.ask(slot, None, now);
        }
    }

    fn job_of(&mut self, row: JobRow, mut record: JobRecord, now: Now) -> Job {
        let tags = self.shared_tags(row.tags);
        record.project = self.lanes.shared_path(&record.project);
        let (submitted, document) = (now.tick_at(record.submitted_at), row.document);
        let mut events: Vec<_> = row.events.iter().filter_map(Event::of).collect();
        events.shrink_to_fit();
        // It waits since it came back from a runner, if one had it.
        let had = events.iter().rposition(|event| matches!(event.state, JobState::Assigned | JobState::Running));
        let came_back = had.and_then(|had| events.get(had + 1)).map(Event::when);
        Job {
            phase: Phase::Finished,
            held: None,
            stored: document,
            tags,
            protected: row.protected,
            retry_on_lost: row.retry_on_lost,
            dirty: false,
            timeout_seconds: row.timeout_seconds,
            sequence: row.sequence,
            submitted,
            since: came_back.map_or(submitted, |since| now.tick_at(since)),
            admissions: row.admissions,
            waits: 0,
            restarts: 0,
            losses: row.losses,
            counted: None,
            lane: None,
            kept: Vec::new(),
            events,
            record: Arc::new(record),
        }
    }

    fn count(&mut self, slot: Slot) {
        let Some(job) = self.jobs.get_mut(slot) else { return };
        let state = job.record.state;
        job.counted = Some(state);
        *self.counts.entry(state.as_str()).or_default() += 1;
    }
}

impl Job {
    fn row(&self, now: Now) -> JobRow {
        let record = &self.record;
        let micros = Timestamp::as_microsecond;
        let stamp = match &self.phase {
            Phase::Admitted { stamp, .. } => Some(stamp),
            _ => self.grant().map(|grant| &grant.stamp),
        };
        let grant = self.grant();
        JobRow {
            id: record.id.to_string(),
            project: record.project.to_string(),
            source_id: record.source_id.clone(),
            name: record.name.clone(),
            tags: self.tags.to_vec(),
            protected: self.protected,
            retry_on_lost: self.retry_on_lost,
            timeout_seconds: self.timeout_seconds,
            priority: record.priority,
            sequence: self.sequence,
            document: self.stored,
            state: state_number(record.state),
            reason: record.reason.clone(),
            submitted_at: micros(record.submitted_at),
            admitted_at: record.admitted_at.map(micros),
            assigned_at: record.assigned_at.map(micros),
            started_at: record.started_at.map(micros),
            finished_at: record.finished_at.map(micros),
            runner: record.runner.as_deref().map(str::to_owned),
            system: grant.map(|grant| grant.system.to_string()),
            lease: record.lease.map(|lease| lease.0),
            instance: grant.is_some_and(|grant| grant.shared),
            exit_code: record.exit_code,
            admissions: self.admissions,
            losses: self.losses,
            chain_version: stamp.map(|stamp| stamp.version.as_str().to_owned()),
            decided_at: stamp.and_then(|stamp| stamp.at).map(|at| micros(now.wall_at(at))),
            events: self.events.iter().map(Event::row).collect(),
            fence: grant.and_then(|grant| grant.fence),
        }
    }
}

impl Event {
    fn of(row: &EventRow) -> Option<Self> {
        let state = row.job_state()?;
        Some(Self { time: row.time, state, text: Self::text_of(&row.text) })
    }

    fn row(&self) -> EventRow {
        EventRow {
            time: self.time,
            state: state_number(self.state),
            text: self.text.as_deref().unwrap_or_default().to_owned(),
        }
    }
}

fn state_number(state: JobState) -> i32 {
    wire::JobState::from(state).into()
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}
