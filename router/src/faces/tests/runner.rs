use std::time::Duration;

use jobgate_proto::runner::v1::{
    self as wire, GatewayMessage, RunnerMessage, gateway_message, runner_gateway_client::RunnerGatewayClient,
    runner_message::Message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::support::{ALL, RUNNER, Setup, World, document, with_token};
use crate::job::{JobId, JobState};

/// A runner's end of its stream.
struct Runner {
    out: mpsc::Sender<RunnerMessage>,
    incoming: Streaming<GatewayMessage>,
}

impl Runner {
    async fn open(
        world: &World,
        change: impl FnOnce(&mut Request<ReceiverStream<RunnerMessage>>),
    ) -> Result<Self, Status> {
        let (out, outgoing) = mpsc::channel(16);
        let mut request = with_token(ReceiverStream::new(outgoing), "");
        change(&mut request);
        let incoming = RunnerGatewayClient::new(world.channel().await).attach(request).await?.into_inner();
        Ok(Self { out, incoming })
    }

    /// Attached with its token, and welcomed.
    async fn attached(world: &World, system_id: &str) -> Self {
        let mut runner = Self::opened(world).await;
        runner.say(hello(system_id, 2)).await;
        assert!(matches!(runner.hear().await, gateway_message::Message::Welcome(_)));
        runner
    }

    async fn opened(world: &World) -> Self {
        let token = format!("Bearer {RUNNER}").parse().unwrap();
        Self::open(world, |request| drop(request.metadata_mut().insert("authorization", token))).await.unwrap()
    }

    async fn say(&self, message: Message) {
        self.out.send(RunnerMessage { message: Some(message) }).await.unwrap();
    }

    async fn hear(&mut self) -> gateway_message::Message {
        loop {
            // How the queue is may be told at any time.
            match self.incoming.message().await.unwrap().unwrap().message.unwrap() {
                gateway_message::Message::Queue(_) => {}
                message => return message,
            }
        }
    }

    /// The status its stream ends with.
    async fn end(mut self) -> Code {
        loop {
            match self.incoming.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }
}

fn hello(system_id: &str, capacity: u32) -> Message {
    Message::Hello(wire::Hello { system_id: system_id.to_owned(), capacity, ..Default::default() })
}

#[tokio::test]
async fn a_job_is_assigned_run_and_recorded() {
    let world = Setup::guarded().start().await;
    let mut runner = Runner::opened(&world).await;
    runner.say(hello("host-1", 2)).await;
    let gateway_message::Message::Welcome(welcome) = runner.hear().await else { panic!("no welcome") };
    assert_eq!(welcome.runner, "gpu-1");
    assert_eq!((welcome.heartbeat_interval.unwrap().seconds, welcome.silence_limit.unwrap().seconds), (5, 30));
    runner.say(Message::Credit(wire::Credit { slots: 1 })).await;
    let id = world.submit(ALL, "acme/api").await;
    let assign = loop {
        if let gateway_message::Message::Assign(assign) = runner.hear().await {
            break assign;
        }
    };
    assert_eq!(assign.job_id, id);
    assert_eq!(assign.document, document("acme/api").as_bytes(), "byte for byte");
    let (job_id, lease) = (id.clone(), assign.lease);
    runner.say(Message::Accept(wire::Accept { job_id: job_id.clone(), lease })).await;
    runner.say(Message::Started(wire::Started { job_id: job_id.clone(), lease })).await;
    let data = bytes::Bytes::from_static(b"hello\n");
    runner.say(Message::Output(wire::Output { job_id: job_id.clone(), lease, data })).await;
    let reason = "line one\nline two".to_owned();
    let outcome = wire::Outcome::Failed.into();
    runner.say(Message::Finished(wire::Finished { job_id, lease, outcome, exit_code: Some(3), reason })).await;
    while !matches!(runner.hear().await, gateway_message::Message::Recorded(recorded) if recorded.job_id == id) {}
    let record = world.handle.job(&JobId::new(id)).await.unwrap();
    assert_eq!((record.state, record.exit_code), (JobState::Failed, Some(3)));
    assert!(!record.reason.contains('\n'), "{}", record.reason);
}

#[tokio::test]
async fn a_heartbeat_is_answered() {
    let world = Setup::guarded().start().await;
    let mut runner = Runner::attached(&world, "host-1").await;
    runner.say(Message::Heartbeat(wire::Heartbeat::default())).await;
    while !matches!(runner.hear().await, gateway_message::Message::Heartbeat(_)) {}
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends_and_says_why() {
    let world = Setup::guarded().start().await;
    let long = "x".repeat(129);
    let held = |job_id: &str| wire::HeldLease { job_id: job_id.to_owned(), lease: 1, started: true };
    for first in [
        Message::Credit(wire::Credit { slots: 1 }),
        hello("", 1),
        hello(&long, 1),
        hello("a\nb", 1),
        hello("host", 0),
        hello("host", u32::MAX),
        Message::Hello(wire::Hello {
            system_id: "host".into(),
            capacity: 1,
            leases: vec![held("")],
            ..Default::default()
        }),
        Message::Hello(wire::Hello {
            system_id: "host".into(),
            capacity: 1,
            taints: vec!["jobs".into(), "disk is full".into()],
            ..Default::default()
        }),
    ] {
        let runner = Runner::opened(&world).await;
        runner.say(first.clone()).await;
        assert_eq!(runner.end().await, Code::InvalidArgument, "{first:?}");
    }
    let (job_id, lease) = ("0123".to_owned(), 1);
    let data = vec![0; 64 * 1024 + 1].into();
    let unspecified = wire::Finished { job_id: job_id.clone(), lease, ..Default::default() };
    for later in [
        hello("host", 2),
        Message::Credit(wire::Credit { slots: 0 }),
        Message::Credit(wire::Credit { slots: 3 }),
        Message::Credit(wire::Credit { slots: u32::MAX }),
        Message::Output(wire::Output { job_id, lease, data }),
        Message::Finished(unspecified),
        Message::Accept(wire::Accept::default()),
        Message::Heartbeat(wire::Heartbeat { leases: vec![held(&long)] }),
    ] {
        let runner = Runner::attached(&world, "host-1").await;
        runner.say(later.clone()).await;
        let what = format!("{later:?}").chars().take(80).collect::<String>();
        assert_eq!(runner.end().await, Code::InvalidArgument, "{what}");
    }
    // A message larger than any of ours is not even read.
    let runner = Runner::attached(&world, "host-1").await;
    let data = vec![0; 2 * 1024 * 1024].into();
    runner.say(Message::Output(wire::Output { job_id: "0123".into(), lease, data })).await;
    assert_eq!(runner.end().await, Code::OutOfRange);
}

#[tokio::test]
async fn a_message_of_a_newer_runner_is_passed_over() {
    let world = Setup::guarded().start().await;
    let mut runner = Runner::attached(&world, "host-1").await;
    runner.out.send(RunnerMessage { message: None }).await.unwrap();
    runner.say(Message::Heartbeat(wire::Heartbeat::default())).await;
    while !matches!(runner.hear().await, gateway_message::Message::Heartbeat(_)) {}
}

#[tokio::test]
async fn a_runner_without_a_hello_is_let_go() {
    let mut setup = Setup::guarded();
    setup.limits.hello = Duration::from_millis(50);
    let world = setup.start().await;
    assert_eq!(Runner::opened(&world).await.end().await, Code::InvalidArgument);
}

#[tokio::test]
async fn a_runner_without_a_word_is_let_go() {
    let mut setup = Setup::guarded();
    setup.limits.runner_silence = Duration::from_millis(50);
    let world = setup.start().await;
    assert_eq!(Runner::attached(&world, "host-1").await.end().await, Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_same_system_attached_again_ends_the_older_stream() {
    let world = Setup::guarded().start().await;
    let older = Runner::attached(&world, "host-1").await;
    let _newer = Runner::attached(&world, "host-1").await;
    assert_eq!(older.end().await, Code::Aborted);
}

#[tokio::test]
async fn a_runner_that_vanishes_is_detached() {
    let mut world = Setup::guarded().start().await;
    let runner = Runner::attached(&world, "host-1").await;
    assert_eq!(world.handle.runners().await.unwrap()[0].systems.len(), 1);
    drop(runner);
    let gone = async {
        while !world.handle.runners().await.unwrap()[0].systems.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    // Long before it is missed for its silence.
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    world.stop();
    world.stopped().await;
}

#[tokio::test]
async fn shutdown_drains_a_runner_and_ends_an_idle_one_at_once() {
    let mut world = Setup::guarded().start().await;
    let mut runner = Runner::attached(&world, "host-1").await;
    world.stop();
    assert!(matches!(runner.hear().await, gateway_message::Message::Draining(_)));
    assert_eq!(runner.end().await, Code::Unavailable);
    world.stopped().await;
}

#[tokio::test]
async fn shutdown_waits_for_the_result_of_a_running_job() {
    let mut world = Setup::guarded().start().await;
    let mut runner = Runner::attached(&world, "host-1").await;
    runner.say(Message::Credit(wire::Credit { slots: 1 })).await;
    let job_id = world.submit(ALL, "acme/api").await;
    let lease = loop {
        if let gateway_message::Message::Assign(assign) = runner.hear().await {
            break assign.lease;
        }
    };
    runner.say(Message::Accept(wire::Accept { job_id: job_id.clone(), lease })).await;
    runner.say(Message::Started(wire::Started { job_id: job_id.clone(), lease })).await;
    world.stop();
    while !matches!(runner.hear().await, gateway_message::Message::Draining(_)) {}
    let outcome = wire::Outcome::Success.into();
    runner.say(Message::Finished(wire::Finished { job_id, lease, outcome, ..Default::default() })).await;
    while !matches!(runner.hear().await, gateway_message::Message::Recorded(_)) {}
    assert_eq!(runner.end().await, Code::Unavailable);
    world.stopped().await;
}

#[tokio::test]
async fn in_trial_mode_a_runner_says_who_it_is() {
    let world = Setup::trial().start().await;
    let say = |name: &'static str, tags: &'static str| {
        move |request: &mut Request<ReceiverStream<RunnerMessage>>| {
            request.metadata_mut().insert("x-jobgate-runner", name.parse().unwrap());
            request.metadata_mut().insert("x-jobgate-tags", tags.parse().unwrap());
        }
    };
    let mut runner = Runner::open(&world, say("trial-1", "linux, gpu,gpu")).await.unwrap();
    runner.say(hello("host-1", 1)).await;
    let gateway_message::Message::Welcome(welcome) = runner.hear().await else { panic!("no welcome") };
    assert_eq!(welcome.runner, "trial-1");
    assert_eq!(world.handle.runners().await.unwrap()[0].tags, ["gpu", "linux"]);
    for (name, tags) in [("", ""), ("a b", ""), ("a", "b\u{21}")] {
        let status = Runner::open(&world, say(name, tags)).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{name} {tags}");
    }
    assert_eq!(Runner::open(&world, |_| {}).await.err().unwrap().code(), Code::InvalidArgument);
    // With tokens, the metadata says nothing.
    let world = Setup::guarded().start().await;
    assert_eq!(Runner::open(&world, say("gpu-1", "")).await.err().unwrap().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn nothing_of_a_document_is_logged_on_its_way_to_a_runner() {
    const SECRET: &str = "hunter2-hunter2";
    let log = super::log::Log::start();
    let world = Setup::guarded().start().await;
    let mut runner = Runner::attached(&world, "host-1").await;
    runner.say(Message::Credit(wire::Credit { slots: 1 })).await;
    let document = document("acme/api").replace("true", SECRET);
    assert_eq!(world.post("/v1/jobs", ALL, &document).await.status, 201);
    let assign = loop {
        if let gateway_message::Message::Assign(assign) = runner.hear().await {
            break assign;
        }
    };
    assert!(String::from_utf8(assign.document.to_vec()).unwrap().contains(SECRET));
    assert!(!format!("{assign:?}").contains(SECRET));
    runner.say(hello("host-1", 2)).await;
    assert_eq!(runner.end().await, Code::InvalidArgument);
    let text = log.text();
    assert!(text.contains("runner attached") && text.contains("runner detached"), "{text}");
    for secret in [SECRET, RUNNER, ALL] {
        assert!(!text.contains(secret), "{text}");
    }
}
