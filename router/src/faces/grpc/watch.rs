//! Following jobs: their present state first, then every change, with neither a gap nor a step back.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use futures_util::{Stream, stream};
use jobgate_proto::job::v1 as wire;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    faces::{
        auth::{Caller, Right},
        jobs::{Jobs, Query, require},
    },
    job::{JobId, JobRecord, JobState},
};

/// Jobs that one watcher may name.
const NAMED: usize = 1000;
/// Jobs on one page of the present state.
const PAGE: usize = 1000;
/// Changes that may come while the present state is read.
const BEHIND: usize = 64 * 1024;

/// Starts to follow jobs.
pub(super) async fn watch(
    jobs: &Jobs,
    caller: Caller,
    ids: Vec<String>,
    closing: CancellationToken,
) -> Result<impl Stream<Item = Result<wire::JobRecord, Status>> + Send + use<>, Status> {
    require(&caller, Right::Read)?;
    if ids.len() > NAMED {
        return Err(Status::invalid_argument(format!("at most {NAMED} jobs can be named; none means all")));
    }
    let mut present = Present::new(jobs.handle.changes());
    let mut open = None;
    if ids.is_empty() {
        present.read_all(jobs, &caller).await?;
    } else {
        open = Some(present.read_named(jobs, &caller, &ids).await?);
    }
    let watcher = Watcher { ready: present.queue(&caller), changes: present.changes, caller, open, closing };
    Ok(stream::unfold(Some(watcher), |watcher| async move {
        let mut watcher = watcher?;
        match watcher.next().await {
            Ok(Some(record)) => Some((Ok((&*record).into()), Some(watcher))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    }))
}

struct Watcher {
    ready: VecDeque<Arc<JobRecord>>,
    changes: broadcast::Receiver<Arc<JobRecord>>,
    caller: Caller,
    /// The named jobs that are not finished; `None` when all jobs are followed.
    open: Option<HashSet<JobId>>,
    closing: CancellationToken,
}

impl Watcher {
    /// The next record; `None` when there is nothing more to wait for.
    async fn next(&mut self) -> Result<Option<Arc<JobRecord>>, Status> {
        loop {
            if self.open.as_ref().is_some_and(HashSet::is_empty) {
                return Ok(None);
            }
            let record = match self.ready.pop_front() {
                Some(record) => record,
                None => tokio::select! {
                    change = self.changes.recv() => change.map_err(|error| ended(&error))?,
                    () = self.closing.cancelled() => return Err(ended(&RecvError::Closed)),
                },
            };
            let wanted = match &mut self.open {
                Some(open) if record.state.is_final() => open.remove(&record.id),
                Some(open) => open.contains(&record.id),
                None => self.caller.sees(record.project.as_str()),
            };
            if wanted {
                return Ok(Some(record));
            }
        }
    }
}

fn ended(error: &RecvError) -> Status {
    match error {
        RecvError::Closed => Status::unavailable("the router is shutting down"),
        RecvError::Lagged(missed) => behind(*missed),
    }
}

fn behind(missed: u64) -> Status {
    Status::resource_exhausted(format!("this watcher reads too slowly and missed {missed} changes; watch again"))
}

/// The present state of jobs, and the changes that came while it was read.
///
/// The task that owns the jobs publishes a change before it answers a question that sees it. So when an answer is here, every
/// change it contains is in the receiver: the one that equals it, and all before that one, are old.
struct Present {
    changes: broadcast::Receiver<Arc<JobRecord>>,
    came: Vec<Arc<JobRecord>>,
    records: Vec<Arc<JobRecord>>,
    /// Changes of a job before this position are old.
    fresh_from: HashMap<JobId, usize>,
}

impl Present {
    fn new(changes: broadcast::Receiver<Arc<JobRecord>>) -> Self {
        Self { changes, came: Vec::new(), records: Vec::new(), fresh_from: HashMap::new() }
    }

    async fn read_named(&mut self, jobs: &Jobs, caller: &Caller, ids: &[String]) -> Result<HashSet<JobId>, Status> {
        let mut open = HashSet::new();
        for id in ids {
            let record = jobs.visible(caller, id).await?;
            if open.insert(record.id.clone()) {
                self.take_in(vec![record])?;
            }
        }
        Ok(open)
    }

    /// All jobs that are not finished.
    async fn read_all(&mut self, jobs: &Jobs, caller: &Caller) -> Result<(), Status> {
        let states: Vec<_> = JobState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let mut page_token = String::new();
        loop {
            let query = Query { states: states.clone(), project: String::new(), limit: PAGE, page_token };
            let page = jobs.list(caller, query).await?;
            self.take_in(page.jobs)?;
            match page.next {
                Some(next) => page_token = next.to_string(),
                None => return Ok(()),
            }
        }
    }

    fn take_in(&mut self, records: Vec<Arc<JobRecord>>) -> Result<(), Status> {
        loop {
            match self.changes.try_recv() {
                Ok(_) if self.came.len() >= BEHIND => return Err(behind(BEHIND as u64)),
                Ok(change) => self.came.push(change),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(missed)) => return Err(behind(missed)),
                Err(TryRecvError::Closed) => return Err(ended(&RecvError::Closed)),
            }
        }
        for record in &records {
            if let Some(position) = self.came.iter().rposition(|change| same(change, record)) {
                self.fresh_from.insert(record.id.clone(), position + 1);
            }
        }
        self.records.extend(records);
        Ok(())
    }

    /// What to send before anything else.
    fn queue(&mut self, caller: &Caller) -> VecDeque<Arc<JobRecord>> {
        let came = std::mem::take(&mut self.came);
        let fresh = came.into_iter().enumerate().filter(|(position, change)| {
            let old = self.fresh_from.get(&change.id).is_some_and(|from| position < from);
            !old && caller.sees(change.project.as_str())
        });
        std::mem::take(&mut self.records).into_iter().chain(fresh.map(|(_, change)| change)).collect()
    }
}

fn same(change: &Arc<JobRecord>, record: &Arc<JobRecord>) -> bool {
    Arc::ptr_eq(change, record)
        || (change.id == record.id && wire::JobRecord::from(&**change) == wire::JobRecord::from(&**record))
}
