//! A job after it was handed out: states, cancels, trace.

use serde_json::json;

use crate::{
    TOKEN,
    gitlab::{Answer, Endpoint, JobBuilder, Outcome, Status},
    gitlab_runner::{Done, FakeRunner, Heard},
    started, with,
};

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
