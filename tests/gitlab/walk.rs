//! One job from GitLab to its runner, and one that does not get there.

use crate::{
    gitlab::{Endpoint, JobBuilder, Status},
    gitlab_runner::Way,
    site::{Setup, TOKEN, World},
};

#[tokio::test]
async fn an_admitted_job_reaches_its_runner_byte_for_byte() {
    let world = World::new().await;
    let documents = [
        JobBuilder::new(17).all_secrets().build(),
        JobBuilder::new(18).unknown_keys().build(),
        JobBuilder::new(19).odd_encodings().build(),
    ];
    let runner = world.runner();
    for document in documents {
        world.gitlab.enqueue(document.clone());
        let polled = runner.poll().await;
        assert!(!polled.is_empty(), "{:?}", world.decisions(document.id).await);
        let mut job = polled.job();
        assert_eq!(job.bytes, document.bytes);
        assert_eq!(runner.whole(&mut job).await, Some(200));
        let ended = world.gitlab.ended(document.id).await;
        assert_eq!((ended.status, ended.assignments.len()), (Status::Success, 1));
        assert_eq!(ended.system_id(), Some(runner.system_id.as_str()));
        let decision = world.decisions(document.id).await.remove(0);
        assert_eq!((&decision["decision"], &decision["runner"]), (&"admitted".into(), &"gpu-1".into()), "{decision}");
        for secret in &document.secrets {
            assert!(!decision.to_string().contains(secret), "{decision}");
        }
    }
    assert_eq!(world.gitlab.verified(TOKEN), 1, "GitLab is asked once whose token it is");
    // What the runner says of itself reaches GitLab whole.
    let asked = world.gitlab.nth(Endpoint::Request, 1).await;
    assert_eq!(asked.json()["info"]["features"].as_object().unwrap().len(), 31);
    assert_eq!(asked.header("runner-token"), Some(TOKEN));
    assert_eq!(asked.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(world.gitlab.breaches(), 0);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_rejected_job_fails_in_gitlab_with_a_log_worth_reading_and_its_runner_gets_nothing_of_it() {
    let world = World::new().await;
    let document = JobBuilder::new(17).name("forbidden").all_secrets().build();
    world.gitlab.enqueue(document.clone());
    let runner = world.runner();
    assert!(runner.poll().await.is_empty());
    let ended = world.gitlab.ended(17).await;
    assert_eq!((ended.status, ended.failure_reason.as_deref()), (Status::Failed, Some("job_router_failure")));
    assert_eq!(ended.updates, ["running", "failed"]);
    let log = ended.trace_text();
    for part in [
        "rejected by policy",
        "Rejected by names (instance)",
        "not-forbidden",
        "forbidden is a name that nobody may use",
        "What to do:",
        "gitlab-17",
        "\x1b[31;1m",
    ] {
        assert!(log.contains(part), "`{part}` is not in {log}");
    }
    for secret in &document.secrets {
        assert!(!log.contains(secret), "{log}");
    }
    let decision = world.decisions(17).await.remove(0);
    assert_eq!((&decision["decision"], &decision["cause"]), (&"rejected".into(), &"policy".into()), "{decision}");
    world.jobgate.stop().await;
}

#[tokio::test]
async fn after_a_rejection_the_same_poll_asks_again() {
    let world = World::new().await;
    for id in 1..=3 {
        world.gitlab.enqueue(JobBuilder::new(id).name("forbidden").build());
    }
    world.gitlab.enqueue(JobBuilder::new(4).build());
    assert_eq!(world.runner().poll().await.job().id, 4);
    for id in 1..=3 {
        assert_eq!(world.gitlab.ended(id).await.status, Status::Failed);
    }
    // Three times, and no more.
    for id in 11..=14 {
        world.gitlab.enqueue(JobBuilder::new(id).name("forbidden").build());
    }
    world.gitlab.enqueue(JobBuilder::new(15).build());
    assert!(world.runner().poll().await.is_empty());
    assert_eq!(world.runner().poll().await.job().id, 15);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_job_that_runners_read_in_another_way_is_not_admitted() {
    let world = World::new().await;
    // Go takes `Steps` for `steps`: what was asked about would not be what runs.
    world.gitlab.enqueue(JobBuilder::new(17).last(",\"Steps\":[]").build());
    assert!(world.runner().poll().await.is_empty());
    let ended = world.gitlab.ended(17).await;
    assert_eq!(ended.failure_reason.as_deref(), Some("runner_system_failure"));
    assert!(ended.trace_text().contains("runners read this key as `steps`"), "{}", ended.trace_text());
    world.jobgate.stop().await;
}

#[tokio::test]
async fn over_the_job_router_it_is_the_same() {
    let world = Setup::over_grpc().await;
    let document = JobBuilder::new(17).all_secrets().build();
    world.gitlab.enqueue(document.clone());
    world.gitlab.enqueue(JobBuilder::new(18).name("forbidden").build());
    let runner = world.runner().way(Way::Router);
    let mut job = runner.poll().await.job();
    assert_eq!(job.bytes, document.bytes);
    assert!(runner.request_ids().iter().any(|id| job.correlation_id() == Some(id)), "{:?}", job.headers);
    assert_eq!(runner.whole(&mut job).await, Some(200));
    assert!(runner.poll().await.is_empty());
    assert_eq!(world.gitlab.ended(18).await.status, Status::Failed);
    assert!(runner.healthy());
    assert_eq!(runner.last_update(), Some(world.gitlab.last_update(TOKEN)), "it came in the initial metadata");
    world.jobgate.stop().await;
}
