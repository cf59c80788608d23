use std::pin::Pin;

use futures_util::Stream;
use jobgate_proto::job::v1::{self as wire, jobs_server};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{caller, watch};
use crate::{
    faces::jobs::{Jobs, Query},
    job::JobState,
};

/// `jobgate.job.v1.Jobs`.
pub(super) struct JobsService {
    jobs: Jobs,
    closing: CancellationToken,
}

impl JobsService {
    pub(super) fn new(jobs: Jobs, closing: CancellationToken) -> Self {
        Self { jobs, closing }
    }
}

#[tonic::async_trait]
impl jobs_server::Jobs for JobsService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::JobRecord, Status>> + Send>>;

    async fn submit(&self, request: Request<wire::SubmitRequest>) -> Result<Response<wire::SubmitResponse>, Status> {
        let caller = caller(&request)?;
        let wire::SubmitRequest { documents, idempotency_key } = request.into_inner();
        let jobs = self.jobs.submit(&caller, documents, &idempotency_key).await?;
        let jobs = jobs
            .into_iter()
            .map(|(id, state)| wire::Submitted { id: id.to_string(), state: wire::JobState::from(state).into() })
            .collect();
        Ok(Response::new(wire::SubmitResponse { jobs }))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::JobRecord>, Status> {
        let caller = caller(&request)?;
        let job = self.jobs.get(&caller, &request.into_inner().id).await?;
        Ok(Response::new((&*job).into()))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListResponse>, Status> {
        let caller = caller(&request)?;
        let wire::ListRequest { states, project, limit, page_token } = request.into_inner();
        let query = Query {
            states: states.into_iter().map(state).collect::<Result<_, _>>()?,
            project,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            page_token,
        };
        let page = self.jobs.list(&caller, query).await?;
        Ok(Response::new(wire::ListResponse {
            jobs: page.jobs.iter().map(|job| (&**job).into()).collect(),
            next_page_token: page.next.map(|id| id.to_string()).unwrap_or_default(),
        }))
    }

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        let ids = request.into_inner().ids;
        let stream = watch::watch(&self.jobs, caller, ids, self.closing.clone()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Result<Response<wire::JobRecord>, Status> {
        let caller = caller(&request)?;
        let job = self.jobs.cancel(&caller, &request.into_inner().id).await?;
        Ok(Response::new((&*job).into()))
    }
}

fn state(number: i32) -> Result<JobState, Status> {
    let found = JobState::ALL.into_iter().find(|state| wire::JobState::from(*state) as i32 == number);
    found.ok_or_else(|| Status::invalid_argument(format!("states: {number} is no state of a job")))
}
