use std::{net::SocketAddr, time::Duration};

use jobgate_proto::admission::v1::{
    AdmitRequest, AdmitResponse, admission_controller_client::AdmissionControllerClient,
    admit_response::Verdict as Wire,
};
use jobgate_sdk::{
    FailureCause, Listen, Serve, ServeError, Token, Verdict, serve,
    testing::{self, RequestBuilder},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{Diary, Obedient, until};

type Served = JoinHandle<Result<(), ServeError>>;

async fn spawn(listen: Listen) -> (SocketAddr, Served) {
    let listening = listen.bind().await.unwrap();
    (listening.local_addr(), tokio::spawn(listening.into_future()))
}

async fn start(serve: Serve) -> Channel {
    dial(spawn(serve.listen("127.0.0.1:0")).await.0).await
}

async fn dial(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn told(name: &str) -> RequestBuilder {
    testing::request().job(|job| job.name = Some(name.into()))
}

async fn ask(channel: &Channel, question: impl tonic::IntoRequest<AdmitRequest>) -> Result<AdmitResponse, Status> {
    AdmissionControllerClient::new(channel.clone()).admit(question).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_question_is_answered_under_its_id() {
    let (controller, _seen) = Obedient::new();
    let channel = start(serve(controller).policy_version("p1")).await;
    let question = told("reject").wire();
    let answer = ask(&channel, question.clone()).await.unwrap();
    assert_eq!((answer.id, &*answer.policy_version), (question.id, "p1"));
    assert!(matches!(answer.verdict, Some(Wire::Rejected(rejected)) if rejected.reason == "as it was told"));
}

#[tokio::test]
async fn a_question_that_hangs_panics_or_makes_no_sense_fails_alone() {
    let (controller, _seen) = Obedient::new();
    let channel = start(serve(controller)).await;
    let hang = told("hang").time_left(Duration::from_millis(50)).wire();
    let verdict = Verdict::from(ask(&channel, hang).await.unwrap());
    assert_eq!(verdict.failure().unwrap().cause(), FailureCause::Silent);
    for bad in [told("panic").wire(), AdmitRequest::default(), AdmitRequest { job: None, ..told("x").wire() }] {
        let answer = ask(&channel, bad.clone()).await.unwrap();
        assert_eq!(answer.id, bad.id);
        assert!(matches!(answer.verdict, Some(Wire::Failed(_))), "{bad:?}");
    }
    let late = told("fine").time_left(Duration::ZERO).wire();
    assert!(ask(&channel, late).await.unwrap().verdict.is_some());
    assert!(matches!(ask(&channel, told("fine").wire()).await.unwrap().verdict, Some(Wire::Admitted(_))));
}

#[tokio::test]
async fn an_oversize_question_is_refused_alone() {
    let (controller, _seen) = Obedient::new();
    let channel = start(serve(controller).max_request_bytes(10_000)).await;
    let large = told("x").script(["x".repeat(20_000).as_str()]).wire();
    assert_eq!(ask(&channel, large).await.unwrap_err().code(), Code::OutOfRange);
    assert!(ask(&channel, told("fine").wire()).await.is_ok());
}

#[tokio::test]
async fn a_caller_that_goes_away_withdraws_its_question() {
    let (controller, mut seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let channel = start(serve(controller).observer(diary)).await;
    let hang = told("hang").time_left(Duration::from_secs(50)).wire();
    let asking = tokio::spawn(async move { ask(&channel, hang).await });
    until(&mut seen, "hang").await;
    asking.abort();
    until(&mut seen, "dropped").await;
    until(&mut lines, "withdrawn").await;
}

#[tokio::test]
async fn a_router_may_withdraw_all_it_asked_at_once() {
    let (controller, _seen) = Obedient::new();
    let channel = start(serve(controller)).await;
    for _ in 0..10 {
        let asking = (0..64).map(|_| ask(&channel, told("hang").wire()));
        // Polled once each, so that they are on their way, and dropped.
        let _ = tokio::time::timeout(Duration::ZERO, futures_util::future::join_all(asking)).await;
        assert!(ask(&channel, told("fine").wire()).await.is_ok());
    }
}

#[tokio::test]
async fn only_callers_with_the_token_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "right\n").unwrap();
    let (controller, mut seen) = Obedient::new();
    let (address, _served) = spawn(serve(controller).listen("127.0.0.1:0").token(Token::from_file(&path))).await;
    let channel = dial(address).await;
    let with = |token: &str| {
        let mut question = Request::new(told("asked").wire());
        question.metadata_mut().insert("authorization", token.parse().unwrap());
        question
    };
    assert_eq!(ask(&channel, told("asked").wire()).await.unwrap_err().code(), Code::Unauthenticated);
    for wrong in ["Bearer wrong", "Bearer ", "right", "Bearer right2"] {
        assert_eq!(ask(&channel, with(wrong)).await.unwrap_err().code(), Code::Unauthenticated, "{wrong}");
    }
    assert!(seen.try_recv().is_err(), "nobody was asked");
    assert!(ask(&channel, with("Bearer right")).await.is_ok());
    assert!(HealthClient::new(channel).check(HealthCheckRequest::default()).await.is_ok(), "health is open to all");

    std::fs::write(&path, "new").unwrap();
    let later = dial(address).await;
    assert_eq!(ask(&later, with("Bearer right")).await.unwrap_err().code(), Code::Unauthenticated);
    assert!(ask(&later, with("Bearer new")).await.is_ok());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(ask(&dial(address).await, with("Bearer new")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn it_says_that_it_is_healthy() {
    let (controller, _seen) = Obedient::new();
    let channel = start(serve(controller)).await;
    for service in ["", "jobgate.admission.v1.AdmissionController"] {
        let question = HealthCheckRequest { service: service.into() };
        let health = HealthClient::new(channel.clone()).check(question).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving, "{service}");
    }
}

#[tokio::test]
async fn shutdown_answers_what_is_open_and_takes_nothing_new() {
    let (controller, mut seen) = Obedient::new();
    let gate = controller.gate.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, served) = spawn(serve(controller).listen("127.0.0.1:0").with_shutdown(stopped)).await;
    let channel = dial(address).await;
    // A stream that never ends by itself must not hold up the shutdown.
    let mut watch = HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let open = tokio::spawn({
        let (channel, question) = (channel.clone(), told("gate").time_left(Duration::from_secs(20)).wire());
        async move { ask(&channel, question).await }
    });
    until(&mut seen, "gate").await;
    stop.send(()).unwrap();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the listener is closed");
    gate.add_permits(1);
    assert!(matches!(open.await.unwrap().unwrap().verdict, Some(Wire::Admitted(_))));
    let ended = tokio::time::timeout(Duration::from_secs(10), served).await.expect("well before the drain limit");
    ended.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_longer_than_its_limit() {
    let (controller, mut seen) = Obedient::new();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = serve(controller).drain_limit(Duration::from_millis(20));
    let (address, served) = spawn(serving.listen("127.0.0.1:0").with_shutdown(stopped)).await;
    let channel = dial(address).await;
    let open = tokio::spawn(async move { ask(&channel, told("hang").time_left(Duration::from_secs(50)).wire()).await });
    until(&mut seen, "hang").await;
    stop.send(()).unwrap();
    assert!(matches!(served.await.unwrap(), Err(ServeError::NotDrained { open: 1, .. })));
    until(&mut seen, "dropped").await;
    assert!(open.await.unwrap().is_err());
}

#[tokio::test]
async fn faults_are_found_before_anybody_is_answered() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = || serve(Obedient::new().0).listen(taken.local_addr().unwrap());
    assert!(matches!(listen().await, Err(ServeError::Bind { .. })));
    let nowhere = serve(Obedient::new().0).listen("nowhere");
    assert!(matches!(nowhere.await, Err(ServeError::Bind { address, .. }) if address == "nowhere"));
    let tokenless = serve(Obedient::new().0).listen("127.0.0.1:0").token(Token::from_file("/nonexistent"));
    assert!(matches!(tokenless.await, Err(ServeError::Token(_))));
}
