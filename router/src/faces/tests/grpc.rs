use jobgate_proto::job::v1::{
    CancelRequest, GetRequest, JobState, ListRequest, SubmitRequest, jobs_client::JobsClient,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::support::{ALL, Setup, document, with_token};

fn submit(documents: String, key: &str) -> SubmitRequest {
    SubmitRequest { documents: documents.into(), idempotency_key: key.to_owned() }
}

#[tokio::test]
async fn jobs_are_submitted_found_and_canceled() {
    let world = Setup::guarded().start().await;
    let mut client = JobsClient::new(world.channel().await);
    let two = format!("[{},{}]", document("a/b"), document("a/c"));
    let jobs = client.submit(with_token(submit(two, ""), ALL)).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.len(), 2);
    let id = jobs[0].id.clone();
    let record = client.get(with_token(GetRequest { id: id.clone() }, ALL)).await.unwrap().into_inner();
    assert_eq!(record.project, "a/b");
    let canceled = client.cancel(with_token(CancelRequest { id: id.clone() }, ALL)).await.unwrap().into_inner();
    assert_eq!(canceled.state(), JobState::Canceled);
    let again = client.cancel(with_token(CancelRequest { id }, ALL)).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);

    let list = async |request: ListRequest| {
        let mut client = client.clone();
        client.list(with_token(request, ALL)).await.map(tonic::Response::into_inner)
    };
    let canceled = list(ListRequest { states: vec![JobState::Canceled.into()], ..Default::default() }).await.unwrap();
    assert_eq!(canceled.jobs.len(), 1);
    let first = list(ListRequest { limit: 1, ..Default::default() }).await.unwrap();
    let second = list(ListRequest { limit: 1, page_token: first.next_page_token, ..Default::default() }).await.unwrap();
    assert_eq!((first.jobs[0].project.as_str(), second.jobs[0].project.as_str()), ("a/c", "a/b"));
    for request in [
        ListRequest { states: vec![0], ..Default::default() },
        ListRequest { states: vec![77], ..Default::default() },
        ListRequest { limit: 1001, ..Default::default() },
        ListRequest { page_token: "no token".to_owned(), ..Default::default() },
    ] {
        assert_eq!(list(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn faults_and_keys_have_the_documented_codes() {
    let world = Setup::guarded().start().await;
    let client = JobsClient::new(world.channel().await);
    let code = async |documents: &str, key: &str| {
        let request = with_token(submit(documents.to_owned(), key), ALL);
        client.clone().submit(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
    };
    assert_eq!(code(&document("a/b"), "k").await, Code::Ok);
    assert_eq!(code(&document("a/b"), "k").await, Code::Ok);
    assert_eq!(code(&document("a/c"), "k").await, Code::AlreadyExists);
    assert_eq!(code(&document("a/c"), &"k".repeat(256)).await, Code::InvalidArgument);
    let two = "[{\"project\": {\"path\": 1}}, {\"project\": {\"path\": \"a//b\"}}]".to_owned();
    let status = client.clone().submit(with_token(submit(two, ""), ALL)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().lines().count() >= 3, "all faults: {}", status.message());
}

#[tokio::test]
async fn health_is_told_of_each_service_and_follows_readiness() {
    let world = Setup::guarded().start().await;
    let mut client = HealthClient::new(world.channel().await);
    let mut watch = {
        let request = HealthCheckRequest { service: "jobgate.job.v1.Jobs".to_owned() };
        client.watch(request).await.unwrap().into_inner()
    };
    while watch.message().await.unwrap().unwrap().status()
        != tonic_health::pb::health_check_response::ServingStatus::Serving
    {}
    for service in
        ["", "jobgate.job.v1.Jobs", "jobgate.runner.v1.RunnerGateway", "jobgate.admission.v1.AdmissionTunnel"]
    {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving, "{service}");
    }
    world.readiness.set_policies(false);
    let next = watch.message().await.unwrap().unwrap().status();
    assert_eq!(next, tonic_health::pb::health_check_response::ServingStatus::NotServing);
}

#[tokio::test]
async fn reflection_describes_the_services() {
    let world = Setup::guarded().start().await;
    let mut client = ServerReflectionClient::new(world.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list");
    };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["jobgate.job.v1.Jobs", "jobgate.runner.v1.RunnerGateway", "jobgate.admission.v1.AdmissionTunnel"] {
        assert!(names.iter().any(|have| have == name), "{name}: {names:?}");
    }
}
