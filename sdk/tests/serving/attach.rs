use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use jobgate_proto::admission::v1::{Draining, Withdrawn, controller_message, router_message};
use jobgate_sdk::{
    AdmissionRequest, Attach, Backoff, FailureCause, ServeError, Token, Verdict, serve,
    testing::{self, RequestBuilder, RouterEnd},
};
use tokio::{
    net::TcpListener,
    sync::{Barrier, oneshot, watch},
    task::JoinHandle,
};

use crate::{Diary, Obedient, until};

type Served = JoinHandle<Result<(), ServeError>>;

fn quick() -> Backoff {
    Backoff::new(Duration::from_millis(1), Duration::from_millis(20)).unwrap()
}

fn spawn(attach: Attach) -> Served {
    tokio::spawn(attach.backoff(quick()).into_future())
}

fn told(name: &str) -> RequestBuilder {
    testing::request().job(|job| job.name = Some(name.into()))
}

fn cause(verdict: Option<Verdict>) -> Option<FailureCause> {
    verdict.expect("an answer").failure().map(jobgate_sdk::Failure::cause)
}

#[tokio::test]
async fn questions_are_answered_at_once_and_in_any_order() {
    let (controller, mut seen) = Obedient::new();
    let gate = controller.gate.clone();
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").version("1.2").policy_version("p1").attach(router.url(), router.token()));
    let attached = router.attached().await;
    let hello = attached.hello();
    assert_eq!((&*hello.controller, &*hello.version, &*hello.policy_version), ("c", "1.2", "p1"));
    assert_eq!(hello.max_in_flight, 64);

    let (first, others) = (told("gate").build(), (0..63).map(|_| told("reject").build()).collect::<Vec<_>>());
    let waiting = attached.ask(&first);
    let answered = async {
        until(&mut seen, "gate").await;
        for verdict in futures_util::future::join_all(others.iter().map(|other| attached.ask(other))).await {
            let verdict = verdict.unwrap();
            assert_eq!(verdict.rejection().unwrap().rule(), Some("told"));
            assert_eq!(verdict.version().map(|version| &**version), Some("p1"));
        }
        gate.add_permits(1);
    };
    let (first, ()) = tokio::join!(waiting, answered);
    assert!(first.unwrap().is_admitted());
}

