//! Operating runners and explaining jobs, in front of a task that notes what it is told.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    log::Log,
    support::{ACME, ALL, READER, Setup, World, start_core, token},
};
use crate::{
    handle::{
        Command, CoreError, GroupQueue, Handle, JobDetails, JobEvent, LeaderStatus, Obstacle, QueueStatus,
        RunnerAction, RunnerStatus, TaintKind, TaintStatus, Waits,
    },
    job::JobState,
};

/// May operate, and is for some projects only.
const ACME_OPERATOR: &str = "token-of-an-acme-operator-012345";

type Told = Arc<Mutex<Vec<RunnerAction>>>;

fn now() -> Timestamp {
    "2026-11-25T10:00:00Z".parse().unwrap()
}

fn runner(name: &str) -> RunnerStatus {
    RunnerStatus {
        name: name.into(),
        kind: "instance",
        owner: None,
        tags: vec!["deploy".into()],
        run_untagged: false,
        protected: true,
        priority: 5,
        group: Some("deployers".into()),
        fingerprint: "0123456789abcdef0123".into(),
        state: "online",
        capacity: 4,
        running: 1,
        leader: name == "d-1",
        pinned: false,
        taints: vec![TaintStatus {
            kind: TaintKind::Leadership,
            system: None,
            reason: "being tried out".into(),
            by: "all".into(),
            since: now(),
        }],
        systems: Vec::new(),
    }
}

fn queue() -> QueueStatus {
    let group = GroupQueue {
        fingerprint: "0123456789abcdef0123".into(),
        kind: "instance",
        owner: None,
        tags: vec!["deploy".into()],
        run_untagged: false,
        protected: true,
        served: true,
        waiting: 3,
        running: 1,
        oldest_wait_seconds: Some(70),
        capacity: 4,
        free: 3,
        systems: 1,
    };
    QueueStatus {
        groups: vec![group],
        leaders: vec![LeaderStatus {
            group: "deployers".into(),
            runner: Some("d-1".into()),
            system: Some("d-1@host".into()),
            pinned: None,
            fence: 9,
        }],
        ..QueueStatus::default()
    }
}

fn waits() -> Waits {
    let obstacle = |what, text: &str| Obstacle {
        fingerprint: "0123456789abcdef0123".into(),
        runners: vec!["d-1".into()],
        what,
        text: text.into(),
    };
    Waits {
        why: "no_matching_runner",
        text: "no runner offers `gpu`".into(),
        groups: vec![obstacle("tags", "lacks the tag `gpu`"), obstacle("owner", "takes jobs of other-team only")],
    }
}

/// The real task for jobs; for runners one that notes what it is told.
fn noting(setup: &Setup, told: &Told) -> Handle {
    let (running, _) = start_core(&setup.config);
    let real = running.handle.clone();
    let (inbox, mut commands) = mpsc::channel(16);
    let changes = real.changes.clone();
    let told = told.clone();
    tokio::spawn(async move {
        let running = running;
        while let Some(command) = commands.recv().await {
            match command {
                Command::Runners(reply) => drop(reply.send(Ok(vec![runner("d-1"), runner("d-2")]))),
                Command::Queue(reply) => drop(reply.send(Ok(queue()))),
                Command::Explain(id, reply) => {
                    let job = running.handle.job(&id).await.unwrap();
                    let text = "refused by runner d-1: disk is full".into();
                    let events = vec![JobEvent { time: now(), state: JobState::Admitted, text }];
                    drop(reply.send(Ok(JobDetails { job, events, waits: Some(waits()) })));
                }
                Command::Operate(action, reply) => {
                    let answer = match &action {
                        RunnerAction::Taint { runner, .. }
                        | RunnerAction::Untaint { runner, .. }
                        | RunnerAction::Drain { runner, .. }
                        | RunnerAction::Pin { runner, .. }
                            if !["d-1", "d-2", "x-1"].contains(&&**runner) =>
                        {
                            Err(CoreError::NoSuchRunner(runner.clone()))
                        }
                        RunnerAction::Pin { group, .. } | RunnerAction::Unpin { group } if group == "builders" => {
                            Err(CoreError::NotSingleLeader(group.clone()))
                        }
                        RunnerAction::Pin { group, .. } | RunnerAction::Unpin { group } if group != "deployers" => {
                            Err(CoreError::NoSuchRunnerGroup(group.clone()))
                        }
                        RunnerAction::Pin { group, runner, .. } if runner == "x-1" => {
                            Err(CoreError::NotInGroup { runner: runner.clone(), group: group.clone() })
                        }
                        _ => Ok(()),
                    };
                    told.lock().unwrap().push(action);
                    drop(reply.send(answer));
                }
                other => drop(real.inbox.send(other).await),
            }
        }
    });
    Handle { inbox, changes }
}

