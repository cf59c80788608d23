//! Peers that are not ours: the crate `gitlab-runner` against the fake GitLab, and the fake runner against the crate
//! `gitlab-runner-mock`. They prove the fakes, which prove jobgate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[path = "support/gitlab/mod.rs"]
mod gitlab;
#[path = "support/gitlab_runner/mod.rs"]
mod gitlab_runner_fake;
#[path = "support/gitlab_peer.rs"]
mod peer;

use gitlab::{Endpoint, GitLab, JobBuilder, Status};
use gitlab_runner_fake::{FakeRunner, Heard};
use gitlab_runner_mock::{GitlabRunnerMock, MockJobState};
use peer::ask_once;

const TOKEN: &str = "glrt-peer";

#[tokio::test]
async fn the_crate_gitlab_runner_executes_jobs_of_the_fake() {
    let gitlab = GitLab::start().await;
    gitlab.runner(TOKEN);
    assert_eq!(ask_once(&gitlab.url(), TOKEN, false).await, Ok(false));

    let job =
        |id| JobBuilder::new(id).script(&["make", "make test"]).after_script(&["make clean"]).artifact(&["*.txt"]);
    gitlab.enqueue(job(1).all_secrets().unknown_keys().set("/dependencies", serde_json::json!([])).build());
    gitlab.enqueue(job(2).odd_encodings().build());
    assert_eq!(ask_once(&gitlab.url(), TOKEN, false).await, Ok(true));
    assert_eq!(ask_once(&gitlab.url(), TOKEN, true).await, Ok(true));
    let [good, bad] = gitlab.all_ended().await.try_into().unwrap();

    assert_eq!((good.status, bad.status), (Status::Success, Status::Failed));
    assert_eq!(good.trace_text(), "Script: make\nScript: make test\nAfterScript: make clean\n");
    // It gives no reason for a failure.
    assert_eq!((bad.sent_reason, bad.failure_reason.as_deref()), (None, Some("unknown_failure")));
    assert_eq!(good.uploads.len(), 1);
    assert!(good.uploads[0].bytes > 0);
    assert!(good.uploads[0].fields.iter().any(|(name, value)| name == "artifact_type" && value == "archive"));
    assert_eq!(gitlab.calls(Endpoint::Request).len(), 3);
    assert_eq!(gitlab.breaches(), 0);
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let gitlab = GitLab::start().await;
    assert!(ask_once(&gitlab.url(), TOKEN, false).await.unwrap_err().contains("403"));
}

#[tokio::test]
async fn the_fake_runner_executes_a_job_of_the_crate_gitlab_runner_mock() {
    let mock = GitlabRunnerMock::start().await;
    let runner = FakeRunner::new(mock.uri(), mock.runner_token());
    assert!(runner.poll().await.is_empty());
    let theirs = mock.add_dummy_job("unit".to_owned());
    let mut job = runner.poll().await.job();
    assert_eq!((job.id, job.token.as_str()), (theirs.id(), theirs.token()));
    assert_eq!(runner.accept(&mut job).await, Heard::GoOn);
    assert_eq!(runner.run(&mut job).await, Heard::GoOn);
    assert_eq!(runner.keep_alive(&mut job).await, Heard::GoOn);
    assert_eq!(runner.finish(&mut job).await, Some(200));
    assert_eq!((theirs.state(), theirs.log()), (MockJobState::Success, job.trace));

    let theirs = mock.add_dummy_job("canceled".to_owned());
    let mut job = runner.poll().await.job();
    theirs.cancel();
    assert_eq!(runner.print(&mut job, b"line\n").await, Heard::Abort);
}
