//! Jobs that are kept from a kind of runner: for how long, and what that does not hold up.

use super::{super::*, *};

fn level(version: &str) -> Chains {
    chains(vec![entry("c", "runner:a", version)])
}

/// The newest admission of a job ends with a failure of the runner's controller.
fn fails(world: &mut World, job: &JobId) {
    let (_, admission) = world.asked.iter().rev().find(|(asked, _)| asked == job).unwrap().clone();
    let version = world.scheduler.chains().version(&"acme/payments/api".parse().unwrap(), Part::Runner("a"));
    let decided = Decided {
        job: job.clone(),
        admission,
        conclusion: Conclusion::Rejected,
        version,
        cause: Some(Cause::Failure),
        reason: "it did not answer".into(),
    };
    let now = world.now();
    world.scheduler.decided(decided, now);
    world.settle();
}

#[test]
fn a_rejection_keeps_a_job_from_a_runner_until_the_chain_changes() {
    let mut world = World::patient(level("v1"));
    world.careful = false;
    let session = world.ready(&any_runner("a"), 1);
    let job = world.admitted();
    world.decide(&job, Conclusion::Rejected, Some("a"));
    world.alive(&[session], 3600);
    assert_eq!(world.asked.len(), 2);
    world.set_chains(level("v2"));
    assert_eq!(
        (world.asked.len(), world.state(&job)),
        (3, JobState::Admitted),
        "about the runner: the rest is as it was"
    );
    world.decide(&job, Conclusion::Admitted, Some("a"));
    assert_eq!(world.given_to(&job), Some(session));
}

#[test]
fn a_rejection_ends_when_the_runner_is_another_one() {
    let mut world = World::new(level("v1"));
    world.ready(&any_runner("a"), 1);
    let job = world.admitted();
    world.decide(&job, Conclusion::Rejected, Some("a"));
    let same = world.ready(&any_runner("a"), 1);
    assert_eq!(world.asked.len(), 2, "the same facts, the same answer");
    let newer = world.attach_as(&any_runner("a"), "newer", 1, vec![]);
    world.says(newer, RunnerEvent::Credit(1));
    assert_eq!(world.asked.len(), 3);
    world.decide(&job, Conclusion::Admitted, Some("a"));
    assert_eq!(world.given_to(&job), Some(newer));
    let _ = same;
}

#[test]
fn a_failed_controller_is_asked_again_after_thirty_seconds_and_not_before() {
    let mut world = World::new(level("v1"));
    let session = world.ready(&any_runner("a"), 1);
    let job = world.admitted();
    fails(&mut world, &job);
    assert_eq!(world.waits(&job).why, "kept_from_runner");
    world.alive(&[session], 29);
    world.after_ms(999);
    assert_eq!(world.asked.len(), 2);
    world.after_ms(1);
    assert_eq!(world.asked.len(), 3);
}

#[test]
fn a_runner_that_refused_a_job_is_offered_it_again_after_five_seconds_and_not_before() {
    let mut world = World::new(chains(vec![]));
    let session = world.ready(&any_runner("a"), 1);
    let job = world.admitted();
    let lease = world.lease(&job);
    world.says(session, RunnerEvent::Refused(job.clone(), lease, "busy\u{7}".into()));
    world.says(session, RunnerEvent::Credit(1));
    assert_eq!(world.reason(&job), "waits for another runner than a: refused by runner a: busy");
    world.after_ms(4999);
    assert_eq!(world.state(&job), JobState::Admitted);
    world.after_ms(1);
    assert_eq!(world.state(&job), JobState::Assigned);
    assert!(world.lease(&job) > lease);
}

#[test]
fn a_refused_job_goes_to_another_runner_at_once() {
    let mut world = World::new(chains(vec![]));
    let a = world.ready(&any_runner("a"), 1);
    let job = world.admitted();
    let b = world.ready(&any_runner("b"), 1);
    let lease = world.lease(&job);
    world.says(a, RunnerEvent::Refused(job.clone(), lease, String::new()));
    assert_eq!(world.given_to(&job), Some(b));
}

#[test]
fn a_job_that_started_cannot_be_refused() {
    let mut world = World::new(chains(vec![]));
    let session = world.ready(&any_runner("a"), 1);
    let job = world.admitted();
    let lease = world.lease(&job);
    world.says(session, RunnerEvent::Started(job.clone(), lease));
    world.says(session, RunnerEvent::Refused(job.clone(), lease, String::new()));
    assert_eq!(world.state(&job), JobState::Running);
}

#[test]
fn a_job_kept_from_a_runner_holds_up_none_behind_it() {
    let mut world = World::new(level("v1"));
    let session = world.ready(&any_runner("a"), 1);
    let kept = world.admitted();
    world.decide(&kept, Conclusion::Rejected, Some("a"));
    let next = world.admitted();
    world.decide(&next, Conclusion::Admitted, Some("a"));
    assert_eq!(world.given_to(&next), Some(session));
    assert_eq!(world.state(&kept), JobState::Admitted);
}

#[test]
fn a_job_keeps_its_place_when_nothing_keeps_it_any_more() {
    let mut world = World::new(level("v1"));
    let session = world.attach(&any_runner("a"), 2, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let first = world.admitted();
    fails(&mut world, &first);
    let second = world.admitted();
    world.decide(&second, Conclusion::Admitted, Some("a"));
    let third = world.admitted();
    world.alive(&[session], 30);
    world.says(session, RunnerEvent::Credit(1));
    assert_eq!(world.asked.last().unwrap().0, first, "it came before the third");
    let _ = third;
}
