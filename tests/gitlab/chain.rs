//! The whole chain is asked about a job of GitLab, with the runner known.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use jobgate_sdk::{AdmissionRequest, Verdict};
use serde_json::Value;

use crate::{
    gitlab::{Gate, JobBuilder, Status},
    gitlab_runner::{FakeRunner, Way},
    refusals::at_once,
    site::{POLICY, Setup, World, soon},
};

/// A policy that forbids jobs of one name.
fn forbids(policy: &str, job: &str) -> String {
    POLICY.replace("name: names", &format!("name: {policy}")).replace("[forbidden]", &format!("[{job}]"))
}

/// One controller at each level; each rejects jobs of its level's name.
fn levels() -> Setup {
    let mut setup = at_once();
    // Not in the order in which they are asked.
    let levels = [
        ("runner", "runner-gate.yaml", "runner:gpu-1"),
        ("project", "project-gate.yaml", "project:acme/payments/api"),
        ("group", "group-gate.yaml", "group:ACME"),
        ("instance", "instance-gate.yaml", "instance"),
        ("elsewhere", "elsewhere-gate.yaml", "group:acme-evil"),
        ("other", "other-gate.yaml", "runner:gpu-2"),
    ];
    for (name, file, scope) in levels {
        setup = setup.file(file, forbids(name, name));
        setup = setup.controller(&format!("name: {name}-gate, scope: \"{scope}\", policy: {file}"));
    }
    setup
}

fn asked(decision: &Value) -> Vec<&str> {
    decision["verdicts"].as_array().unwrap().iter().map(|verdict| verdict["controller"].as_str().unwrap()).collect()
}

/// Asks once, and gives the one decision there is.
async fn one(world: &World, job: JobBuilder) -> (bool, Value) {
    let document = job.build();
    world.gitlab.enqueue(document.clone());
    let came = !world.runner().poll().await.is_empty();
    let mut decisions = world.decisions(document.id).await;
    assert_eq!(decisions.len(), 1);
    (came, decisions.remove(0))
}