#[tokio::test]
async fn a_question_that_hangs_panics_or_makes_no_sense_fails_alone() {
    let (controller, _seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").observer(diary).attach(router.url(), router.token()));
    let attached = router.attached().await;

    let hang = told("hang").time_left(Duration::from_millis(50)).build();
    assert_eq!(cause(attached.ask(&hang).await), Some(FailureCause::Silent));
    until(&mut lines, "failed: silent").await;
    assert!(attached.ask(&told("panic").build()).await.unwrap().failure().unwrap().message().contains("panicked"));
    until(&mut lines, "failed: panic").await;
    let mut nothing = told("nothing").wire();
    nothing.job = None;
    assert_eq!(cause(attached.ask_wire(nothing).await.map(Verdict::from)), Some(FailureCause::Error));
    until(&mut lines, "malformed: the question has no job").await;
    let chatty = attached.ask(&told("chatty").build()).await.unwrap();
    assert!(chatty.failure().unwrap().message().contains("fewer warnings"));
    assert!(attached.ask(&told("fine").build()).await.unwrap().is_admitted());
}

#[tokio::test]
async fn a_stream_with_an_oversize_question_is_left_and_another_opened() {
    let (controller, _seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let mut router = RouterEnd::start().await.unwrap();
    let serving = serve(controller).named("c").observer(diary).max_request_bytes(10_000);
    spawn(serving.attach(router.url(), router.token()));
    let attached = router.attached().await;
    let large = told("x").script(["x".repeat(20_000).as_str()]).wire();
    attached.send(router_message::Message::Request(large)).await;
    until(&mut lines, "lost").await;
    assert!(router.attached().await.ask(&told("fine").build()).await.unwrap().is_admitted());
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_a_controller_logs_carries_the_admission() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    // Of this thread only, which runs all of this test.
    let _guard = tracing::subscriber::set_default(subscriber);
    let controller = |_: AdmissionRequest| async {
        tracing::info!("thinking");
        Verdict::admit()
    };
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").attach(router.url(), router.token()));
    let question = told("x").question(|question| question.controller = "gpu-quota".into()).build();
    assert!(router.attached().await.ask(&question).await.unwrap().is_admitted());
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = text.lines().find(|line| line.contains("thinking")).unwrap();
    for part in [question.admission_id(), question.id(), "gpu-quota"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!text.contains(RouterEnd::TOKEN), "{text}");
}

#[tokio::test]
async fn a_withdrawn_question_is_dropped() {
    let (controller, mut seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").observer(diary).attach(router.url(), router.token()));
    let attached = router.attached().await;
    let question = told("hang").time_left(Duration::from_secs(50)).wire();
    let id = question.id.clone();
    attached.send(router_message::Message::Request(question)).await;
    until(&mut seen, "hang").await;
    attached.send(router_message::Message::Withdrawn(Withdrawn { id })).await;
    until(&mut seen, "dropped").await;
    until(&mut lines, "withdrawn").await;
    assert!(attached.ask(&told("fine").build()).await.unwrap().is_admitted());
}

#[tokio::test]
async fn a_router_that_dies_with_a_question_open_is_attached_to_again() {
    let (controller, mut seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").observer(diary).attach(router.url(), router.token()));
    let attached = router.attached().await;
    attached.send(router_message::Message::Request(told("hang").time_left(Duration::from_secs(50)).wire())).await;
    until(&mut seen, "hang").await;
    attached.fail(14, "gone").await;
    until(&mut seen, "dropped").await;
    until(&mut lines, "lost").await;
    let again = router.attached().await;
    assert!(again.ask(&told("fine").build()).await.unwrap().is_admitted());
}

#[tokio::test]
async fn a_router_that_is_not_there_yet_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (controller, _seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let served = spawn(serve(controller).named("c").observer(diary).attach(
        format!("http://{address}"),
        // The token of every test router.
        RouterEnd::start().await.unwrap().token(),
    ));
    until(&mut lines, "unreachable").await;
    assert!(!served.is_finished());
    let mut router = RouterEnd::on(TcpListener::bind(address).await.unwrap()).unwrap();
    assert!(router.attached().await.ask(&told("fine").build()).await.unwrap().is_admitted());
}

#[tokio::test]
async fn a_refusal_is_told_and_tried_again() {
    let (controller, _seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let mut router = RouterEnd::start().await.unwrap();
    router.refuse_next(7, "this token is another controller's");
    spawn(serve(controller).named("c").observer(diary).attach(router.url(), router.token()));
    until(&mut lines, "refused: PERMISSION_DENIED").await;
    router.attached().await;
}

#[tokio::test]
async fn a_token_is_read_again_for_each_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "old\n").unwrap();
    let (controller, _seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").observer(diary).attach(router.url(), Token::from_file(&path)));
    until(&mut lines, "refused: UNAUTHENTICATED").await;
    std::fs::write(&path, format!("{}\n", RouterEnd::TOKEN)).unwrap();
    router.attached().await;
}

#[tokio::test]
async fn the_router_is_told_of_a_new_policy() {
    let (version, follows) = watch::channel("p1".to_owned());
    let (controller, _seen) = Obedient::new();
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").policy_version(follows).attach(router.url(), router.token()));
    let mut attached = router.attached().await;
    version.send("p2".into()).unwrap();
    let message = attached.next().await.unwrap();
    assert!(matches!(message, controller_message::Message::PolicyChanged(new) if new.policy_version == "p2"));
    let verdict = attached.ask(&told("fine").build()).await.unwrap();
    assert_eq!(verdict.version().map(|version| &**version), Some("p2"));
    drop(version);
    assert!(attached.ask(&told("fine").build()).await.unwrap().is_admitted());
}

#[tokio::test]
async fn shutdown_answers_what_is_open_and_then_closes() {
    let (controller, mut seen) = Obedient::new();
    let gate = controller.gate.clone();
    let mut router = RouterEnd::start().await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = spawn(serve(controller).named("c").attach(router.url(), router.token()).with_shutdown(stopped));
    let mut attached = router.attached().await;
    let open = told("gate").time_left(Duration::from_secs(20)).wire();
    let id = open.id.clone();
    attached.send(router_message::Message::Request(open)).await;
    until(&mut seen, "gate").await;
    stop.send(()).unwrap();
    assert!(matches!(attached.next().await, Some(controller_message::Message::Draining(_))));
    // A question that crossed the word of draining on its way is answered too.
    assert!(attached.ask(&told("crossed").build()).await.unwrap().is_admitted());
    attached.send(router_message::Message::Draining(Draining {})).await;
    gate.add_permits(1);
    assert!(matches!(attached.next().await, Some(controller_message::Message::Response(answer)) if answer.id == id));
    assert!(attached.next().await.is_none(), "the controller closes its side");
    drop(attached);
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_question_that_crosses_the_word_of_draining_is_answered_also_when_nothing_else_is_open() {
    let (controller, _seen) = Obedient::new();
    let mut router = RouterEnd::start().await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = spawn(serve(controller).named("c").attach(router.url(), router.token()).with_shutdown(stopped));
    let mut attached = router.attached().await;
    assert!(attached.ask(&told("first").build()).await.unwrap().is_admitted());
    stop.send(()).unwrap();
    assert!(matches!(attached.next().await, Some(controller_message::Message::Draining(_))));
    assert!(attached.ask(&told("crossed").build()).await.unwrap().is_admitted());
    attached.send(router_message::Message::Draining(Draining {})).await;
    assert!(attached.next().await.is_none(), "the controller closes its side");
    drop(attached);
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_longer_than_its_limit() {
    let (controller, mut seen) = Obedient::new();
    let mut router = RouterEnd::start().await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = serve(controller).named("c").drain_limit(Duration::from_millis(20));
    let served = spawn(serving.attach(router.url(), router.token()).with_shutdown(stopped));
    let attached = router.attached().await;
    attached.send(router_message::Message::Request(told("hang").time_left(Duration::from_secs(50)).wire())).await;
    until(&mut seen, "hang").await;
    stop.send(()).unwrap();
    assert!(matches!(served.await.unwrap(), Err(ServeError::NotDrained { open: 1, .. })));
    until(&mut seen, "dropped").await;
}

#[tokio::test]
async fn a_draining_router_is_left_and_found_again() {
    let (controller, _seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").observer(diary).attach(router.url(), router.token()));
    let attached = router.attached().await;
    attached.send(router_message::Message::Draining(Draining {})).await;
    drop(attached);
    until(&mut lines, "disconnected").await;
    assert!(router.attached().await.ask(&told("fine").build()).await.unwrap().is_admitted());
}

#[tokio::test]
async fn no_more_questions_are_worked_on_than_allowed() {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    static PAIR: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));
    let controller = |_: AdmissionRequest| async {
        MOST.fetch_max(NOW.fetch_add(1, SeqCst) + 1, SeqCst);
        // Each waits for another: two are worked on at once.
        PAIR.wait().await;
        NOW.fetch_sub(1, SeqCst);
        Verdict::admit()
    };
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").max_in_flight(2).attach(router.url(), router.token()));
    let attached = router.attached().await;
    assert_eq!(attached.hello().max_in_flight, 2);
    let questions: Vec<_> = (0..200).map(|_| told("x").build()).collect();
    for verdict in futures_util::future::join_all(questions.iter().map(|question| attached.ask(question))).await {
        assert!(verdict.unwrap().is_admitted());
    }
    assert_eq!(MOST.load(SeqCst), 2);
}

#[tokio::test]
async fn a_router_that_speaks_out_of_turn_is_left() {
    let (controller, _seen) = Obedient::new();
    let (diary, mut lines) = Diary::new();
    let mut router = RouterEnd::start().await.unwrap();
    spawn(serve(controller).named("c").observer(diary).attach(router.url(), router.token()));
    let attached = router.attached().await;
    attached.send(router_message::Message::Welcome(jobgate_proto::admission::v1::Welcome::default())).await;
    let url = router.url().to_owned();
    until(&mut lines, &format!("other: the router at {url} welcomed the controller twice")).await;
}
