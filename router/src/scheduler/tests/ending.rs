//! Cancel in every state; runners and routers that drain.

use super::{super::*, *};
use crate::handle::RunnerAction;

#[test]
fn a_job_can_be_canceled_in_every_state_and_nothing_of_it_is_left() {
    for state in ["routing", "waiting to be asked", "admitted", "checked", "reserved", "assigned", "running", "unheard"]
    {
        let policy = if state == "checked" { "runner:r" } else { "instance" };
        let mut world = World::new(chains(vec![entry("c", policy, "v1")]));
        let mut session = None;
        let job = world.submit(|_| {});
        if state == "waiting to be asked" {
            world.decide(&job, Conclusion::Wait, None);
        } else if state != "routing" {
            world.decide(&job, Conclusion::Admitted, None);
        }
        if state == "reserved" {
            world.set_chains(chains(vec![entry("c", "instance", "v2")]));
        }
        if ["checked", "reserved", "assigned", "running", "unheard"].contains(&state) {
            session = Some(world.ready(&any_runner("r"), 1));
        }
        if state == "running" {
            let lease = world.lease(&job);
            world.says(session.unwrap(), RunnerEvent::Started(job.clone(), lease));
        }
        if state == "unheard" {
            world.detach(session.unwrap());
        }
        let record = world.cancel(&job).unwrap();
        assert_eq!((record.state, &*record.reason), (JobState::Canceled, "canceled by ci"), "{state}");
        let told = ["assigned", "running"].contains(&state);
        assert_eq!(world.orders.iter().any(|(_, order)| matches!(order, RunnerOrder::Cancel(..))), told, "{state}");
        assert_eq!(world.cancel(&job).unwrap_err(), CoreError::AlreadyFinished(JobState::Canceled));
        if matches!(state, "routing" | "checked" | "reserved") {
            world.decide(&job, Conclusion::Admitted, (state == "checked").then_some("r"));
        }
        if matches!(state, "checked" | "reserved") {
            let next = world.submit(|_| {});
            world.decide(&next, Conclusion::Admitted, None);
            if state == "checked" {
                world.decide(&next, Conclusion::Admitted, Some("r"));
            }
            assert_eq!(world.given_to(&next), session, "{state}: its slot is free again");
        }
        world.after(100);
        assert_eq!(world.state(&job), JobState::Canceled, "{state}");
        assert_eq!(world.disk.row(&job).unwrap().job_state(), Some(JobState::Canceled));
    }
}

#[test]
fn a_slot_of_a_canceled_job_is_free_only_when_its_runner_says_so() {
    let mut world = World::new(chains(vec![]));
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    world.cancel(&job).unwrap();
    let next = world.admitted();
    assert_eq!(world.given_to(&next), None);
    world.says(session, RunnerEvent::Credit(1));
    assert_eq!(world.given_to(&next), Some(session));
}

#[test]
fn a_job_nobody_knows_cannot_be_canceled() {
    let mut world = World::new(chains(vec![]));
    assert!(matches!(world.cancel(&JobId::new("x")), Err(CoreError::NoSuchJob(_))));
}

#[test]
fn a_runner_that_drains_gets_nothing_new_and_finishes_what_it_has() {
    for by_operator in [true, false] {
        let mut world = World::with(chains(vec![]), rules(&[&any_runner("r")]));
        let session = world.ready(&any_runner("r"), 2);
        let running = world.admitted();
        if by_operator {
            world.operate(RunnerAction::Drain { runner: "r".into(), system: None });
            assert!(world.orders.iter().any(|(to, order)| *to == session && matches!(order, RunnerOrder::Drain)));
        } else {
            world.says(session, RunnerEvent::Draining);
        }
        let job = world.admitted();
        assert_eq!(world.given_to(&job), None);
        assert!(world.waits(&job).text.contains("1 draining"), "{}", world.waits(&job).text);
        world.runs(session, &running);
        assert_eq!(world.state(&running), JobState::Success);
        let again = world.ready(&any_runner("r"), 1);
        assert_eq!(world.given_to(&job), Some(again), "only its present streams were meant");
    }
}

#[test]
fn one_system_can_be_drained() {
    let r = any_runner("r");
    let mut world = World::with(chains(vec![]), rules(&[&r]));
    let old = world.attach_as(&r, "old", 1, vec![]);
    world.operate(RunnerAction::Drain { runner: "r".into(), system: Some("old".into()) });
    let new = world.attach_as(&r, "new", 1, vec![]);
    for session in [old, new] {
        world.says(session, RunnerEvent::Credit(1));
    }
    let job = world.admitted();
    assert_eq!(world.given_to(&job), Some(new));
}

#[test]
fn a_router_that_drains_gives_out_nothing_and_tells_every_runner() {
    let mut world = World::new(chains(vec![]));
    let session = world.ready(&any_runner("r"), 2);
    let running = world.admitted();
    world.scheduler.drain();
    world.settle();
    let job = world.admitted();
    assert_eq!(world.given_to(&job), None);
    assert_eq!(world.waits(&job).why, "draining");
    world.runs(session, &running);
    assert_eq!(world.state(&running), JobState::Success, "results still count");
    let late = world.ready(&any_runner("late"), 1);
    let told = |session| world.orders.iter().any(|(to, order)| *to == session && matches!(order, RunnerOrder::Drain));
    assert!(told(session) && told(late));
    assert_eq!(world.given_to(&job), None);
}

#[test]
fn what_could_not_be_committed_is_taken_back_and_costs_nobody_anything() {
    let mut world = World::new(chains(vec![]));
    let session = world.ready(&any_runner("r"), 1);
    let job = world.submit(|_| {});
    let (_, admission) = world.asked[0].clone();
    let version = world.scheduler.chains().version(&"acme/payments/api".parse().unwrap(), Part::Arrival);
    let conclusion = Conclusion::Admitted;
    let decided = Decided { job: job.clone(), admission, conclusion, version, cause: None, reason: String::new() };
    let now = world.now();
    world.scheduler.decided(decided, now);
    let outcome = world.scheduler.take_outcome(now);
    let lease = world.lease(&job);
    assert_eq!(world.state(&job), JobState::Assigned);
    // The store cannot write it.
    world.scheduler.pause();
    world.scheduler.take_back(&job, lease, now);
    world.scheduler.outcome.rows.extend(outcome.rows);
    world.settle();
    assert_eq!((world.state(&job), world.assigned.len()), (JobState::Admitted, 0));
    assert_eq!(world.waits(&job).why, "store");
    world.scheduler.resume(now);
    world.settle();
    assert_eq!(world.given_to(&job), Some(session), "its slot was still free");
    assert!(world.lease(&job) > lease, "under a lease of its own");
}
