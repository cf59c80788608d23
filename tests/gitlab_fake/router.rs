//! The fake runner and a job router.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use jobgate_proto::gitlab::{
    GetJobRequest, GetJobResponse,
    job_router_server::{JobRouter, JobRouterServer},
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use crate::{
    TOKEN,
    gitlab::{Endpoint, JobBuilder},
    gitlab_runner::{Code, Polled, Way},
    started,
};

/// Answers what it is told to, then with nothing.
#[derive(Clone, Default)]
struct Scripted {
    answers: Arc<Mutex<VecDeque<Result<Bytes, Status>>>>,
    asked: Arc<Mutex<Vec<(MetadataMap, Value)>>>,
}

#[tonic::async_trait]
impl JobRouter for Scripted {
    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        let body = serde_json::from_slice(&request.get_ref().job_request).unwrap();
        self.asked.lock().unwrap().push((request.metadata().clone(), body));
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Ok(Bytes::new()))?;
        let mut response = Response::new(GetJobResponse { job_response: answer });
        response.metadata_mut().insert("x-request-id", "correlation".parse().unwrap());
        response.metadata_mut().insert("x-gitlab-last-update", "value".parse().unwrap());
        Ok(response)
    }
}

impl Scripted {
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("grpc://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(JobRouterServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        url
    }

    fn next(&self, answer: Result<Bytes, Status>) {
        self.answers.lock().unwrap().push_back(answer);
    }
}

#[tokio::test]
async fn jobs_come_over_grpc_and_are_reported_over_rest() {
    let (gitlab, runner) = started().await;
    let (router, runner) = (Scripted::default(), runner.way(Way::Router));
    let url = router.start().await;
    gitlab.set(|settings| settings.router = Some(url));

    let largest = JobBuilder::new(1).size(4_194_299).build();
    router.next(Ok(largest.bytes.clone()));
    let job = runner.poll().await.job();
    assert_eq!((job.bytes.clone(), job.correlation_id()), (largest.bytes, Some("correlation")));
    assert!(runner.poll().await.is_empty());
    {
        let asked = router.asked.lock().unwrap();
        let (metadata, body) = &asked[1];
        assert_eq!(metadata.get("authorization").unwrap(), format!("Bearer {TOKEN}").as_str());
        assert_eq!(metadata.get("gitlab-agent-type").unwrap(), "runner");
        assert!(metadata.get("user-agent").unwrap().to_str().unwrap().starts_with("gitlab-runner 19.4.0 "));
        assert!(metadata.get("grpc-timeout").is_none());
        assert_eq!((&body["last_update"], &body["system_id"]), (&"value".into(), &runner.system_id.as_str().into()));
    }
    router.next(Ok(JobBuilder::new(2).size(4_194_300).build().bytes));
    assert!(matches!(runner.poll().await, Polled::Unhealthy(Code::Grpc(_))), "one byte more than a runner takes");
    router.next(Ok("no job".into()));
    assert!(matches!(runner.poll().await, Polled::Unhealthy(Code::NoJob)));
    router.next(Err(Status::permission_denied("")));
    assert!(matches!(runner.poll().await, Polled::Unhealthy(Code::Grpc(tonic::Code::PermissionDenied))));
    assert!(!runner.healthy());
    assert_eq!((gitlab.count(Endpoint::Discovery), gitlab.count(Endpoint::Request)), (1, 0));
}

#[tokio::test]
async fn a_router_that_fails_is_followed_by_rest() {
    let (gitlab, runner) = started().await;
    let (router, runner) = (Scripted::default(), runner.way(Way::Router));
    // Without a router: REST, and no second look.
    assert!(runner.poll().await.is_empty());
    gitlab.set(|settings| settings.hold = std::time::Duration::ZERO);
    assert!(runner.poll().await.is_empty());
    assert_eq!((gitlab.count(Endpoint::Discovery), gitlab.count(Endpoint::Request)), (1, 2));

    runner.use_router(&router.start().await).await;
    for _ in 0..2 {
        router.next(Err(Status::unavailable("")));
        assert!(matches!(runner.poll().await, Polled::Failed(Code::Grpc(tonic::Code::Unavailable))));
        assert_eq!(gitlab.count(Endpoint::Request), 2);
    }
    router.next(Err(Status::unavailable("")));
    assert!(runner.poll().await.is_empty());
    assert_eq!(gitlab.count(Endpoint::Request), 3);
    router.next(Err(Status::unimplemented("")));
    assert!(runner.poll().await.is_empty());
    assert_eq!((gitlab.count(Endpoint::Discovery), gitlab.count(Endpoint::Request)), (1, 4));
    assert!(runner.poll().await.is_empty());
    assert_eq!(gitlab.count(Endpoint::Discovery), 2, "it looks again");
    assert!(runner.healthy());
}
