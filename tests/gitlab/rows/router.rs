//! The job router, and what a runner does where it is not well.

use std::time::Duration;

use crate::{
    gitlab::{Answer, Endpoint, Gate, JobBuilder, Outage, Outcome, Settings, Status},
    gitlab_runner::{Code, Polled, Way},
    site::{Setup, World, soon},
    support::Site,
};

fn unavailable(polled: &Polled) -> bool {
    matches!(polled, Polled::Failed(Code::Grpc(tonic::Code::Unavailable)))
}

#[tokio::test]
async fn row_01_whatever_the_reason_no_job_is_ok_and_empty() {
    let world = Setup::over_grpc().await;
    let runner = world.runner().way(Way::Router);
    assert!(runner.poll().await.is_empty(), "there is none");
    world.gitlab.enqueue(JobBuilder::new(17).name("forbidden").build());
    assert!(runner.poll().await.is_empty(), "it was rejected");
    for status in [400, 404, 409, 410, 422] {
        world.gitlab.answers([Answer::Status(status)]);
        assert!(runner.poll().await.is_empty(), "GitLab answers {status}");
    }
    world.gitlab.answers([Answer::StatusWith(429, vec![("retry-after", "300".to_owned())])]);
    for _ in 0..4 {
        assert!(runner.poll().await.is_empty(), "GitLab wants a pause");
    }
    assert!(runner.healthy());
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_01_only_a_token_that_gitlab_refuses_is_told_so() {
    let world = Setup::over_grpc().await;
    let runner = world.runner().way(Way::Router);
    assert!(runner.poll().await.is_empty());
    world.gitlab.forget_runner(crate::site::TOKEN);
    assert!(matches!(runner.poll().await, Polled::Unhealthy(Code::Grpc(tonic::Code::PermissionDenied))));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_02_discovery_answers_as_soon_as_rest_does_and_without_gitlab() {
    let world = Setup::over_grpc().await;
    world.gitlab.outage(Outage::Refuse).await;
    let here = format!("grpc://{}", world.jobgate.address);
    // "No router" would be kept for an hour, by all of a process.
    assert_eq!(world.runner().discover().await, Some((200, Some(here))));
    assert_eq!(world.gitlab.count(Endpoint::Discovery), 0);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_03_it_is_switched_off_only_where_there_is_no_gitlab() {
    let world = Setup::over_grpc().await;
    world.gitlab.outage(Outage::Refuse).await;
    let runner = world.runner().way(Way::Router);
    // With `Unimplemented` it would go over to REST at once.
    assert!(unavailable(&runner.poll().await));
    world.jobgate.stop().await;

    let site = Site::new();
    site.file("ci.token", crate::site::CI);
    let tokens = "tokens:\n  - { name: ci, token_file: ci.token, may: [read] }\n";
    site.file("jobgate.yaml", &format!("listen: 127.0.0.1:0\n{tokens}"));
    let jobgate = site.start("jobgate.yaml").await;
    let runner = crate::gitlab_runner::FakeRunner::new(jobgate.url(""), crate::site::TOKEN).way(Way::Router);
    runner.use_router(&format!("grpc://{}", jobgate.address)).await;
    let polled = runner.poll().await;
    assert!(matches!(polled, Polled::Failed(Code::Http(501))), "{polled:?}");
    assert!(runner.healthy());
    jobgate.stop().await;
}

#[tokio::test]
async fn row_04_a_runner_that_falls_back_to_rest_meets_the_same_policy() {
    let world = World::new().await;
    let document = JobBuilder::new(17).name("forbidden").build();
    world.gitlab.enqueue(document);
    let runner = world.runner().way(Way::Router);
    // Nobody is there; the third failure in a row is followed by REST.
    runner.use_router("grpc://127.0.0.1:1").await;
    assert!(unavailable(&runner.poll().await) && unavailable(&runner.poll().await));
    assert_eq!(world.gitlab.count(Endpoint::Request), 0);
    assert!(runner.poll().await.is_empty());
    assert_eq!(world.gitlab.ended(17).await.failure_reason.as_deref(), Some("job_router_failure"));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_05_last_update_is_in_the_initial_headers_and_no_value_is_invented() {
    let world = Setup::over_grpc().await;
    let runner = world.runner().way(Way::Router);
    assert!(runner.poll().await.is_empty());
    let told = runner.last_update();
    assert_eq!(told, Some(world.gitlab.last_update(crate::site::TOKEN)));
    // GitLab says none with a job, so none is said with an answer after which the next poll must be a real one.
    for id in 1..=4 {
        world.gitlab.enqueue(JobBuilder::new(id).name("forbidden").build());
    }
    assert!(runner.poll().await.is_empty());
    assert_eq!(runner.last_update(), told);
    assert_ne!(told, Some(world.gitlab.last_update(crate::site::TOKEN)));
    world.gitlab.enqueue(JobBuilder::new(5).build());
    assert_eq!(runner.poll().await.job().id, 5);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_07_a_job_too_large_for_the_job_router_fails_with_a_reason_and_is_not_lost() {
    const LARGEST: usize = 4_194_299;
    let world = Setup::over_grpc().await;
    let runner = world.runner().way(Way::Router);
    world.gitlab.enqueue(JobBuilder::new(17).size(LARGEST).build());
    assert_eq!(runner.poll().await.job().bytes.len(), LARGEST);
    world.gitlab.enqueue(JobBuilder::new(18).size(LARGEST + 1).build());
    assert!(runner.poll().await.is_empty());
    let ended = world.gitlab.ended(18).await;
    assert_eq!((ended.status, ended.failure_reason.as_deref()), (Status::Failed, Some("job_router_failure")));
    assert!(ended.trace_text().contains("has 4194300 bytes"), "{}", ended.trace_text());
    assert!(runner.healthy());
    // REST has no such limit.
    world.gitlab.enqueue(JobBuilder::new(19).size(LARGEST + 1).build());
    assert_eq!(world.runner().poll().await.job().bytes.len(), LARGEST + 1);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_08_a_long_poll_ends_with_gitlabs_hold_and_with_its_runner() {
    let setup = Setup { gitlab: Settings { hold: Duration::from_millis(100), ..Settings::default() }, ..Setup::new() };
    let world = setup.on_a_known_port().start().await;
    let runner = world.runner().way(Way::Router);
    assert!(runner.poll().await.is_empty());
    // Held, and ended by GitLab.
    assert!(runner.poll().await.is_empty());
    world.gitlab.set(|settings| settings.hold = Duration::from_secs(3600));
    {
        let held = runner.poll();
        tokio::select! {
            polled = held => panic!("it is held: {polled:?}"),
            () = world.gitlab.holding(1) => {}
        }
    }
    // The runner is gone, so nobody asks GitLab any more, and what comes then goes to nobody.
    world.gitlab.holding(0).await;
    assert_eq!(world.gitlab.answered(Endpoint::Request, 3).await.outcome, Some(Outcome::Gone));
    world.gitlab.enqueue(JobBuilder::new(17).build());
    assert_eq!(world.gitlab.job(17).status, Status::Queued);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_10_a_job_for_a_stream_that_is_dead_fails_with_a_reason_and_is_not_lost() {
    for way in [Way::Rest, Way::Router] {
        let world = Setup::over_grpc().await;
        let runner = world.runner().way(way);
        assert!(runner.poll().await.is_empty());
        world.gitlab.enqueue(JobBuilder::new(17).build());
        let gate = Gate::new();
        world.gitlab.answers([Answer::DelayDelivery(gate.clone())]);
        tokio::select! {
            polled = runner.poll() => panic!("it waits: {polled:?}"),
            () = gate.reached(1) => {}
        }
        world.metric_is("open_polls", 0).await;
        gate.open();
        let ended = world.gitlab.ended(17).await;
        assert_eq!((ended.status, ended.assignments.len()), (Status::Failed, 1), "{way:?}");
        assert_eq!(ended.failure_reason.as_deref(), Some("runner_system_failure"));
        assert!(ended.trace_text().contains("was gone before it could be given"), "{}", ended.trace_text());
        assert_eq!(world.metric("jobs_total{runner=\"gpu-1\",outcome=\"returned\"}").await, 1);
        world.jobgate.stop().await;
    }
}

#[tokio::test]
async fn row_11_after_an_outage_of_gitlab_the_next_poll_goes_through() {
    // Nothing is held, so that each answer is about now.
    let setup = Setup { gitlab: Settings { hold: Duration::ZERO, ..Settings::default() }, ..Setup::new() };
    let world = setup.on_a_known_port().start().await;
    let runner = world.runner().way(Way::Router);
    assert!(runner.poll().await.is_empty());
    for outage in [Outage::Refuse, Outage::Status(502)] {
        world.gitlab.outage(outage).await;
        let polled = runner.poll().await;
        assert!(unavailable(&polled), "{outage:?}: {polled:?}");
        // No pause of our own on top of those that the runner makes.
        world.gitlab.outage(Outage::Over).await;
        assert!(soon("the poll after", runner.poll()).await.is_empty());
    }
    world.jobgate.stop().await;
}
