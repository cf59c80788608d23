//! The fake GitLab of the other tests, and the fake runner: each awkward answer once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[path = "../support/gitlab/mod.rs"]
mod gitlab;
#[path = "../support/gitlab_runner/mod.rs"]
mod gitlab_runner;
mod life;
mod requests;
mod rest;
mod router;

use gitlab::{GitLab, Settings};
use gitlab_runner::{Code, FakeRunner, Polled};

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
