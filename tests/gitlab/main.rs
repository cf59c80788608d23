//! jobgate in front of a GitLab: a fake GitLab on one side, runners on the other, and real sockets between.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[path = "../support/gitlab/mod.rs"]
mod gitlab;
#[path = "../support/gitlab_runner/mod.rs"]
mod gitlab_runner;
#[path = "../support/gitlab_peer.rs"]
mod peer;
#[path = "../support/mod.rs"]
mod support;

mod chain;
mod fairness;
mod held;
mod peers;
mod recipe;
mod refusals;
mod rows;
mod site;
mod walk;
