use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use jobgate_proto::admission::v1::{
    AdmitRequest, AdmitResponse, Admitted, Rejected,
    admission_controller_server::{AdmissionController, AdmissionControllerServer},
    admit_response::Verdict,
};
use jobgate_sdk::{
    AdmissionRequest, Token, serve,
    testing::conformance::{self, Outcome, Report, Target},
};
use tokio::{net::TcpListener, sync::oneshot};
use tonic::{Request, Response, Status, transport::Server};

/// A controller that answers however it likes.
struct Bare<F>(F);

#[tonic::async_trait]
impl<F, Fut> AdmissionController for Bare<F>
where
    F: Fn(AdmitRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<AdmitResponse, Status>> + Send,
{
    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        (self.0)(request.into_inner()).await.map(Response::new)
    }
}

async fn examine<F, Fut>(answer: F) -> Report
where
    F: Fn(AdmitRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<AdmitResponse, Status>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = AdmissionControllerServer::new(Bare(answer));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    conformance::run(Target::new(address.to_string())).await
}

fn admitted(question: &AdmitRequest) -> AdmitResponse {
    let verdict = Some(Verdict::Admitted(Admitted::default()));
    AdmitResponse { id: question.id.clone(), policy_version: String::new(), verdict }
}

fn failed(report: &Report) -> Vec<&str> {
    let failed = report.checks().iter().filter(|check| matches!(check.outcome(), Outcome::Failed(..)));
    failed.map(conformance::Check::name).collect()
}

#[tokio::test]
async fn a_served_controller_conforms_until_its_end() {
    let (stop, stopped) = oneshot::channel::<()>();
    let listening = serve(|_: AdmissionRequest| async { jobgate_sdk::Verdict::admit() })
        .listen("127.0.0.1:0")
        .token(Token::from_value("t"))
        .with_shutdown(stopped)
        .bind()
        .await
        .unwrap();
    let address: SocketAddr = listening.local_addr();
    tokio::spawn(listening.into_future());
    let shut_down = async {
        let _ = stop.send(());
    };
    let target = Target::new(address.to_string()).token(Token::from_value("t")).shut_down_by(shut_down);
    let report = conformance::run(target).await;
    assert!(report.checks().iter().all(|check| *check.outcome() == Outcome::Passed), "{report}");
    assert!(report.to_string().ends_with("conforms: 15 passed, 0 failed"), "{report}");
}

#[tokio::test]
async fn faults_are_found_and_named() {
    let report =
        examine(|question| async move { Ok(AdmitResponse { id: "mine".into(), ..admitted(&question) }) }).await;
    assert!(failed(&report).starts_with(&["answers", "64 at once"]), "{report}");

    let report = examine(|question| async move { Ok(admitted(&question)) }).await;
    assert_eq!(failed(&report), ["empty question"], "{report}");
    assert!(report.to_string().contains("Check that `job` and `project` are set"), "{report}");
    assert!(matches!(
        report.checks().iter().find(|check| check.name() == "health").unwrap().outcome(),
        Outcome::Advice(..)
    ));

    let report = examine(|question| async move { Ok(AdmitResponse { verdict: None, ..admitted(&question) }) }).await;
    assert!(failed(&report).contains(&"answers"), "{report}");

    let silent = Some(Verdict::Rejected(Rejected::default()));
    let report = examine(move |question| {
        let verdict = silent.clone();
        async move { Ok(AdmitResponse { verdict, ..admitted(&question) }) }
    });
    assert!(failed(&report.await).contains(&"answers"));
}

#[tokio::test]
async fn an_answer_that_changes_is_found() {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let report = examine(|question| async move {
        let reason = format!("number {}", COUNT.fetch_add(1, Ordering::Relaxed));
        let verdict = Some(Verdict::Rejected(Rejected { reason, ..Rejected::default() }));
        Ok(AdmitResponse { verdict, ..admitted(&question) })
    });
    let report = report.await;
    assert_eq!(failed(&report), ["repeatable"], "{report}");
}

#[tokio::test]
async fn a_controller_that_stops_at_unknown_kinds_is_found() {
    let report = examine(|question| async move {
        let Some(job) = &question.job else { return Err(Status::invalid_argument("no job")) };
        match job.ref_type {
            Some(kind) if kind > 2 => Err(Status::invalid_argument("unknown kind of ref")),
            _ => Ok(admitted(&question)),
        }
    });
    let report = report.await;
    assert_eq!(failed(&report), ["unknown fields"], "{report}");
}

#[tokio::test]
async fn a_controller_that_hangs_is_found() {
    let report = examine(|question| async move {
        let time_left = question.time_left.and_then(|left| left.try_into().ok()).unwrap_or(std::time::Duration::ZERO);
        match question.job {
            Some(_) if time_left.as_secs() == 0 => std::future::pending().await,
            Some(_) => Ok(admitted(&question)),
            None => Err(Status::invalid_argument("no job")),
        }
    });
    let report = report.await;
    assert_eq!(failed(&report), ["time limit"], "{report}");
}

#[tokio::test]
async fn nobody_there_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = conformance::run(Target::new(address.to_string())).await;
    assert_eq!(failed(&report), ["reachable"], "{report}");
    assert!(!report.conforms());
}
