//! Controllers that behave badly, over real sockets. Each harms nobody but itself.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use jobgate_proto::admission::v1::{
    AdmitRequest, AdmitResponse, Admitted, ControllerMessage, Hello, PolicyChanged, Rejected, RouterMessage,
    admission_controller_server::{AdmissionController, AdmissionControllerServer},
    admission_tunnel_client::AdmissionTunnelClient,
    admit_response, controller_message, router_message,
};
use jobgate_sdk::{AdmissionRequest, Controller, FailureCause, Question, ServerTls, Token, Verdict, serve};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

mod dialled;

use super::{tunnel::Slot, *};
use crate::config::{Dial, Secret};

const TOKEN: &str = "controller-token-0123456789";

/// Runs a test; one that hangs fails.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("the test hangs")
}

fn question(id: &str, time_left: Duration) -> AdmissionRequest {
    let job = crate::testing::new_job("job1", "acme/api");
    let question = Question {
        id: id.into(),
        admission_id: "a1".into(),
        controller: "c".into(),
        scope: "instance".into(),
        dry_run: false,
        time: SystemTime::UNIX_EPOCH,
        time_left,
    };
    AdmissionRequest::new(question, job.view.unwrap().subject(&Default::default()))
}

fn cause(verdict: &Verdict) -> Option<FailureCause> {
    verdict.failure().map(jobgate_sdk::Failure::cause)
}

fn admits(id: &str) -> AdmitResponse {
    let verdict = Some(admit_response::Verdict::Admitted(Admitted::default()));
    AdmitResponse { id: id.to_owned(), policy_version: "v1".to_owned(), verdict }
}

/// A router's end of the tunnel, with one controller `c` that may attach.
struct Router {
    controller: Arc<Attached>,
    url: String,
    late: Arc<AtomicUsize>,
    closing: watch::Sender<bool>,
    tunnels: Tunnels,
}

/// A controller's end, written by hand.
struct Stream {
    out: mpsc::Sender<ControllerMessage>,
    incoming: Streaming<RouterMessage>,
}

impl Router {
    async fn new() -> Self {
        let controller = Attached::new();
        let slot = Slot {
            token: Secret::new(TOKEN),
            scope: "instance".to_owned(),
            dry_run: false,
            controller: controller.clone(),
        };
        let (closing, is_closing) = watch::channel(false);
        let late: Arc<AtomicUsize> = Arc::default();
        let counter = late.clone();
        let on_late = Arc::new(move |_: &Arc<str>| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let tunnels = Tunnels::new(HashMap::from([("c".into(), slot)]), is_closing, on_late);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(tunnels.clone().service());
        tokio::spawn(async move { server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap() });
        Self { controller, url, late, closing, tunnels }
    }

    async fn try_attach(&self, token: &str, first: ControllerMessage) -> Result<Stream, Status> {
        let mut client = AdmissionTunnelClient::connect(self.url.clone()).await.unwrap();
        let (out, messages) = mpsc::channel(64);
        out.send(first).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(messages));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let incoming = client.attach(request).await?.into_inner();
        Ok(Stream { out, incoming })
    }

    async fn attach(&self, room: u32) -> Stream {
        let mut stream = self.try_attach(TOKEN, hello("c", room)).await.unwrap();
        assert!(matches!(stream.hear().await, Some(router_message::Message::Welcome(_))));
        stream
    }

    fn ask(&self, id: &str, time: Duration) -> JoinHandle<Result<Verdict, tokio::time::error::Elapsed>> {
        let (controller, question) = (self.controller.clone(), question(id, time));
        tokio::spawn(async move { tokio::time::timeout(time, controller.admit(&question)).await })
    }
}

impl Stream {
    async fn hear(&mut self) -> Option<router_message::Message> {
        within(self.incoming.message()).await.ok().flatten().and_then(|message| message.message)
    }

    async fn asked(&mut self) -> String {
        match self.hear().await {
            Some(router_message::Message::Request(request)) => request.id,
            other => panic!("expected a question, got {other:?}"),
        }
    }

    async fn say(&self, message: controller_message::Message) {
        self.out.send(ControllerMessage { message: Some(message) }).await.unwrap();
    }

    async fn answer(&self, id: &str) {
        self.say(controller_message::Message::Response(admits(id))).await;
    }
}

fn hello(controller: &str, room: u32) -> ControllerMessage {
    let hello = Hello {
        controller: controller.to_owned(),
        version: "test".to_owned(),
        policy_version: "p1".to_owned(),
        max_in_flight: room,
    };
    ControllerMessage { message: Some(controller_message::Message::Hello(hello)) }
}

