//! The fake GitLab of the other tests, and the fake runner: each awkward answer once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[path = "support/gitlab/mod.rs"]
mod gitlab;
#[path = "support/gitlab_runner/mod.rs"]
mod gitlab_runner;

use std::time::Duration;

use bytes::Bytes;
use gitlab::{
    Answer, Content, Endpoint, Gate, GitLab, JobBuilder, Outage, Outcome, Settings, Status, pattern_checksum,
};
use gitlab_runner::{Code, Done, FakeRunner, Heard, Polled};
use serde_json::{Value, json};

const TOKEN: &str = "glrt-one";

async fn started() -> (GitLab, FakeRunner) {
    with(|_| ()).await
}

async fn with(change: impl FnOnce(&mut Settings)) -> (GitLab, FakeRunner) {
    let mut settings = Settings::default();
    change(&mut settings);
    let gitlab = GitLab::start_with(settings).await;
    gitlab.runner(TOKEN);
    let runner = FakeRunner::new(gitlab.url(), TOKEN);
    (gitlab, runner)
}

fn code(polled: &Polled) -> Code {
    match polled {
        Polled::Failed(code) | Polled::Unhealthy(code) => *code,
        other => panic!("it went well: {other:?}"),
    }
}

#[tokio::test]
async fn a_job_from_the_queue_to_its_end() {
    let (gitlab, runner) = started().await;
    let document = JobBuilder::new(17).build();
    gitlab.enqueue(document.clone());
    let mut job = runner.poll().await.job();
    assert_eq!(job.bytes, document.bytes);
    assert_eq!(job.correlation_id(), Some(runner.request_ids()[0].as_str()));
    assert_eq!(runner.whole(&mut job).await, Some(200));
    let jobs = gitlab.all_ended().await;
    assert_eq!((jobs.len(), jobs[0].status, jobs[0].assignments.len()), (1, Status::Success, 1));
    assert_eq!(jobs[0].system_id(), Some(runner.system_id.as_str()));
    assert_eq!(jobs[0].trace, job.trace);
    assert_eq!(jobs[0].checksum, Some(format!("crc32:{:08x}", crc32fast::hash(&job.trace))));
    assert_eq!(jobs[0].updates, ["running", "success"]);

    let call = gitlab.answered(Endpoint::Request, 1).await;
    assert_eq!((call.outcome, call.header("runner-token")), (Some(Outcome::Status(201)), Some(TOKEN)));
    assert_eq!(call.json()["info"]["features"].as_object().unwrap().len(), 31);
    assert_eq!(gitlab.calls(Endpoint::Trace).len(), 3);
    // It is over, and its token with it.
    assert_eq!(runner.accept(&mut job).await, Heard::Abort);
    assert_eq!(runner.print(&mut job, b"more").await, Heard::Abort);
    assert_eq!(runner.upload(&job, "a.zip", std::iter::empty()).await, Some(403));
    assert_eq!(gitlab.job(17).refused, 3);
}

#[tokio::test]
async fn tokens() {
    let (gitlab, runner) = started().await;
    assert_eq!(runner.verify().await.unwrap(), (200, json!({"id": 1, "token": TOKEN, "token_expires_at": null})));
    assert_eq!(gitlab.verified(TOKEN), 1);
    let stranger = FakeRunner::new(gitlab.url(), "glrt-other");
    assert_eq!(stranger.verify().await.unwrap().0, 403);
    for _ in 0..3 {
        assert!(stranger.healthy());
        assert!(matches!(stranger.poll().await, Polled::Unhealthy(Code::Http(403))));
    }
    assert!(!stranger.healthy());
    assert_eq!(runner.discover().await, Some((501, None)));
    gitlab.enqueue_for(Some("glrt-other"), JobBuilder::new(1).build());
    assert!(runner.poll().await.is_empty());
    gitlab.runner("glrt-other");
    assert_eq!(stranger.poll().await.job().id, 1);
}