#[tokio::test]
async fn all_levels_are_asked_in_their_order_until_one_rejects() {
    let world = levels().start().await;
    let (came, decision) = one(&world, JobBuilder::new(1)).await;
    assert!(came);
    assert_eq!(asked(&decision), ["names", "instance-gate", "group-gate", "project-gate", "runner-gate"]);
    for (id, level, before) in [(2, "instance", 1), (3, "group", 2), (4, "project", 3), (5, "runner", 4)] {
        let (came, decision) = one(&world, JobBuilder::new(id).name(level)).await;
        assert!(!came);
        assert_eq!(asked(&decision).len(), before + 1, "{decision}");
        let rejected = decision["verdicts"].as_array().unwrap().last().unwrap();
        assert_eq!((&rejected["outcome"], &rejected["enforced"]), (&"rejected".into(), &true.into()), "{decision}");
        let log = world.gitlab.ended(id).await.trace_text();
        assert!(log.contains(&format!("Rejected by {level}-gate (")), "{log}");
    }
    // Neither another group's nor another runner's controller has a say.
    assert!(one(&world, JobBuilder::new(6).name("elsewhere")).await.0);
    assert!(one(&world, JobBuilder::new(7).name("other")).await.0);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn the_runner_is_the_one_whose_token_asks_whatever_the_job_says() {
    let world = levels().start().await;
    let second = "glrt-second";
    assert_eq!(world.gitlab.runner(second), 2);
    world.gitlab.enqueue_for(Some(second), JobBuilder::new(1).name("runner").variable("CI_RUNNER_ID", "1").build());
    let runner = FakeRunner::new(world.jobgate.url(""), second);
    assert_eq!(runner.poll().await.job().id, 1, "the controller of `gpu-1` has no say");
    assert_eq!(world.decisions(1).await[0]["runner"], "gitlab-runner-2");
    world.gitlab.enqueue(JobBuilder::new(2).name("runner").variable("CI_RUNNER_ID", "2").build());
    assert!(world.runner().poll().await.is_empty());
    world.jobgate.stop().await;
}

#[tokio::test]
async fn dry_run_is_recorded_and_not_enforced() {
    let setup = at_once().file("trial.yaml", forbids("trial", "unit"));
    let world = setup.controller("name: trial, scope: instance, policy: trial.yaml, state: dry_run").start().await;
    let (came, _) = one(&world, JobBuilder::new(1)).await;
    assert!(came);
    let recorded = async {
        loop {
            let decision = world.decisions(1).await.remove(0);
            let trial =
                decision["verdicts"].as_array().unwrap().iter().find(|verdict| verdict["controller"] == "trial");
            if let Some(trial) = trial {
                return trial.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let trial = soon("the verdict of the dry run", recorded).await;
    assert_eq!((&trial["outcome"], &trial["enforced"]), (&"rejected".into(), &false.into()), "{trial}");
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_policy_may_read_the_runner() {
    const RUNNER: &str = "package jobgate
deny contains sprintf(\"%v %v %v %v\", [r.name, r.id, r.version, r.executor]) if {
    r := input.runner
    input.job.name == \"who\"
}
";
    let setup = at_once().file("runner.rego", RUNNER);
    let world = setup.controller("name: runner, scope: instance, policy: runner.rego").start().await;
    let (came, decision) = one(&world, JobBuilder::new(1).name("who")).await;
    assert!(!came);
    let reason = decision["verdicts"].as_array().unwrap().last().unwrap()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("gpu-1 1 19.4.0 shell"), "{decision}");
    assert!(one(&world, JobBuilder::new(2)).await.0);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn without_a_controller_a_job_is_admitted_or_rejected_as_the_configuration_says() {
    for (more, admitted) in [("", true), ("no_controllers: reject\n", false)] {
        let world = Setup { controllers: String::new(), more: more.to_owned(), ..at_once() }.start().await;
        let (came, decision) = one(&world, JobBuilder::new(1)).await;
        assert_eq!(came, admitted, "{decision}");
        assert_eq!(asked(&decision).len(), 0);
        world.jobgate.stop().await;
    }
}

#[tokio::test]
async fn the_question_has_the_facts_and_no_secret_and_what_nobody_knows_is_unknown() {
    let seen = Arc::<Mutex<Vec<AdmissionRequest>>>::default();
    let see = seen.clone();
    let sees = move |request: AdmissionRequest| {
        see.lock().unwrap().push(request);
        async { Verdict::admit() }
    };
    let setup = at_once().on_a_known_port();
    let world = setup.start_with(|router| router.controller("sees", "instance".parse().unwrap(), sees)).await;
    for (id, way) in [(1, Way::Rest), (2, Way::Router)] {
        let document = JobBuilder::new(id).image("alpine:3.22").all_secrets().build();
        world.gitlab.enqueue(document.clone());
        assert_eq!(world.runner().way(way).poll().await.job().id, id);
        let request = seen.lock().unwrap().pop().unwrap();
        let question = serde_json::to_value(&request).unwrap();
        let job = &question["job"];
        let told = [
            (&job["id"], format!("gitlab-{id}").into()),
            (&job["source_id"], id.to_string().into()),
            (&job["name"], "unit".into()),
            (&job["stage"], "test".into()),
            (&job["ref"], "main".into()),
            (&job["protected"], true.into()),
            (&job["source"], "push".into()),
            (&job["image"]["name"], "alpine:3.22".into()),
            (&question["project"]["path"], "acme/payments/api".into()),
            (&question["project"]["groups"], serde_json::json!(["acme", "acme/payments"])),
            (&question["user"]["login"], "mira".into()),
            (&question["runner"]["name"], "gpu-1".into()),
            (&question["runner"]["id"], 1.into()),
            (&question["runner"]["platform"], "linux/amd64".into()),
        ];
        for (value, wanted) in told {
            assert_eq!(*value, wanted, "{question}");
        }
        for unknown in
            [&job["tags"], &question["runner"]["tags"], &question["runner"]["type"], &question["runner"]["protected"]]
        {
            assert_eq!(*unknown, Value::Null, "{question}");
        }
        let text = format!("{question} {request:?}");
        for secret in document.secrets.iter().chain([&crate::site::TOKEN.to_owned()]) {
            assert!(!text.contains(secret), "{text}");
        }
    }
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_job_is_asked_about_again_when_its_chain_changes_before_its_delivery() {
    let (gate, questions) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (asked, count) = (gate.clone(), questions.clone());
    let slow = move |_: AdmissionRequest| {
        count.fetch_add(1, Ordering::Relaxed);
        let gate = asked.clone();
        async move {
            gate.come().await;
            Verdict::admit()
        }
    };
    let world = at_once().start_with(|router| router.controller("slow", "instance".parse().unwrap(), slow)).await;
    world.gitlab.enqueue(JobBuilder::new(1).build());
    let changes = async {
        gate.reached(1).await;
        world.site.file("late.yaml", &forbids("late", "unit"));
        world.reload(&at_once().controller("name: late, scope: \"group:acme\", policy: late.yaml")).await;
        gate.open();
    };
    let runner = world.runner();
    let (polled, ()) = soon("the answer", async { tokio::join!(runner.poll(), changes) }).await;
    assert!(polled.is_empty());
    let ended = world.gitlab.ended(1).await;
    assert_eq!((ended.status, ended.failure_reason.as_deref()), (Status::Failed, Some("job_router_failure")));
    assert!(ended.trace_text().contains("Rejected by late (group:acme)"), "{}", ended.trace_text());
    let decisions = world.decisions(1).await;
    let ruled: Vec<_> = decisions.iter().map(|decision| decision["decision"].as_str().unwrap()).collect();
    assert_eq!(ruled, ["rejected", "admitted"], "the one that was stale is on record, too");
    assert_ne!(decisions[0]["chain_version"], decisions[1]["chain_version"]);
    assert_eq!(questions.load(Ordering::Relaxed), 2);
    world.jobgate.stop().await;
}