#[tokio::test]
async fn attaching_needs_the_controllers_own_token_and_name_and_a_hello() {
    let router = Router::new().await;
    let code = async |token: &str, first| router.try_attach(token, first).await.err().map(|status| status.code());
    within(async {
        assert_eq!(code("wrong-token-0123456789", hello("c", 1)).await, Some(tonic::Code::Unauthenticated));
        assert_eq!(code(TOKEN, hello("d", 1)).await, Some(tonic::Code::PermissionDenied));
        let response = controller_message::Message::Response(admits("q"));
        let first = ControllerMessage { message: Some(response) };
        assert_eq!(code(TOKEN, first).await, Some(tonic::Code::InvalidArgument));
        assert_eq!(router.controller.count(), 0);
        router.closing.send_replace(true);
        assert_eq!(code(TOKEN, hello("c", 1)).await, Some(tonic::Code::Unavailable));
    })
    .await;
}

#[tokio::test]
async fn nobody_attached_is_not_attached() {
    let router = Router::new().await;
    let verdict = within(router.ask("q", Duration::from_secs(5))).await.unwrap().unwrap();
    assert_eq!(cause(&verdict), Some(FailureCause::NotAttached));
}

#[tokio::test]
async fn answers_come_in_any_order_and_what_nobody_asked_is_counted_and_dropped() {
    let router = Router::new().await;
    let mut stream = router.attach(8).await;
    let (one, two) = (router.ask("q1", Duration::from_secs(9)), router.ask("q2", Duration::from_secs(9)));
    let (first, second) = (stream.asked().await, stream.asked().await);
    assert_ne!(first, second);
    stream.answer("never-asked").await;
    stream.answer(&second).await;
    stream.answer(&second).await;
    stream.answer(&first).await;
    assert!(within(one).await.unwrap().unwrap().is_admitted());
    assert!(within(two).await.unwrap().unwrap().is_admitted());
    assert_eq!(router.late.load(Ordering::SeqCst), 2, "one never asked, one answered twice");
}