#[tokio::test]
async fn a_request_is_held_until_the_queue_changes() {
    let (gitlab, runner) = started().await;
    assert!(runner.poll().await.is_empty());
    assert_eq!(runner.last_update(), Some(gitlab.last_update(TOKEN)));
    let (polled, ()) = tokio::join!(runner.poll(), async {
        gitlab.holding(1).await;
        gitlab.enqueue(JobBuilder::new(1).build());
    });
    assert_eq!(polled.job().id, 1);
    // The value changed when the job was taken, and is told with the next 204 only.
    assert!(runner.poll().await.is_empty());
    gitlab.set(|settings| settings.hold = Duration::ZERO);
    assert!(runner.poll().await.is_empty());
}

#[tokio::test]
async fn who_goes_away_while_held_gets_no_job() {
    let (gitlab, runner) = started().await;
    assert!(runner.poll().await.is_empty());
    tokio::select! {
        _ = runner.poll() => panic!("nothing came"),
        () = gitlab.holding(1) => {}
    }
    gitlab.holding(0).await;
    assert_eq!(gitlab.answered(Endpoint::Request, 2).await.outcome, Some(Outcome::Gone));
    gitlab.enqueue(JobBuilder::new(1).build());
    assert_eq!((gitlab.job(1).status, gitlab.queued()), (Status::Queued, 1));
}

#[tokio::test]
async fn awkward_answers_to_a_request() {
    let (gitlab, runner) = started().await;
    for status in [409, 422, 400, 404] {
        gitlab.answers([Answer::Status(status)]);
        assert_eq!(code(&runner.poll().await), Code::Http(status));
    }
    gitlab.answers([Answer::Garbage, Answer::BreakBefore]);
    assert_eq!(code(&runner.poll().await), Code::NoJob);
    assert_eq!(code(&runner.poll().await), Code::Transport);

    // Repeated under one id; the fifth answer counts.
    gitlab.forget_calls();
    let wait = Answer::StatusWith(429, vec![("retry-after", "7".to_owned())]);
    gitlab.answers([wait, Answer::Status(503), Answer::Status(500), Answer::Status(502), Answer::Status(504)]);
    assert_eq!(code(&runner.poll().await), Code::Http(504));
    assert_eq!(runner.pauses()[..2], [Duration::from_secs(7), Duration::from_millis(200)]);
    let ids: Vec<_> =
        gitlab.calls(Endpoint::Request).iter().map(|call| call.header("x-request-id").unwrap().to_owned()).collect();
    assert_eq!((ids.len(), ids.iter().all(|id| *id == ids[0])), (5, true));

    for (id, answer) in [(1, Answer::BreakOff), (2, Answer::BreakHalfway), (3, Answer::ContentType("text/html"))] {
        gitlab.enqueue(JobBuilder::new(id).build());
        gitlab.answers([answer]);
        assert!(matches!(runner.poll().await, Polled::Failed(Code::Transport | Code::NoJob)));
        // Assigned all the same, and so lost.
        assert_eq!(gitlab.job(id).status, Status::Running);
        assert_eq!(gitlab.queued(), 0);
    }
    gitlab.enqueue(JobBuilder::new(4).build());
    gitlab.answers([Answer::Lost(503)]);
    assert!(runner.poll().await.is_empty(), "the repetition gets no second job");
    assert_eq!(gitlab.job(4).assignments.len(), 1);
}

#[tokio::test]
async fn gates_and_what_happens_in_mid_air() {
    let (gitlab, runner) = started().await;
    let gate = Gate::new();
    gitlab.answers([Answer::Delay(gate.clone())]);
    let (polled, ()) = tokio::join!(runner.poll(), async {
        gate.reached(1).await;
        gitlab.enqueue(JobBuilder::new(1).build());
        assert_eq!(gitlab.job(1).status, Status::Queued);
        gate.open();
    });
    assert_eq!(polled.job().id, 1);

    let gate = Gate::new();
    gitlab.answers([Answer::DelayDelivery(gate.clone())]);
    gitlab.enqueue(JobBuilder::new(2).build());
    let (polled, ()) = tokio::join!(runner.poll(), async {
        gate.reached(1).await;
        assert!(gitlab.cancel(2));
        gate.open();
    });
    assert_eq!(runner.accept(&mut polled.job()).await, Heard::Abort);

    gitlab.answers([Answer::Hang]);
    tokio::select! {
        _ = runner.poll() => panic!("it was answered"),
        _ = gitlab.nth(Endpoint::Request, 3) => {}
    }
    assert_eq!(gitlab.answered(Endpoint::Request, 3).await.outcome, Some(Outcome::Gone));
}

