//! Peers that are not ours: the crate `gitlab-runner` against the fake GitLab, and the fake runner against the crate
//! `gitlab-runner-mock`. They prove the fakes, which prove jobgate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[path = "support/gitlab/mod.rs"]
mod gitlab;
#[path = "support/gitlab_runner/mod.rs"]
mod gitlab_runner_fake;

use std::{borrow::Cow, time::Duration};

use gitlab::{Endpoint, GitLab, JobBuilder, Status};
use gitlab_runner::{GitlabLayer, JobHandler, JobResult, Phase, Runner, RunnerBuilder, UploadableFile, outputln};
use gitlab_runner_fake::{FakeRunner, Heard};
use gitlab_runner_mock::{GitlabRunnerMock, MockJobState};
use tracing::instrument::WithSubscriber;
use tracing_subscriber::{Registry, layer::SubscriberExt};

const TOKEN: &str = "glrt-peer";

/// "Runs" scripts by printing them, and has one file to give.
struct Prints {
    fails: bool,
}

struct Report;

#[async_trait::async_trait]
impl UploadableFile for Report {
    type Data<'a> = &'a [u8];

    fn get_path(&self) -> Cow<'_, str> {
        "report.txt".into()
    }

    async fn get_data(&self) -> Result<&[u8], ()> {
        Ok(b"all is well\n")
    }
}

#[async_trait::async_trait]
impl JobHandler<Report> for Prints {
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult {
        script.iter().for_each(|line| outputln!("{phase:?}: {line}"));
        if self.fails && phase == Phase::Script { Err(()) } else { Ok(()) }
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = Report> + Send>, ()> {
        Ok(Box::new(std::iter::once(Report)))
    }
}

/// Asks once at this `url`, and works on what comes to its end. The runner's answer to whether anything came.
async fn ask_once(url: &str, fails: bool) -> Result<bool, String> {
    let builds = tempfile::tempdir().unwrap();
    let (layer, jobs) = GitlabLayer::new();
    let asking = async {
        let url = url.parse().unwrap();
        let mut runner: Runner = RunnerBuilder::new(url, TOKEN, builds.path(), jobs).build().await;
        let came = runner.request_job(move |_| async move { Ok(Prints { fails }) }).await;
        runner.drain().await;
        came.map_err(|error| error.to_string())
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), asking.with_subscriber(Registry::default().with(layer)));
    ended.await.expect("the job comes to an end")
}

#[tokio::test]
async fn the_crate_gitlab_runner_executes_jobs_of_the_fake() {
    let gitlab = GitLab::start().await;
    gitlab.runner(TOKEN);
    assert_eq!(ask_once(&gitlab.url(), false).await, Ok(false));

    let job =
        |id| JobBuilder::new(id).script(&["make", "make test"]).after_script(&["make clean"]).artifact(&["*.txt"]);
    gitlab.enqueue(job(1).all_secrets().unknown_keys().set("/dependencies", serde_json::json!([])).build());
    gitlab.enqueue(job(2).odd_encodings().build());
    assert_eq!(ask_once(&gitlab.url(), false).await, Ok(true));
    assert_eq!(ask_once(&gitlab.url(), true).await, Ok(true));
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
    assert!(ask_once(&gitlab.url(), false).await.unwrap_err().contains("403"));
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