#[tokio::test]
async fn a_question_that_hangs_is_withdrawn_and_its_late_answer_dropped() {
    let router = Router::new().await;
    let mut stream = router.attach(8).await;
    let hanging = router.ask("q1", Duration::from_millis(50));
    let id = stream.asked().await;
    assert!(within(hanging).await.unwrap().is_err());
    assert!(matches!(stream.hear().await, Some(router_message::Message::Withdrawn(withdrawn)) if withdrawn.id == id));
    stream.answer(&id).await;
    let next = router.ask("q2", Duration::from_secs(9));
    let id = stream.asked().await;
    stream.answer(&id).await;
    assert!(within(next).await.unwrap().unwrap().is_admitted());
    assert_eq!(router.late.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn when_an_instance_dies_with_a_question_open_another_is_asked_the_same() {
    let router = Router::new().await;
    let (mut one, mut two) = (router.attach(8).await, router.attach(8).await);
    let asking = router.ask("q1", Duration::from_secs(9));
    let (id, mut other) = tokio::select! {
        message = one.incoming.message() => (message, two),
        message = two.incoming.message() => (message, one),
    };
    let Some(router_message::Message::Request(first)) = id.unwrap().unwrap().message else { panic!("a question") };
    // As its vanishing would end it.
    router.controller.leave_busiest();
    let again = other.asked().await;
    assert_eq!(again, first.id);
    other.answer(&again).await;
    assert!(within(asking).await.unwrap().unwrap().is_admitted());
}

#[tokio::test]
async fn an_instance_is_asked_no_more_at_once_than_it_takes() {
    let router = Router::new().await;
    let mut stream = router.attach(2).await;
    let asking: Vec<_> = (0..5).map(|n| router.ask(&format!("q{n}"), Duration::from_secs(9))).collect();
    for _ in 0..5 {
        let id = stream.asked().await;
        assert!(router.controller.open() <= 2);
        stream.answer(&id).await;
    }
    for verdict in asking {
        assert!(within(verdict).await.unwrap().unwrap().is_admitted());
    }
}

#[tokio::test]
async fn a_flood_of_answers_harms_nobody() {
    let router = Router::new().await;
    let mut flooding = router.attach(8).await;
    let flood = flooding.out.clone();
    let flooder = tokio::spawn(async move {
        for n in 0..20_000 {
            let message = controller_message::Message::Response(admits(&format!("x{n}")));
            if flood.send(ControllerMessage { message: Some(message) }).await.is_err() {
                break;
            }
        }
    });
    let asking = router.ask("q1", Duration::from_secs(9));
    let id = flooding.asked().await;
    flooding.answer(&id).await;
    assert!(within(asking).await.unwrap().unwrap().is_admitted());
    within(flooder).await.unwrap();
}

#[tokio::test]
async fn a_draining_instance_is_asked_nothing_new_and_answers_what_is_open() {
    let router = Router::new().await;
    let mut stream = router.attach(8).await;
    let open = router.ask("q1", Duration::from_secs(9));
    let id = stream.asked().await;
    stream.say(controller_message::Message::Draining(jobgate_proto::admission::v1::Draining {})).await;
    stream.say(controller_message::Message::PolicyChanged(PolicyChanged { policy_version: "p2".into() })).await;
    // The version tells that the words before it were heard.
    let mut versions = router.controller.versions();
    within(versions.wait_for(|versions| versions.contains("p2"))).await.unwrap();
    let refused = within(router.ask("q2", Duration::from_secs(9))).await.unwrap().unwrap();
    assert_eq!(cause(&refused), Some(FailureCause::NotAttached));
    stream.answer(&id).await;
    assert!(within(open).await.unwrap().unwrap().is_admitted());
    assert!(stream.hear().await.is_none(), "the router ends the stream when nothing is open");
}

#[tokio::test]
async fn the_router_drains_before_it_closes() {
    let router = Router::new().await;
    let mut stream = router.attach(8).await;
    let open = router.ask("q1", Duration::from_secs(9));
    let id = stream.asked().await;
    router.closing.send_replace(true);
    assert!(matches!(stream.hear().await, Some(router_message::Message::Draining(_))));
    stream.answer(&id).await;
    assert!(within(open).await.unwrap().unwrap().is_admitted());
    assert!(stream.hear().await.is_none());
}

#[tokio::test]
async fn the_sdks_controllers_attach_and_come_back() {
    let router = Router::new().await;
    let attach = || {
        let controller = serve(|_: AdmissionRequest| async { Verdict::reject("no").rule("r") });
        let attach =
            controller.named("c").policy_version("p7".to_owned()).attach(router.url.clone(), Token::from_value(TOKEN));
        tokio::spawn(attach.into_future())
    };
    let first = attach();
    let mut versions = router.controller.versions();
    within(versions.wait_for(|versions| versions.contains("p7"))).await.unwrap();
    let verdict = within(router.ask("q1", Duration::from_secs(9))).await.unwrap().unwrap();
    assert_eq!(verdict.rejection().unwrap().rule(), Some("r"));
    first.abort();
    let _second = attach();
    within(async {
        loop {
            let verdict = router.ask("q2", Duration::from_secs(9)).await.unwrap().unwrap();
            if verdict.rejection().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_instance_is_asked_more_at_once_than_it_takes_however_many_look_at_once() {
    let router = Router::new().await;
    let mut stream = router.attach(2).await;
    let asking: Vec<_> = (0..200).map(|n| router.ask(&format!("q{n}"), Duration::from_secs(19))).collect();
    for _ in 0..200 {
        let id = stream.asked().await;
        let open = router.controller.open();
        assert!(open <= 2, "{open} at once");
        stream.answer(&id).await;
    }
    for verdict in asking {
        assert!(within(verdict).await.unwrap().unwrap().is_admitted());
    }
}

#[tokio::test]
async fn instances_take_turns_even_when_questions_come_one_by_one() {
    let router = Router::new().await;
    let streams = [router.attach(8).await, router.attach(8).await];
    let asked: Arc<Mutex<Vec<usize>>> = Arc::default();
    for (number, mut stream) in streams.into_iter().enumerate() {
        let asked = asked.clone();
        tokio::spawn(async move {
            loop {
                let id = stream.asked().await;
                asked.lock().unwrap().push(number);
                stream.answer(&id).await;
            }
        });
    }
    for n in 0..4 {
        assert!(within(router.ask(&format!("q{n}"), Duration::from_secs(9))).await.unwrap().unwrap().is_admitted());
    }
    let mut asked = asked.lock().unwrap().clone();
    asked.sort_unstable();
    assert_eq!(asked, [0, 0, 1, 1]);
}

#[tokio::test]
async fn who_waits_for_room_is_told_when_the_instance_drains() {
    let router = Router::new().await;
    let mut stream = router.attach(1).await;
    let open = router.ask("q1", Duration::from_secs(19));
    let id = stream.asked().await;
    let waiting: Vec<_> = (0..3).map(|n| router.ask(&format!("w{n}"), Duration::from_secs(19))).collect();
    tokio::task::yield_now().await;
    stream.say(controller_message::Message::Draining(jobgate_proto::admission::v1::Draining {})).await;
    for verdict in waiting {
        let verdict = tokio::time::timeout(Duration::from_secs(9), verdict).await.expect("nobody told it");
        assert_eq!(cause(&verdict.unwrap().unwrap()), Some(FailureCause::NotAttached));
    }
    stream.answer(&id).await;
    assert!(within(open).await.unwrap().unwrap().is_admitted());
}

#[tokio::test]
async fn a_stream_ends_when_its_token_is_taken_away_though_nobody_says_a_word() {
    let router = Router::new().await;
    let mut stream = router.attach(8).await;
    let other = Slot {
        token: Secret::new("another-token-0123456789"),
        scope: "instance".to_owned(),
        dry_run: false,
        controller: Attached::new(),
    };
    router.tunnels.replace(HashMap::from([("c".into(), other)]));
    let ended = within(stream.incoming.message()).await;
    assert_eq!(ended.unwrap_err().code(), tonic::Code::Unavailable, "it may come back with another token");
    within(async {
        while router.controller.count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
