//! What REST and gRPC offer of the queue, in words of neither.

use std::sync::Arc;

use bytes::Bytes;
use jobgate_yaml::Faults;
use sha2::{Digest, Sha256};

use super::{
    auth::{Caller, Right},
    error::{ApiError, Kind, shown},
};
use crate::{
    decision::Decision,
    handle::{Handle, IdempotencyKey, JobDetails, JobFilter, JobPage},
    intake::jobs_from_documents,
    job::{JobId, JobRecord, JobState, NewJob},
    path::ProjectPath,
};

/// Longest idempotency key, in bytes.
const LONGEST_KEY: usize = 255;
/// Documents larger than this are read away from the threads that serve others.
const READ_IN_PLACE: usize = 32 * 1024;
/// Faults named in one answer.
const MOST_FAULTS: usize = 100;
/// Jobs on a page, unless asked otherwise, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
/// Jobs looked at for one page of a token that may not see them all.
const LOOKED_AT: usize = 10_000;

#[derive(Clone)]
pub(super) struct Jobs {
    pub(super) handle: Handle,
    document_bytes: usize,
}

/// Which page of which jobs.
#[derive(Debug, Default)]
pub(super) struct Query {
    pub(super) states: Vec<JobState>,
    pub(super) project: String,
    pub(super) limit: usize,
    pub(super) page_token: String,
}

impl Jobs {
    pub(super) fn new(handle: Handle, document_bytes: usize) -> Self {
        Self { handle, document_bytes }
    }

    pub(super) fn document_bytes(&self) -> usize {
        self.document_bytes
    }