async fn world() -> (World, Told) {
    let mut setup = Setup::guarded();
    setup.config.tokens.push(token("acme-operator", ACME_OPERATOR, "ro", &["acme/**"]));
    let told = Told::default();
    setup.handle = Some(noting(&setup, &told));
    (setup.start().await, told)
}

#[tokio::test]
async fn runners_are_tainted_pinned_and_drained() {
    let log = Log::start();
    let (world, told) = world().await;
    let taint = r#"{"kind": "jobs", "reason": " disk: 99 % full ", "system": "d-1@host"}"#;
    let answer = world.post("/v1/runners/d-1/taint", ALL, taint).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["runner"]["name"], "d-1");
    assert_eq!(answer.json()["runner"]["taints"][0]["reason"], "being tried out", "as it is now");
    for (path, body) in [
        ("/v1/runners/d-1/untaint", "{\"kind\": \"leadership\"}"),
        ("/v1/runners/d-1/untaint", ""),
        ("/v1/runners/d-2/drain", "system: d-2@host"),
        ("/v1/runners/d-2/drain", "{}"),
    ] {
        assert_eq!(world.post(path, ALL, body).await.status, 200, "{path} {body}");
    }
    let pinned = world.post("/v1/runner-groups/deployers/pin", ALL, "{\"runner\": \"d-2\"}").await;
    assert_eq!((pinned.status, &pinned.json()["leader"]["fence"]), (200, &9.into()));
    let unpinned = world.http("POST", "/v1/runner-groups/deployers/unpin", ALL, "", "").await;
    assert_eq!((unpinned.status, &unpinned.json()["leader"]["runner"]), (200, &"d-1".into()));

    let [d1, d2] = ["d-1", "d-2"].map(str::to_owned);
    let expected = [
        RunnerAction::Taint {
            runner: d1.clone(),
            system: Some("d-1@host".into()),
            kind: TaintKind::Jobs,
            reason: "disk: 99 % full".into(),
            by: "all".into(),
        },
        RunnerAction::Untaint { runner: d1.clone(), system: None, kind: Some(TaintKind::Leadership) },
        RunnerAction::Untaint { runner: d1, system: None, kind: None },
        RunnerAction::Drain { runner: d2.clone(), system: Some("d-2@host".into()) },
        RunnerAction::Drain { runner: d2.clone(), system: None },
        RunnerAction::Pin { group: "deployers".into(), runner: d2, by: "all".into() },
        RunnerAction::Unpin { group: "deployers".into() },
    ];
    assert_eq!(*told.lock().unwrap(), expected);
    assert!(log.text().contains("runners operated") && log.text().contains("by=all"), "{}", log.text());
}