#[tokio::test]
async fn cancels() {
    let (gitlab, runner) = started().await;
    gitlab.enqueue(JobBuilder::new(1).build());
    gitlab.enqueue(JobBuilder::new(2).build());
    assert!(gitlab.cancel(2));
    assert_eq!((gitlab.queued(), gitlab.cancel(2)), (1, false));
    let mut job = runner.poll().await.job();
    assert_eq!(runner.accept(&mut job).await, Heard::GoOn);
    gitlab.cancel_gracefully(1);
    assert_eq!(runner.print(&mut job, b"line\n").await, Heard::Canceling);
    assert_eq!(runner.keep_alive(&mut job).await, Heard::Canceling);
    assert_eq!(runner.finish_as(&mut job, Done::Failed { reason: "job_canceled", exit_code: 1 }).await, Some(200));
    assert_eq!(gitlab.ended(1).await.status, Status::Canceled);

    // Who did not say that it can gets no grace.
    let older = FakeRunner::new(gitlab.url(), TOKEN).without_feature("cancel_gracefully");
    gitlab.enqueue(JobBuilder::new(3).build());
    let mut job = older.poll().await.job();
    gitlab.cancel_gracefully(3);
    assert_eq!(older.print(&mut job, b"line\n").await, Heard::Abort);
    assert_eq!(gitlab.job(3).status, Status::Canceled);
}

#[tokio::test]
async fn two_phases() {
    let (gitlab, runner) = with(|settings| settings.two_phase = true).await;
    let put = async |id: u64, token: &str, state: &str| {
        let url = format!("{}/api/v4/jobs/{id}", gitlab.url());
        let body = json!({ "token": token, "state": state }).to_string();
        let response = reqwest::Client::new().put(url).body(body).send().await.unwrap();
        let status = response.headers()["job-status"].to_str().unwrap().to_owned();
        (response.status().as_u16(), status, response.text().await.unwrap())
    };
    let is = |status: u16, job: &str| (status, job.to_owned(), status.to_string());
    for id in [1, 2] {
        gitlab.enqueue(JobBuilder::new(id).build());
    }
    let mut job = runner.poll().await.job();
    assert_eq!(gitlab.job(1).status, Status::Pending);
    assert_eq!(put(1, &job.token, "failed").await, is(400, "pending"));
    assert_eq!(put(1, &job.token, "success").await, is(400, "pending"));
    assert_eq!(put(1, &job.token, "pending").await, is(200, "pending"));
    assert_eq!(put(1, &job.token, "running").await, is(200, "running"));
    assert_eq!(put(1, &job.token, "pending").await, is(400, "running"));
    assert_eq!(put(1, &job.token, "failed").await, is(200, "failed"));
    assert_eq!(put(1, &job.token, "failed").await, is(403, "failed"));
    job = runner.poll().await.job();
    assert!(gitlab.expire_ack(2));
    assert_eq!(put(2, &job.token, "running").await, is(403, "failed"));
    assert_eq!(gitlab.job(2).failure_reason.as_deref(), Some("runner_provisioning_timeout"));

    // Without the feature the job runs at once.
    let older = FakeRunner::new(gitlab.url(), TOKEN).without_feature("two_phase_job_commit");
    gitlab.enqueue(JobBuilder::new(3).build());
    let _job = older.poll().await.job();
    assert_eq!(gitlab.job(3).status, Status::Running);
}