    /// Submits documents, all or none.
    pub(super) async fn submit(
        &self,
        caller: &Caller,
        documents: Bytes,
        key: &str,
    ) -> Result<Vec<(JobId, JobState)>, ApiError> {
        require(caller, Right::Submit)?;
        if documents.len() > self.document_bytes {
            return Err(self.too_large());
        }
        let key = self.key(caller, &documents, key)?;
        let jobs = self.read(documents).await?;
        let foreign: Vec<_> = jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| !caller.sees(job.project.as_str()))
            .map(|(index, job)| format!("document {}: project `{}`", index + 1, job.project))
            .collect();
        if !foreign.is_empty() {
            let message = "this token may not submit jobs of these projects";
            return Err(ApiError::permission_denied(message).with_faults(foreign));
        }
        Ok(self.handle.submit(jobs, key).await?)
    }

    pub(super) async fn get(&self, caller: &Caller, id: &str) -> Result<Arc<JobRecord>, ApiError> {
        require(caller, Right::Read)?;
        self.visible(caller, id).await
    }

    pub(super) async fn cancel(&self, caller: &Caller, id: &str) -> Result<Arc<JobRecord>, ApiError> {
        require(caller, Right::Submit)?;
        let job = self.visible(caller, id).await?;
        Ok(self.handle.cancel(&job.id, caller.name()).await?)
    }

    /// A job, what happened to it, and what it waits for.
    pub(super) async fn explain(&self, caller: &Caller, id: &str) -> Result<JobDetails, ApiError> {
        require(caller, Right::Read)?;
        let job = self.visible(caller, id).await?;
        let mut details = self.handle.explain(&job.id).await?;
        if let Some(waits) = details.waits.as_mut().filter(|_| !caller.may(Right::Overview)) {
            // Runners of other owners are none of this project's business.
            waits.groups.retain(|obstacle| obstacle.what != "owner");
        }
        Ok(details)
    }

    /// A page of the jobs that the caller may see. It may hold fewer than asked for and still not be the last.
    pub(super) async fn list(&self, caller: &Caller, query: Query) -> Result<JobPage, ApiError> {
        require(caller, Right::Read)?;
        let mut filter = filter(query)?;
        let most = filter.limit;
        if filter.project.as_ref().is_some_and(|project| !caller.sees(project.as_str())) {
            return Ok(JobPage { jobs: Vec::new(), next: None });
        }
        let (mut jobs, mut looked_at) = (Vec::new(), 0);
        loop {
            filter.limit = most - jobs.len();
            let page = self.handle.list(filter.clone()).await?;
            looked_at += page.jobs.len();
            jobs.extend(page.jobs.into_iter().filter(|job| caller.sees(job.project.as_str())));
            filter.before = page.next;
            if filter.before.is_none() || jobs.len() >= most || looked_at >= LOOKED_AT {
                return Ok(JobPage { jobs, next: filter.before });
            }
        }
    }

    /// Decisions about one job or about all the caller may see, newest first.
    pub(super) async fn decisions(
        &self,
        caller: &Caller,
        job: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Arc<Decision>>, ApiError> {
        require(caller, Right::Read)?;
        let limit = page_size(limit)?;
        let id = job.map(job_id).transpose()?;
        let ask = if caller.sees_all() { limit } else { LARGEST_PAGE };
        let mut decisions = self.handle.decisions(id, ask).await?;
        decisions.retain(|decision| caller.sees(&decision.project));
        decisions.truncate(limit);
        if let (Some(id), true) = (job, decisions.is_empty()) {
            // No decision yet is an empty list; no such job is not.
            self.visible(caller, id).await?;
        }
        Ok(decisions)
    }

    /// A job, unless the caller may not know that it exists.
    pub(super) async fn visible(&self, caller: &Caller, id: &str) -> Result<Arc<JobRecord>, ApiError> {
        let job = self.handle.job(&job_id(id)?).await?;
        if caller.sees(job.project.as_str()) { Ok(job) } else { Err(ApiError::no_such_job(id)) }
    }

    pub(super) fn too_large(&self) -> ApiError {
        ApiError::new(Kind::TooLarge, format!("job documents may have {} bytes in one request", self.document_bytes))
    }

    fn key(&self, caller: &Caller, documents: &[u8], key: &str) -> Result<Option<IdempotencyKey>, ApiError> {
        if key.len() > LONGEST_KEY {
            return Err(ApiError::invalid(format!("an idempotency key has at most {LONGEST_KEY} bytes")));
        }
        let digest = || Sha256::digest(documents).into();
        Ok((!key.is_empty()).then(|| IdempotencyKey {
            token: caller.name().clone(),
            key: key.to_owned(),
            digest: digest(),
        }))
    }

    async fn read(&self, documents: Bytes) -> Result<Vec<NewJob>, ApiError> {
        let read = if documents.len() <= READ_IN_PLACE {
            parse(&documents)
        } else {
            let read = tokio::task::spawn_blocking(move || parse(&documents)).await;
            // What it says may quote the document.
            read.map_err(|_| ApiError::new(Kind::Internal, "the documents could not be read"))?
        };
        read.map_err(|faults| {
            let mut lines: Vec<_> = faults.iter().take(MOST_FAULTS).map(jobgate_yaml::Fault::one_line).collect();
            let more = faults.iter().count() - lines.len();
            if more > 0 {
                lines.push(format!("… and {more} more"));
            }
            ApiError::invalid("nothing was submitted: the documents have faults").with_faults(lines)
        })
    }
}

fn parse(documents: &Bytes) -> Result<Vec<NewJob>, Faults> {
    jobs_from_documents(documents, "documents")
}

pub(super) fn require(caller: &Caller, right: Right) -> Result<(), ApiError> {
    if caller.may(right) { Ok(()) } else { Err(ApiError::permission_denied(right.needed())) }
}

/// Every id of ours is a short word; anything else is not looked for.
pub(super) fn job_id(id: &str) -> Result<JobId, ApiError> {
    if is_word(id) { Ok(JobId::new(id)) } else { Err(ApiError::no_such_job(id)) }
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn filter(query: Query) -> Result<JobFilter, ApiError> {
    let Query { states, project, limit, page_token } = query;
    let project = match &*project {
        "" => None,
        path => Some(path.parse::<ProjectPath>().map_err(|error| ApiError::invalid(format!("project: {error}")))?),
    };
    let before = match &*page_token {
        "" => None,
        token if is_word(token) => Some(JobId::new(token)),
        token => return Err(ApiError::invalid(format!("`{}` is not a page token of ours", shown(token)))),
    };
    Ok(JobFilter { states, project, limit: page_size(limit)?, before })
}

fn page_size(limit: usize) -> Result<usize, ApiError> {
    match limit {
        0 => Ok(PAGE),
        1..=LARGEST_PAGE => Ok(limit),
        _ => Err(ApiError::invalid(format!("limit: 1 to {LARGEST_PAGE}, not {limit}"))),
    }
}
