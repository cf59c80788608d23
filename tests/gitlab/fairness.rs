//! One token does not hold up another.

use crate::{
    gitlab::{Gate, JobBuilder, Settings},
    gitlab_runner::{Code, FakeRunner, Polled, Way},
    refusals::at_once,
    site::{Setup, TOKEN, soon},
};

#[tokio::test]
async fn a_fleet_with_a_slow_controller_does_not_hold_up_another_runner() {
    /// More than are asked about at once.
    const FLEET: u64 = 300;
    let gate = Gate::new();
    let asked = gate.clone();
    let slow = move |_: jobgate_sdk::AdmissionRequest| {
        let gate = asked.clone();
        async move {
            gate.come().await;
            jobgate_sdk::Verdict::admit()
        }
    };
    let scope = "project:acme/fleet".parse().unwrap();
    let world = at_once().start_with(|router| router.controller("slow", scope, slow)).await;
    world.gitlab.runner("glrt-other");
    for id in 1..=FLEET {
        world.gitlab.enqueue_for(Some(TOKEN), JobBuilder::new(id).project("acme/fleet").build());
    }
    world.gitlab.enqueue_for(Some("glrt-other"), JobBuilder::new(1000).build());
    let fleet: tokio::task::JoinSet<_> = (0..FLEET)
        .map(|_| {
            let runner = world.runner();
            async move { runner.poll().await }
        })
        .collect();
    // All that are asked about at once.
    gate.reached(256).await;
    let other = FakeRunner::new(world.jobgate.url(""), "glrt-other");
    assert_eq!(soon("the other one's job", other.poll()).await.job().id, 1000);
    gate.open();
    let polled = soon("the fleet's answers", fleet.join_all()).await;
    // Those whose controller took too long were not admitted, and none got a job twice.
    let mut jobs: Vec<_> = polled
        .into_iter()
        .filter_map(|polled| if let Polled::Job(job) = polled { Some(job.id) } else { None })
        .collect();
    jobs.sort_unstable();
    let all = jobs.len();
    jobs.dedup();
    assert_eq!(jobs.len(), all);
    assert!(!jobs.contains(&1000));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_token_has_so_many_polls_and_no_more() {
    let setup = Setup { gitlab: Settings::default(), ..at_once() };
    let world = setup.section("  polls_per_token: 1\n").on_a_known_port().start().await;
    world.gitlab.runner("glrt-other");
    let runner = world.runner();
    assert!(runner.poll().await.is_empty());
    let meanwhile = async {
        world.gitlab.holding(1).await;
        let second = world.poll_as("call-2").await;
        assert_eq!((second.status().as_u16(), second.headers()["retry-after"].to_str().unwrap()), (429, "1"));
        assert!(matches!(world.runner().poll().await, Polled::Failed(Code::Http(429))));
        assert!(world.runner().way(Way::Router).poll().await.is_empty());
        assert_eq!(world.gitlab.count(crate::gitlab::Endpoint::Request), 2, "GitLab hears nothing of those");
        assert!(FakeRunner::new(world.jobgate.url(""), "glrt-other").poll().await.is_empty());
        world.gitlab.enqueue(JobBuilder::new(17).build());
    };
    let (first, ()) = soon("the job", async { tokio::join!(runner.poll(), meanwhile) }).await;
    assert_eq!(first.job().id, 17);
    // The place is free again.
    world.gitlab.enqueue(JobBuilder::new(18).build());
    assert_eq!(runner.poll().await.job().id, 18);
    world.jobgate.stop().await;
}