#[tokio::test]
async fn final_states() {
    let (gitlab, runner) = with(|settings| {
        settings.live_trace = true;
        settings.rewinds = 1;
        settings.known_reasons.retain(|reason| reason != "job_router_failure");
    })
    .await;
    for id in 1..=3 {
        gitlab.enqueue(JobBuilder::new(id).build());
    }
    let mut job = runner.poll().await.job();
    runner.accept(&mut job).await;
    runner.run(&mut job).await;
    assert_eq!(runner.finish(&mut job).await, Some(200));
    let answers: Vec<_> = gitlab.calls(Endpoint::Update).iter().filter_map(|call| call.outcome).collect();
    assert_eq!(answers, [200, 412, 202, 200].map(Outcome::Status));
    assert_eq!(gitlab.job(1).trace, job.trace, "a rewound trace is not appended twice");

    for (sent, stored) in [("job_router_failure", "unknown_failure"), ("runner_unsupported", "runner_unsupported")] {
        let mut job = runner.poll().await.job();
        runner.finish_as(&mut job, Done::Failed { reason: sent, exit_code: 3 }).await;
        let job = gitlab.ended(job.id).await;
        assert_eq!((job.failure_reason.as_deref(), job.sent_reason.as_deref()), (Some(stored), Some(sent)));
        assert_eq!(job.exit_code, Some(3));
    }
}

#[tokio::test]
async fn trace_offsets() {
    let (gitlab, runner) = with(|settings| settings.trace_limit = Some(10)).await;
    gitlab.enqueue(JobBuilder::new(1).build());
    let job = runner.poll().await.job();
    let url = format!("{}/api/v4/jobs/1/trace", gitlab.url());
    let patch = async |token: &str, range: Option<&str>, body: &'static str| {
        let mut request = reqwest::Client::new().patch(&url).header("job-token", token).body(body);
        if let Some(range) = range {
            request = request.header("content-range", range);
        }
        let response = request.send().await.unwrap();
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), header("range"), header("job-status"))
    };
    let is = |status, range: &str| (status, Some(range.to_owned()), Some("running".to_owned()));
    assert_eq!(patch(&job.token, None, "x").await, (400, None, Some("running".to_owned())));
    assert_eq!(patch("other", Some("0-0"), "x").await.0, 403);
    assert_eq!(patch(&job.token, Some("0-3"), "abcd").await, is(202, "0-4"));
    assert_eq!(patch(&job.token, Some("0-3"), "abcd").await, is(202, "0-4"));
    assert_eq!(patch(&job.token, Some("7-8"), "hi").await, is(416, "0-4"));
    assert_eq!(patch(&job.token, Some("2-4"), "cde").await, is(416, "0-4"));
    assert_eq!(patch(&job.token, Some("4-5"), "ef").await, is(202, "0-6"));
    assert_eq!(gitlab.job(1).trace_text(), "abcdef");
    assert_eq!(patch(&job.token, Some("6-10"), "ghijk").await.0, 403);
    assert_eq!(gitlab.ended(1).await.failure_reason.as_deref(), Some("trace_size_exceeded"));
}

#[tokio::test]
async fn a_runner_finds_its_place_again() {
    let (gitlab, runner) = started().await;
    gitlab.enqueue(JobBuilder::new(1).build());
    let mut job = runner.poll().await.job();
    // The piece is stored, and the answer lost: the repetition is taken as such, and stored once.
    gitlab.script(Endpoint::Trace, [Answer::Lost(502), Answer::Normal, Answer::BreakOff]);
    runner.print(&mut job, b"one\n").await;
    runner.print(&mut job, b"two\n").await;
    runner.print(&mut job, b"three\n").await;
    assert_eq!(runner.finish(&mut job).await, Some(200));
    assert_eq!(gitlab.job(1).trace_text(), "one\ntwo\nthree\n");
}

