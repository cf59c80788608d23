//! The native runner, against a router that may misbehave, with real processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

#[path = "support/gateway.rs"]
mod gateway;

use std::time::Duration;

use gateway::{Gateway, Running, TOKEN, is, soon};
use jobgate::runner::{RunnerError, Shutdown};
use jobgate_proto::runner::v1::{Outcome, gateway_message::Message as ToRunner, runner_message::Message as FromRunner};
use jobgate_router::TaintKind;
use tonic::Status;

async fn attached(capacity: u32) -> (Gateway, Running, gateway::Peer) {
    let mut gateway = Gateway::start().await;
    let running = gateway.run(capacity);
    let mut peer = gateway.peer().await;
    assert_eq!(peer.credit().await, capacity);
    (gateway, running, peer)
}

/// Waits until no process has this in its command line.
async fn gone(mark: &str) {
    let alive = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines.into_iter().any(|line| line.windows(mark.len()).any(|part| part == mark.as_bytes()))
    };
    soon(async {
        while alive() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_script_runs_in_a_clean_place_and_its_output_comes_in_order() {
    let (_gateway, running, mut peer) = attached(2).await;
    assert!(peer.hello.system_id.starts_with("shell-1@"), "{}", peer.hello.system_id);
    assert_eq!((peer.hello.executor.as_str(), peer.hello.capacity), ("shell", 2));
    peer.run("j1", 7, &["ls -A", "echo one", "echo two >&2", "printf three", "test -z \"$CARGO\"", "cat"]).await;
    peer.started().await;
    let (output, finished) = peer.result().await;
    assert_eq!(output, "one\ntwo\nthree");
    assert!(is(&finished, Outcome::Success) && finished.exit_code == Some(0) && finished.lease == 7, "{finished:?}");
    assert_eq!(peer.credit().await, 1);
    peer.record("j1", 7).await;
    assert_eq!(running.left_behind(), 0);
}

#[tokio::test]
async fn a_script_knows_the_leadership_it_runs_under_and_cannot_be_told_another() {
    let (_gateway, _running, mut peer) = attached(1).await;
    let document = r#"{"payload": {"script": ["echo fence=$JOBGATE_FENCE"], "variables": {"JOBGATE_FENCE": "99"}}}"#;
    peer.assign_under(Some(7), "j1", 1, document).await;
    assert_eq!(peer.result().await.0, "fence=7\n");
    assert_eq!(peer.credit().await, 1);
    peer.run("j2", 1, &["echo fence=${JOBGATE_FENCE-none}"]).await;
    assert_eq!(peer.result().await.0, "fence=none\n");
}

#[tokio::test]
async fn a_runner_says_what_keeps_it_out_each_time_it_attaches() {
    let mut gateway = Gateway::start().await;
    let _running = gateway
        .run_as(|runner| runner.taint(TaintKind::Leadership, "").taint(TaintKind::Jobs, "disk is full").capacity(1));
    for _ in 0..2 {
        let peer = gateway.peer().await;
        assert_eq!(peer.hello.taints, ["leadership", "jobs: disk is full"]);
    }
}

#[tokio::test]
async fn failures_say_how() {
    let (_gateway, _running, mut peer) = attached(1).await;
    for (lines, code, reason) in [
        (["false", "echo never"].as_slice(), Some(1), "exit code 1"),
        (&["exit 42"], Some(42), "exit code 42"),
        (&["kill -9 $$"], None, "killed by signal 9"),
        (&["if"], Some(2), "exit code 2"),
    ] {
        let (output, finished) = peer.outcome(lines).await;
        assert!(is(&finished, Outcome::Failed) && !output.contains("never"), "{lines:?}: {output}");
        assert_eq!((finished.exit_code, finished.reason.as_str()), (code, reason));
        assert_eq!(peer.credit().await, 1);
    }
}

#[tokio::test]
async fn a_gitlab_job_runs_step_by_step_and_shows_no_secret() {
    let (_gateway, _running, mut peer) = attached(1).await;
    let document = serde_json::json!({"gitlab": {
        "id": 4711, "token": "glcbt-64_hunter2token",
        "job_info": {"name": "test", "project_full_path": "acme/payments/api"},
        "variables": [
            {"key": "CI_JOB_TOKEN", "value": "glcbt-64_hunter2token", "public": false, "masked": true},
            {"key": "PASSWORD", "value": "correct-horse", "public": false, "masked": true},
            {"key": "KEY", "value": "battery\nstaple!!", "file": true, "masked": true},
            {"key": "GREETING", "value": "first", "public": true},
            {"key": "GREETING", "value": "hello world", "public": true},
        ],
        "steps": [
            {"name": "script", "script": ["echo $GREETING", "echo $PASSWORD; printf correct-; sleep 0.1; echo horse",
                "cat $KEY; echo", "echo t=$CI_JOB_TOKEN", "exit 3"], "when": "on_success"},
            {"name": "never", "script": ["echo never"], "when": "on_success"},
            {"name": "after_script", "script": ["echo after", "false"], "when": "always", "allow_failure": true},
        ],
    }});
    peer.assign("j1", 1, document.to_string()).await;
    let (output, finished) = peer.result().await;
    assert_eq!(output, "hello world\n[MASKED]\n[MASKED]\n[MASKED]\nt=[MASKED]\nafter\n");
    assert_eq!((finished.exit_code, finished.reason.as_str()), (Some(3), "exit code 3"));
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_a_reason_and_the_slot_is_free_again() {
    let (_gateway, running, mut peer) = attached(1).await;
    for document in ["hunter2: [", "job: {name: a}", "payload: {script: {hunter2: 1}}", "\u{0}hunter2"] {
        peer.assign("j1", 1, document).await;
        let FromRunner::Refuse(refuse) = peer.next().await else { panic!("not refused: {document}") };
        assert!(!refuse.reason.is_empty() && !refuse.reason.contains("hunter2"), "{}", refuse.reason);
        assert_eq!(peer.credit().await, 1);
    }
    assert_eq!(running.left_behind(), 0);
}

#[tokio::test]
async fn an_assignment_without_credit_is_refused_and_a_repeated_one_ignored() {
    let (_gateway, _running, mut peer) = attached(1).await;
    peer.run("j1", 1, &["echo begun", "until test -e \"$HOME/go\"; do :; done"]).await;
    peer.printed("begun").await;
    peer.run("j1", 1, &["echo twice"]).await;
    peer.run("j2", 1, &["echo too many"]).await;
    let FromRunner::Refuse(refuse) = peer.next().await else { panic!("not refused") };
    assert_eq!((refuse.job_id.as_str(), refuse.reason.as_str()), ("j2", "the runner is at capacity"));
    peer.cancel("j1", 1).await;
    let (output, finished) = peer.result().await;
    assert!(is(&finished, Outcome::Canceled) && !output.contains("twice"), "{finished:?} {output}");
}

#[tokio::test]
async fn cancel_kills_everything_the_job_started_and_an_old_lease_is_old_news() {
    let (_gateway, running, mut peer) = attached(1).await;
    let mark = format!("98765.{}", std::process::id());
    let background = format!("(trap '' TERM; echo begun; sleep {mark}) & sleep {mark}");
    peer.run("j1", 5, &[&background]).await;
    peer.printed("begun").await;
    peer.cancel("j1", 4).await;
    peer.cancel("j9", 5).await;
    peer.cancel("j1", 5).await;
    let (_, finished) = peer.result().await;
    assert!(is(&finished, Outcome::Canceled) && finished.lease == 5, "{finished:?}");
    gone(&mark).await;
    assert_eq!(peer.credit().await, 1);
    assert_eq!(running.left_behind(), 0);
}

#[tokio::test]
async fn a_later_lease_voids_the_earlier_one() {
    let (_gateway, _running, mut peer) = attached(2).await;
    peer.run("j1", 1, &["echo begun; sleep 1000"]).await;
    peer.printed("begun").await;
    peer.run("j1", 2, &["echo later"]).await;
    let FromRunner::Refuse(refuse) = peer.next().await else { panic!("not refused") };
    assert_eq!(refuse.lease, 2);
    assert_eq!(peer.credit().await, 1);
    let (_, finished) = peer.result().await;
    assert!(finished.lease == 1 && is(&finished, Outcome::Canceled), "{finished:?}");
}

#[tokio::test]
async fn a_job_runs_no_longer_than_it_may() {
    let (_gateway, _running, mut peer) = attached(1).await;
    let document = r#"{"gitlab": {"steps": [{"script": ["echo begun; sleep 1000"], "timeout": 1}]}}"#;
    peer.assign("j1", 1, document).await;
    let (output, finished) = peer.result().await;
    assert_eq!((output.as_str(), finished.exit_code), ("begun\n", None));
    assert_eq!(finished.reason, "ran longer than the 1s allowed");
}

#[tokio::test]
async fn a_fork_that_survives_its_parent_is_killed_and_one_that_flees_holds_nothing_up() {
    let (_gateway, _running, mut peer) = attached(1).await;
    let mark = format!("87654.{}", std::process::id());
    let (output, finished) = peer.outcome(&[&format!("sleep {mark} & echo parent")]).await;
    assert!(is(&finished, Outcome::Success) && output == "parent\n", "{output}");
    gone(&mark).await;
    assert_eq!(peer.credit().await, 1);
    // In a session of its own, with the pipe open and chatty; it ends by itself.
    let (output, finished) =
        peer.outcome(&["setsid sh -c 'for i in 1 2 3; do echo x; sleep 1; done' & echo parent"]).await;
    assert!(is(&finished, Outcome::Success) && output.contains("parent\n"), "{output}");
}

#[tokio::test]
async fn output_may_be_huge_and_of_any_bytes() {
    let (_gateway, _running, mut peer) = attached(1).await;
    let (output, finished) = peer.outcome(&["head -c 20000000 /dev/zero | tr '\\0' x"]).await;
    assert!(is(&finished, Outcome::Success), "{finished:?}");
    let limit = 16 * 1024 * 1024;
    assert!(output.as_bytes()[..limit].iter().all(|byte| *byte == b'x'));
    assert_eq!(&output[limit..], "\n[the limit of 16777216 bytes of output is reached; the rest is not shown]\n");
    assert_eq!(peer.credit().await, 1);
    let (output, _) = peer.outcome(&["printf '\\377\\376no line end'"]).await;
    assert_eq!(output, "\u{fffd}\u{fffd}no line end");
}

#[tokio::test]
async fn after_a_drop_the_runner_comes_back_with_its_leases_and_its_results() {
    let (mut gateway, running, mut peer) = attached(3).await;
    peer.run("done", 1, &["true"]).await;
    let (_, finished) = peer.result().await;
    assert!(is(&finished, Outcome::Success));
    assert_eq!(peer.credit().await, 1);
    peer.run("runs", 2, &["echo begun; until test -e \"$HOME/../../go\"; do sleep 0.05; done; echo over"]).await;
    peer.printed("begun").await;
    drop(peer);

    gateway.refusals.lock().unwrap().extend([Status::unavailable("not yet"), Status::unavailable("not yet")]);
    let mut peer = gateway.peer().await;
    let mut held: Vec<_> = peer.hello.leases.iter().map(|h| (h.job_id.as_str(), h.lease, h.started)).collect();
    held.sort_unstable();
    assert_eq!(held, [("done", 1, true), ("runs", 2, true)]);
    let FromRunner::Finished(again) = peer.next().await else { panic!("the result should come again") };
    assert_eq!((again.job_id.as_str(), again.lease), ("done", 1));
    assert_eq!(peer.credit().await, 2);
    peer.record("done", 1).await;
    std::fs::write(running.scratch.path().join("go"), "").unwrap();
    let (output, finished) = peer.result().await;
    assert!(is(&finished, Outcome::Success) && output.ends_with("over\n"), "{output}");
    assert_eq!(peer.credit().await, 1);
    drop(peer);

    let peer = gateway.peer().await;
    let held: Vec<_> = peer.hello.leases.iter().map(|held| held.job_id.as_str()).collect();
    assert_eq!(held, ["runs"], "what was recorded is forgotten");
}

#[tokio::test]
async fn a_lease_that_went_void_meanwhile_is_ended_on_return() {
    let (mut gateway, _running, mut peer) = attached(1).await;
    let mark = format!("76543.{}", std::process::id());
    peer.run("j1", 1, &[&format!("echo begun; sleep {mark}")]).await;
    peer.printed("begun").await;
    drop(peer);
    let mut peer = gateway.peer().await;
    peer.cancel("j1", 1).await;
    let (_, finished) = peer.result().await;
    assert!(is(&finished, Outcome::Canceled), "{finished:?}");
    gone(&mark).await;
    assert_eq!(peer.credit().await, 1);
}

#[tokio::test]
async fn silence_kills_the_jobs_and_their_results_come_after_the_return() {
    let mut gateway = Gateway::start().await;
    let running = gateway.run(1);
    let mut peer = gateway.peer_with(Duration::from_millis(1500)).await;
    assert_eq!(peer.credit().await, 1);
    let mark = format!("65432.{}", std::process::id());
    peer.run("j1", 1, &[&format!("echo begun; sleep {mark}")]).await;
    peer.printed("begun").await;
    // Words keep it alive past the first limit: the job still runs and heartbeats still name it.
    for _ in 0..10 {
        peer.alive().await;
        while !matches!(peer.any().await.unwrap(), FromRunner::Heartbeat(beat) if beat.leases.len() == 1) {}
    }
    gone(&mark).await;
    while peer.any().await.is_some() {}
    let mut peer = gateway.peer().await;
    let (_, finished) = peer.result().await;
    assert!(is(&finished, Outcome::Failed), "{finished:?}");
    assert_eq!(finished.reason, "stopped: no word from the router for 1.5s");
    assert_eq!(peer.credit().await, 1);
    peer.record("j1", 1).await;
    running.shutdown.send(Shutdown::Drain).unwrap();
    assert!(matches!(peer.next().await, FromRunner::Draining(_)));
    running.stopped().await.unwrap();
}

#[tokio::test]
async fn draining_ends_the_running_jobs_first() {
    let (_gateway, running, mut peer) = attached(2).await;
    peer.run("j1", 1, &["echo begun; until test -e \"$HOME/../../go\"; do sleep 0.05; done"]).await;
    peer.printed("begun").await;
    running.shutdown.send(Shutdown::Drain).unwrap();
    assert!(matches!(peer.next().await, FromRunner::Draining(_)));
    peer.run("j2", 1, &["true"]).await;
    let FromRunner::Refuse(refuse) = peer.next().await else { panic!("not refused") };
    assert_eq!(refuse.reason, "the runner is draining");
    std::fs::write(running.scratch.path().join("go"), "").unwrap();
    let (_, finished) = peer.result().await;
    assert!(is(&finished, Outcome::Success), "{finished:?}");
    assert!(!running.task.is_finished(), "the result is not recorded yet");
    peer.record("j1", 1).await;
    running.stopped().await.unwrap();
}

#[tokio::test]
async fn a_second_signal_kills_and_still_reports() {
    let (_gateway, running, mut peer) = attached(1).await;
    let mark = format!("54321.{}", std::process::id());
    peer.run("j1", 1, &[&format!("echo begun; sleep {mark}")]).await;
    peer.printed("begun").await;
    running.shutdown.send(Shutdown::Drain).unwrap();
    assert!(matches!(peer.next().await, FromRunner::Draining(_)));
    running.shutdown.send(Shutdown::Now).unwrap();
    let (_, finished) = peer.result().await;
    assert_eq!(finished.reason, "stopped: the runner was shut down");
    gone(&mark).await;
    peer.record("j1", 1).await;
    running.stopped().await.unwrap();
}

#[tokio::test]
async fn a_runner_that_is_dropped_takes_its_jobs_along() {
    let (_gateway, running, mut peer) = attached(1).await;
    let mark = format!("43210.{}", std::process::id());
    peer.run("j1", 1, &[&format!("sleep {mark} & echo begun; sleep {mark}")]).await;
    peer.printed("begun").await;
    running.task.abort();
    gone(&mark).await;
}

#[tokio::test]
async fn at_first_a_refusal_is_final_and_says_why() {
    let gateway = Gateway::start().await;
    gateway.refusals.lock().unwrap().push(Status::invalid_argument("the hello makes no sense"));
    let error = gateway.run(1).stopped().await.unwrap_err();
    assert!(error.to_string().contains("refused this runner: the hello makes no sense"), "{error}");

    let mut gateway = Gateway::start().await;
    let running = gateway.run(1);
    gateway.attachment().await.welcome("gpu-1", Duration::from_secs(30)).await;
    let error = running.stopped().await.unwrap_err();
    assert!(matches!(&error, RunnerError::OtherName { token_of, .. } if token_of == "gpu-1"), "{error}");
    assert!(!format!("{error} {error:?}").contains(TOKEN));
}

#[tokio::test]
async fn one_that_loses_its_place_comes_back_and_gives_up_when_that_goes_on() {
    let mut gateway = Gateway::start().await;
    let running = gateway.run(1);
    for _ in 0..3 {
        gateway.peer().await.end_with(Status::aborted("the same system attached again")).await;
    }
    let error = running.stopped().await.unwrap_err();
    assert!(error.to_string().contains("--system-id"), "{error}");
}

#[tokio::test]
async fn a_router_that_speaks_nonsense_is_left_and_tried_again() {
    let mut gateway = Gateway::start().await;
    let _running = gateway.run(1);
    let peer = gateway.attachment().await;
    peer.say(ToRunner::Heartbeat(Default::default())).await;
    let mut peer = gateway.peer().await;
    assert_eq!(peer.credit().await, 1);
    peer.say(ToRunner::Recorded(Default::default())).await;
    peer.cancel("", 0).await;
    let (output, _) = peer.outcome(&["echo still here"]).await;
    assert_eq!(output, "still here\n");
}
