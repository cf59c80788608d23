//! A decision serves an assignment only if it is of the present chain, young enough, and about this runner.

use super::{super::*, *};

fn policy(version: &str) -> Chains {
    chains(vec![entry("c", "instance", version)])
}

#[test]
fn a_decision_serves_to_the_last_moment_of_its_time_and_no_longer() {
    for (millis, state) in [(599_999, JobState::Assigned), (600_000, JobState::Routing)] {
        let mut world = World::new(policy("v1"));
        let job = world.admitted();
        world.after_ms(millis);
        world.ready(&any_runner("r"), 1);
        assert_eq!(world.state(&job), state, "after {millis} ms");
    }
}

#[test]
fn a_chain_that_came_back_makes_old_decisions_serve_again() {
    let mut world = World::new(policy("v1"));
    let job = world.admitted();
    world.set_chains(policy("v2"));
    world.set_chains(policy("v1"));
    world.ready(&any_runner("r"), 1);
    assert_eq!((world.state(&job), world.asked.len()), (JobState::Assigned, 1));
}

#[test]
fn another_projects_controllers_make_no_decision_stale() {
    let mut world = World::new(policy("v1"));
    let job = world.admitted();
    world.set_chains(chains(vec![entry("c", "instance", "v1"), entry("o", "project:acme/other", "v1")]));
    world.ready(&any_runner("r"), 1);
    assert_eq!(world.state(&job), JobState::Assigned);
}

#[test]
fn a_job_that_comes_back_from_a_runner_brings_its_decision_as_old_as_it_is() {
    for (version, seconds, state) in
        [("v1", 100, JobState::Assigned), ("v2", 100, JobState::Routing), ("v1", 550, JobState::Routing)]
    {
        let mut world = World::new(policy("v1"));
        let job = world.admitted();
        let session = world.ready(&any_runner("r"), 1);
        world.alive(&[session], seconds);
        world.detach(session);
        world.after(45);
        assert_eq!(world.state(&job), JobState::Admitted);
        world.set_chains(policy(version));
        world.after(5);
        world.ready(&any_runner("r"), 1);
        assert_eq!(world.state(&job), state, "{version} {seconds}");
    }
}

#[test]
fn a_decision_that_grows_old_while_the_runner_level_is_asked_serves_nothing() {
    let mut world = World::new(chains(vec![entry("c", "instance", "v1"), entry("r", "runner:r", "v1")]));
    let job = world.admitted();
    world.after(595);
    let session = world.ready(&any_runner("r"), 1);
    world.alive(&[session], 5);
    world.decide(&job, Conclusion::Admitted, Some("r"));
    assert_eq!((world.state(&job), world.assigned.len()), (JobState::Routing, 0));
}

#[test]
fn a_chain_that_changes_while_the_runner_level_is_asked_assigns_nothing() {
    let of = |version| chains(vec![entry("c", "instance", "v1"), entry("r", "runner:r", version)]);
    let mut world = World::new(of("v1"));
    world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    let (_, admission) = world.asked[1].clone();
    let old = world.scheduler.chains().version(&"acme/payments/api".parse().unwrap(), Part::Runner("r"));
    world.set_chains(of("v2"));
    world.decide_as(&job, admission.clone(), Conclusion::Admitted, old);
    assert_eq!((world.assigned.len(), world.asked.len()), (0, 3), "asked again under the new chain");
    world.decide(&job, Conclusion::Admitted, Some("r"));
    assert_eq!(world.assigned.len(), 1);
}

#[test]
fn what_was_said_of_one_runner_serves_no_other() {
    let levels = vec![entry("a", "runner:a", "v1"), entry("b", "runner:b", "v1")];
    let mut world = World::new(chains(levels));
    let on_a = world.ready(&any_runner("a"), 1);
    let job = world.admitted();
    let (_, about_a) = world.asked[1].clone();
    world.detach(on_a);
    let on_b = world.ready(&any_runner("b"), 1);
    assert_eq!(world.asked.len(), 3, "asked about b");
    let version = world.scheduler.chains().version(&"acme/payments/api".parse().unwrap(), Part::Runner("a"));
    world.decide_as(&job, about_a, Conclusion::Admitted, version);
    assert!(world.assigned.is_empty(), "that was about a");
    world.decide(&job, Conclusion::Admitted, Some("b"));
    assert_eq!(world.given_to(&job), Some(on_b));
}