#[tokio::test]
async fn artifacts() {
    const SIZE: u64 = 3 << 20;
    let (gitlab, runner) = started().await;
    gitlab.enqueue(JobBuilder::new(2).build());
    let job = runner.poll().await.job();
    let piece = Bytes::from(vec![7; 1000]);
    let pieces = move || std::iter::repeat_n(piece.clone(), 500);
    gitlab.script(Endpoint::Upload, [Answer::Status(413), Answer::Status(503)]);
    assert_eq!(runner.upload(&job, "a.zip", pieces()).await, Some(413));
    assert_eq!(runner.upload(&job, "a.zip", pieces()).await, Some(503));
    assert_eq!(runner.upload(&job, "a.zip", pieces()).await, Some(201));
    let uploads = gitlab.job(2).uploads;
    assert_eq!((uploads.len(), uploads[0].bytes, uploads[0].filename.as_deref()), (1, 500_000, Some("a.zip")));
    assert_eq!(uploads[0].checksum, format!("crc32:{:08x}", crc32fast::hash(&vec![7; 500_000])));
    assert_eq!(uploads[0].query, "artifact_format=zip&artifact_type=archive");
    assert!(uploads[0].headers.get("content-length").is_none());

    gitlab.artifact(1, "glcbt-build", Content::Pattern(SIZE));
    let whole = Some((200, SIZE, pattern_checksum(SIZE).await));
    assert_eq!(runner.download(1, "glcbt-build", false).await, whole);
    gitlab.set(|settings| (settings.redirect, settings.sized_downloads) = (Some(302), true));
    assert_eq!(runner.download(1, "glcbt-build", true).await, whole);
    assert_eq!(gitlab.count(Endpoint::Storage), 1);
    assert_eq!(runner.download(1, "glcbt-other", false).await.unwrap().0, 403);
    assert_eq!(runner.download(9, "glcbt-build", false).await.unwrap().0, 404);
}

#[tokio::test]
async fn the_rest_is_echoed_and_internals_are_a_breach() {
    let (gitlab, _) = with(|settings| settings.prefix = "/git".to_owned()).await;
    let http = reqwest::Client::new();
    let url = format!("{}/api/v4/projects/1%2f2?a=%20b", gitlab.url());
    let echo = http.delete(&url).header("x-forwarded-for", "10.0.0.1").body("null").send().await.unwrap();
    let echo: Value = echo.json().await.unwrap();
    assert_eq!(echo["method"], "DELETE");
    assert_eq!(echo["path_and_query"], "/git/api/v4/projects/1%2f2?a=%20b");
    assert!(echo["headers"].as_array().unwrap().contains(&json!(["x-forwarded-for", "10.0.0.1"])));
    assert_eq!(echo["body"], json!({ "bytes": 4, "checksum": format!("crc32:{:08x}", crc32fast::hash(b"null")) }));
    assert_eq!(gitlab.breaches(), 0);
    http.get(format!("{}/api/v4/internal/ci/agents/runner/info", gitlab.url())).send().await.unwrap();
    assert_eq!(gitlab.breaches(), 1);
    assert_eq!(http.get(format!("http://{}/", gitlab.address())).send().await.unwrap().status().as_u16(), 404);
}

#[tokio::test]
async fn outages() {
    let (gitlab, runner) = started().await;
    assert!(runner.poll().await.is_empty());
    gitlab.outage(Outage::Status(503)).await;
    assert_eq!(code(&runner.poll().await), Code::Http(503));
    // Held ones are cut, too.
    gitlab.outage(Outage::Over).await;
    let (held, ()) = tokio::join!(runner.poll(), async {
        gitlab.holding(1).await;
        gitlab.outage(Outage::Refuse).await;
    });
    assert_eq!(code(&held), Code::Transport);
    assert_eq!(code(&runner.poll().await), Code::Transport);
    gitlab.outage(Outage::Over).await;
    gitlab.enqueue(JobBuilder::new(1).build());
    assert_eq!(runner.poll().await.job().id, 1);
}

#[tokio::test]
async fn documents() {
    for size in [4_194_299, 4_194_300] {
        let document = JobBuilder::new(1).odd_encodings().size(size).build();
        assert_eq!(document.bytes.len(), size);
        let value: Value = serde_json::from_slice(&document.bytes).unwrap();
        assert_eq!(value["zz_a/b"], "\u{1f600} <\u{e9}\u{2028}");
    }
    let document = JobBuilder::new(1).all_secrets().unknown_keys().without_reasons(&["job_router_failure"]).build();
    let text = String::from_utf8(document.bytes.to_vec()).unwrap();
    assert!(document.secrets.len() > 9);
    for secret in &document.secrets {
        assert!(text.contains(secret.as_str()), "{secret}");
    }
    assert!(!text.contains("job_router_failure"));
    let twice = JobBuilder::new(1).first("\"id\":2,").last(",\"id\":3").build();
    assert!(twice.bytes.starts_with(b"{\"id\":2,\"allow_git_fetch\"") && twice.bytes.ends_with(b",\"id\":3}"));
}
