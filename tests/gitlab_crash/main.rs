//! A jobgate before a GitLab, killed at each step of a hand-out and of a rejection, and again and again under load. What had
//! reached its disk is delivered once or failed with a reason; nothing is delivered twice, or without having been admitted.
//!
//! `JOBGATE_KILLS` says how often it is killed under load: a third of it, 30 times without it. `JOBGATE_SEED` repeats a run's
//! dice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs, unreachable_pub)]

#[path = "../support/gitlab/mod.rs"]
mod gitlab;
#[path = "../support/gitlab_runner/mod.rs"]
mod gitlab_runner;
mod handout;
mod jobgate;
mod ledger;
mod peers;
#[path = "../support/program.rs"]
mod program;
mod random;
mod rejection;
mod sums;