#[test]
fn what_was_said_of_one_stream_serves_no_later_one() {
    let mut world = World::new(chains(vec![entry("a", "runner:a", "v1")]));
    world.ready(&any_runner("a"), 1);
    let job = world.admitted();
    let (_, first) = world.asked[1].clone();
    let again = world.ready(&any_runner("a"), 1);
    let version = world.scheduler.chains().version(&"acme/payments/api".parse().unwrap(), Part::Runner("a"));
    world.decide_as(&job, first, Conclusion::Admitted, version);
    assert!(world.assigned.is_empty(), "the runner may be another program by now");
    world.decide(&job, Conclusion::Admitted, Some("a"));
    assert_eq!(world.given_to(&job), Some(again));
}

#[test]
fn a_policy_that_reads_the_runner_is_asked_about_each_runner() {
    let reads = crate::chain::Entry { reads_runner: true, ..entry("c", "instance", "v1") };
    let mut world = World::new(chains(vec![reads]));
    let sessions = ["a", "b"].map(|name| world.ready(&any_runner(name), 1));
    let jobs = [world.admitted(), world.admitted()];
    assert!(world.assigned.is_empty());
    for (job, runner) in jobs.iter().zip(["a", "b"]) {
        world.decide(job, Conclusion::Admitted, Some(runner));
    }
    assert_eq!(jobs.each_ref().map(|job| world.given_to(job)), sessions.map(Some));
}

#[test]
fn an_answer_that_comes_twice_or_late_has_no_effect() {
    let mut world = World::new(policy("v1"));
    let job = world.admitted();
    let (_, admission) = world.asked[0].clone();
    let version = world.scheduler.chains().version(&"acme/payments/api".parse().unwrap(), Part::Arrival);
    world.decide_as(&job, admission.clone(), Conclusion::Rejected, version.clone());
    assert_eq!(world.state(&job), JobState::Admitted);
    let session = world.ready(&any_runner("r"), 1);
    world.decide_as(&job, admission, Conclusion::Rejected, version);
    assert_eq!((world.state(&job), world.given_to(&job)), (JobState::Assigned, Some(session)));
}

#[test]
fn a_shorter_time_to_serve_counts_from_its_reload_on() {
    let mut world = World::new(policy("v1"));
    let job = world.admitted();
    world.after(60);
    let now = world.now();
    world.scheduler.reconfigure(policy("v1"), Rules::default(), Duration::from_secs(60), true, now);
    world.settle();
    world.ready(&any_runner("r"), 1);
    assert_eq!(world.state(&job), JobState::Routing);
}

#[test]
fn a_stale_job_that_is_admitted_again_gets_the_slot_it_was_found_stale_for() {
    let mut world = World::new(policy("v1"));
    let stale = world.admitted();
    world.set_chains(policy("v2"));
    let session = world.ready(&any_runner("r"), 1);
    let other = world.submit(|_| {});
    world.decide(&other, Conclusion::Admitted, None);
    assert_eq!(world.given_to(&other), None, "the slot is held");
    world.decide(&stale, Conclusion::Admitted, None);
    assert_eq!(world.given_to(&stale), Some(session));
}

#[test]
fn a_stale_job_that_is_rejected_makes_room() {
    for conclusion in [Conclusion::Rejected, Conclusion::Wait] {
        let mut world = World::new(policy("v1"));
        let stale = world.admitted();
        world.set_chains(policy("v2"));
        let session = world.ready(&any_runner("r"), 1);
        let other = world.submit(|_| {});
        world.decide(&other, Conclusion::Admitted, None);
        world.decide(&stale, conclusion, None);
        assert_eq!(world.given_to(&other), Some(session));
    }
}