#[tokio::test]
async fn a_body_that_says_something_else_does_nothing_and_hears_every_fault() {
    let (world, told) = world().await;
    let long = format!("{{\"kind\": \"jobs\", \"reason\": \"{}\"}}", "x".repeat(201));
    let huge = format!("{{\"kind\": \"jobs\", \"reason\": \"{}\"}}", "x".repeat(20_000));
    for (path, body, status, faults) in [
        (
            "/v1/runners/d-1/taint",
            "{\"kinds\": \"jobs\"}",
            400,
            [
                "body:1:1: a taint needs `kind`",
                "a taint needs `reason`",
                "body:1:2: unknown key `kinds`; did you mean `kind`?",
            ]
            .as_slice(),
        ),
        ("/v1/runners/d-1/taint", "", 400, &["a taint needs `kind`", "a taint needs `reason`"]),
        ("/v1/runners/d-1/taint", r#"{"kind": "job", "reason": "x"}"#, 400, &["`job`; did you mean `jobs`?"]),
        ("/v1/runners/d-1/taint", r#"{"kind": "jobs", "reason": "  "}"#, 400, &["must not be empty"]),
        ("/v1/runners/d-1/taint", r#"{"kind": "jobs", "reason": "a\nb"}"#, 400, &["one line of at most 200"]),
        ("/v1/runners/d-1/taint", r#"{"kind": "jobs", "reason": "\u001b[31m"}"#, 400, &["one line of at most 200"]),
        ("/v1/runners/d-1/taint", &long, 400, &["one line of at most 200"]),
        ("/v1/runners/d-1/taint", r#"{"kind": "jobs", "kind": "jobs", "reason": "x"}"#, 400, &["kind"]),
        ("/v1/runners/d-1/taint", "[]", 400, &["expected a taint (a mapping)"]),
        ("/v1/runners/d-1/taint", &huge, 413, &[]),
        ("/v1/runners/d-1/untaint", r#"{"reason": "x"}"#, 400, &["unknown key `reason`"]),
        ("/v1/runners/d-1/drain", r#"{"sytem": "x"}"#, 400, &["unknown key `sytem`; did you mean `system`?"]),
        ("/v1/runners/d-1/drain", r#"{"system": 1}"#, 400, &["expected text"]),
        ("/v1/runner-groups/deployers/pin", "{}", 400, &["a pin needs `runner`"]),
        ("/v1/runner-groups/deployers/unpin", r#"{"runner": "d-1"}"#, 400, &["unknown key `runner`"]),
        ("/v1/runners/d-1/drain?system=x", "", 400, &["unknown parameter `system`"]),
    ] {
        let answer = world.post(path, ALL, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {answer:?}");
        let said = answer.json()["error"]["faults"].to_string();
        for fault in faults {
            assert!(said.contains(fault), "{path} {body}: no `{fault}` in {said}");
        }
    }
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let form = world.http("POST", "/v1/runners/d-1/drain", ALL, form, "").await;
    assert_eq!(form.status, 415, "a web page could send it");
    assert_eq!(world.get("/v1/runners/d-1/drain", ALL).await.status, 405);
    assert_eq!(*told.lock().unwrap(), []);
}

#[tokio::test]
async fn what_is_not_there_is_404_with_the_nearest_and_what_cannot_be_is_409() {
    let (world, _) = world().await;
    let taint = r#"{"kind": "jobs", "reason": "x"}"#;
    for (path, body, status, code, message) in [
        ("/v1/runners/d1/taint", taint, 404, "not_found", "there is no runner `d1`; did you mean `d-1`?"),
        ("/v1/runners/%2e%2e%2f/drain", "", 404, "not_found", "there is no runner `../`"),
        ("/v1/runners/a%0ab/untaint", "", 404, "not_found", "there is no runner `a b`"),
        (
            "/v1/runner-groups/deployer/unpin",
            "",
            404,
            "not_found",
            "there is no runner group `deployer`; did you mean `deployers`?",
        ),
        ("/v1/runner-groups/deployers/pin", "runner: nobody", 404, "not_found", "there is no runner `nobody`"),
        (
            "/v1/runner-groups/deployers/pin",
            "runner: x-1",
            409,
            "not_in_group",
            "runner `x-1` is not in the runner group `deployers`",
        ),
        (
            "/v1/runner-groups/builders/unpin",
            "",
            409,
            "not_single_leader",
            "the runner group `builders` has no leader: it is not `single_leader`",
        ),
    ] {
        let answer = world.http("POST", path, ALL, "", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}: {answer:?}");
        assert_eq!(answer.json()["error"]["message"], message);
    }
}

#[tokio::test]
async fn operating_wants_operate_for_all_projects() {
    let (world, told) = world().await;
    for path in [
        "/v1/runners/d-1/taint",
        "/v1/runners/d-1/untaint",
        "/v1/runners/d-1/drain",
        "/v1/runner-groups/deployers/pin",
        "/v1/runner-groups/deployers/unpin",
    ] {
        assert_eq!(world.post(path, "", "{}").await.status, 401, "{path}");
        for token in [READER, ACME, ACME_OPERATOR] {
            let answer = world.post(path, token, "{}").await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "permission_denied"), "{path}");
            assert!(answer.body.contains("`operate`, without `projects`"), "{answer:?}");
        }
    }
    assert_eq!(*told.lock().unwrap(), []);
}

#[tokio::test]
async fn a_job_is_explained_to_those_who_may_see_it() {
    let (world, _) = world().await;
    let (own, other) = (world.submit(ALL, "acme/api").await, world.submit(ALL, "other-team/x").await);
    let explained = world.get(&format!("/v1/jobs/{own}/explain"), READER).await.json();
    assert_eq!((&explained["job"]["id"], &explained["job"]["project"]), (&json!(own), &json!("acme/api")));
    let event =
        json!({"time": "2026-11-25T10:00:00Z", "state": "admitted", "text": "refused by runner d-1: disk is full"});
    assert_eq!(explained["events"], json!([event]));
    assert_eq!(
        (&explained["waits"]["why"], explained["waits"]["groups"].as_array().unwrap().len()),
        (&json!("no_matching_runner"), 2)
    );
    assert_eq!(explained["waits"]["groups"][0]["text"], "lacks the tag `gpu`");

    let narrow = world.get(&format!("/v1/jobs/{own}/explain"), ACME).await;
    assert_eq!(narrow.json()["waits"]["groups"].as_array().unwrap().len(), 1);
    assert!(!narrow.body.contains("other-team"), "whose the other runners are is not told: {narrow:?}");
    for (id, token, status) in [(&*other, ACME, 404), ("0123", ALL, 404), ("%00", ALL, 404), (&own, "", 401)] {
        assert_eq!(world.get(&format!("/v1/jobs/{id}/explain"), token).await.status, status, "{id}");
    }
    assert_eq!(world.get(&format!("/v1/jobs/{own}/explain?x=1"), ALL).await.status, 400);
}

#[tokio::test]
async fn the_queue_and_the_runners_are_shown_with_groups_and_leaders_and_counted() {
    let (world, _) = world().await;
    let shown = world.get("/v1/queue", READER).await.json();
    assert_eq!((&shown["groups"][0]["type"], &shown["groups"][0]["waiting"]), (&json!("instance"), &json!(3)));
    assert_eq!(shown["leaders"][0], json!({"group": "deployers", "runner": "d-1", "system": "d-1@host", "fence": 9}));
    let shown = world.get("/v1/runners", READER).await.json();
    assert_eq!(shown["runners"][0]["taints"][0]["kind"], "leadership");
    let text = world.get("/metrics", "").await.body;
    for line in [
        "jobgate_queue_waiting{fingerprint=\"0123456789ab\",type=\"instance\",served=\"true\"} 3",
        "jobgate_queue_running{fingerprint=\"0123456789ab\",type=\"instance\",served=\"true\"} 1",
        "jobgate_queue_demand{fingerprint=\"0123456789ab\",type=\"instance\",served=\"true\"} 4",
        "jobgate_queue_oldest_wait_seconds{fingerprint=\"0123456789ab\",type=\"instance\",served=\"true\"} 70",
        "jobgate_queue_capacity{fingerprint=\"0123456789ab\",type=\"instance\",served=\"true\"} 4",
        "jobgate_queue_free{fingerprint=\"0123456789ab\",type=\"instance\",served=\"true\"} 3",
        "jobgate_runner_leader{group=\"deployers\",runner=\"d-1\"} 1",
        "jobgate_runner_leader{group=\"deployers\",runner=\"d-2\"} 0",
        "jobgate_runner_tainted{runner=\"d-1\",kind=\"leadership\"} 1",
        "jobgate_runner_tainted{runner=\"d-1\",kind=\"jobs\"} 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
}
