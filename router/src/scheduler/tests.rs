//! The state machine by itself: invented time, no tasks. Here: the life of a job and what runners say; the other rules have
//! files of their own.

mod cost;
mod disk;
mod ending;
mod explain;
mod freshness;
mod keeping;
mod leaders;
mod order;
mod random;
mod recount;
mod restart;
mod signals;
mod spillover;
mod stuck;
mod taints;
mod world;

use super::*;
use crate::{
    config::{RunnerConfig, RunnerOwner},
    handle::{HeldLease, JobFilter, JobResult, RunnerEvent},
};
use world::*;

#[test]
fn a_job_goes_from_submission_to_success() {
    let mut world = World::new(chains(vec![entry("c", "instance", "v1")]));
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let job = world.submit(|_| {});
    assert_eq!(world.state(&job), JobState::Routing);
    assert!(world.assigned().is_empty(), "nothing goes out before the chain has admitted it");
    world.decide(&job, Conclusion::Admitted, None);
    let (_, _, lease) = world.assigned()[0].clone();
    world.says(session, RunnerEvent::Accepted(job.clone(), lease));
    world.says(session, RunnerEvent::Started(job.clone(), lease));
    assert_eq!(world.state(&job), JobState::Running);
    world.says(session, RunnerEvent::Finished(job.clone(), lease, success()));
    assert_eq!(world.state(&job), JobState::Success);
    assert!(matches!(world.orders.last(), Some((_, RunnerOrder::Recorded(..)))));
}

#[test]
fn a_rejected_job_is_over_and_says_why() {
    let mut world = World::new(chains(vec![]));
    let job = world.submit(|_| {});
    world.decide(&job, Conclusion::Rejected, None);
    assert_eq!(world.state(&job), JobState::Rejected);
    assert_eq!(world.scheduler.job(&job).unwrap().record.reason, "because");
    let now = world.now();
    assert_eq!(
        world.scheduler.cancel(&job, "x".into(), now).unwrap_err(),
        CoreError::AlreadyFinished(JobState::Rejected)
    );
}

#[test]
fn without_a_credit_nothing_is_assigned_and_first_come_is_first_served() {
    let mut world = World::new(chains(vec![]));
    let (first, second) = (world.admitted(), world.admitted());
    let session = world.attach(&any_runner("r"), 2, vec![]);
    assert!(world.assigned().is_empty());
    world.says(session, RunnerEvent::Credit(1));
    assert_eq!(world.assigned().iter().map(|(_, job, _)| job.clone()).collect::<Vec<_>>(), [first]);
    world.says(session, RunnerEvent::Credit(1));
    assert_eq!(world.assigned()[1].1, second);
}

#[test]
fn credits_beyond_the_capacity_end_the_stream() {
    let mut world = World::new(chains(vec![]));
    let session = world.attach(&any_runner("r"), 2, vec![]);
    world.says(session, RunnerEvent::Credit(3));
    assert!(matches!(world.orders.last(), Some((_, RunnerOrder::End(CoreError::Protocol(_))))));
}

#[test]
fn eligibility_is_gitlabs() {
    let group = |path: &str| RunnerOwner::Group(path.parse().unwrap());
    let takes = |runner: &Arc<RunnerConfig>, tags: &[&str], protected: bool, project: &str| {
        let mut job = crate::testing::new_job("j", project);
        job.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        job.protected = protected;
        fingerprint::Capability::of(runner).may_take(&job.tags, job.protected, &job.project)
    };
    let tagged = runner("t", &["docker", "linux"], RunnerOwner::Instance, false);
    assert!(takes(&tagged, &["linux"], false, "a/b"));
    assert!(!takes(&tagged, &["linux", "gpu"], false, "a/b"));
    assert!(!takes(&tagged, &[], false, "a/b"), "an untagged job needs run_untagged");
    let protected = runner("p", &[], RunnerOwner::Instance, true);
    assert!(takes(&protected, &[], true, "a/b") && !takes(&protected, &[], false, "a/b"));
    let acme = runner("g", &[], group("acme"), false);
    assert!(takes(&acme, &[], false, "ACME/x") && !takes(&acme, &[], false, "acme-evil/x"));
    let own = runner("o", &[], RunnerOwner::Project("acme/x".parse().unwrap()), false);
    assert!(takes(&own, &[], false, "acme/x") && !takes(&own, &[], false, "acme/x/y"));
}

#[test]
fn a_stale_decision_serves_nothing() {
    for stale in ["version", "age"] {
        let mut world = World::new(chains(vec![entry("c", "instance", "v1")]));
        let job = world.admitted();
        match stale {
            "version" => {
                let now = world.now();
                world.scheduler.set_chains(chains(vec![entry("c", "instance", "v2")]), now);
            }
            _ => world.after(TTL.as_secs()),
        }
        assert_eq!(world.state(&job), JobState::Admitted, "it is asked again only within reach of a runner");
        let session = world.attach(&any_runner("r"), 1, vec![]);
        world.says(session, RunnerEvent::Credit(1));
        assert_eq!((world.state(&job), world.assigned().len()), (JobState::Routing, 0), "{stale}");
        world.decide(&job, Conclusion::Admitted, None);
        assert_eq!((world.state(&job), world.assigned().len()), (JobState::Assigned, 1), "{stale}");
    }
}

#[test]
fn a_reload_is_no_stampede() {
    let mut world = World::new(chains(vec![entry("c", "instance", "v1")]));
    for _ in 0..100 {
        world.admitted();
    }
    let asked = world.asked.len();
    let now = world.now();
    world.scheduler.set_chains(chains(vec![entry("c", "instance", "v2")]), now);
    let session = world.attach(&any_runner("r"), 3, vec![]);
    world.says(session, RunnerEvent::Credit(3));
    assert_eq!(world.asked.len() - asked, 3, "as many as there are free slots");
}

#[test]
fn a_chain_that_changes_while_it_is_asked_admits_nothing() {
    let mut world = World::new(chains(vec![entry("c", "instance", "v1")]));
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let job = world.submit(|_| {});
    let (_, admission) = world.asked[0].clone();
    let project = "acme/payments/api".parse().unwrap();
    let old = world.scheduler.chains().version(&project, Part::Arrival);
    let now = world.now();
    world.scheduler.set_chains(chains(vec![entry("c", "instance", "v2")]), now);
    world.decide_as(&job, admission, Conclusion::Admitted, old);
    assert!(world.assigned().is_empty());
    assert_eq!(world.asked.len(), 2, "asked again under the new chain");
}

#[test]
fn the_runner_level_is_asked_about_this_runner_and_keeps_the_job_from_it_only() {
    let mut world = World::new(chains(vec![entry("c", "runner:a", "v1")]));
    let (a, b) = (any_runner("a"), any_runner("b"));
    let on_a = world.attach(&a, 1, vec![]);
    world.says(on_a, RunnerEvent::Credit(1));
    let job = world.admitted();
    assert_eq!(world.asked.len(), 2, "asked when it arrived, and about the runner");
    assert!(world.assigned().is_empty());
    world.decide(&job, Conclusion::Rejected, Some("a"));
    assert_eq!(world.state(&job), JobState::Admitted, "kept from this runner, not rejected");
    world.says(on_a, RunnerEvent::Heartbeat(vec![]));
    assert_eq!(world.asked.len(), 2, "not asked again while neither chain nor runner changes");
    let on_b = world.attach(&b, 1, vec![]);
    world.says(on_b, RunnerEvent::Credit(1));
    assert_eq!(world.assigned()[0].0, on_b);
    let other = world.admitted();
    world.decide(&other, Conclusion::Admitted, Some("a"));
    assert_eq!(world.assigned()[1].0, on_a);
}

#[test]
fn waiting_for_a_controller_backs_off_and_asks_again() {
    let mut world = World::new(chains(vec![entry("c", "instance", "v1")]));
    let job = world.submit(|_| {});
    for pause in [1, 2, 4, 8] {
        let asked = world.asked.len();
        world.decide(&job, Conclusion::Wait, None);
        assert_eq!(world.state(&job), JobState::Routing);
        world.after(pause - 1);
        assert_eq!(world.asked.len(), asked);
        world.after(1);
        assert_eq!(world.asked.len(), asked + 1);
    }
    world.after(24 * 3600);
    assert_eq!(world.state(&job), JobState::Dropped);
}

#[test]
fn a_refusal_costs_the_job_nothing() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted();
    let session = world.attach(&any_runner("r"), 1, vec![]);
    for round in 0..10 {
        world.says(session, RunnerEvent::Credit(1));
        let (_, _, lease) = world.assigned()[round].clone();
        world.says(session, RunnerEvent::Refused(job.clone(), lease, "busy".into()));
        assert_eq!(world.state(&job), JobState::Admitted);
        world.says(session, RunnerEvent::Heartbeat(vec![]));
        world.after(6);
    }
}

#[test]
fn a_lost_runner_gives_back_what_it_had_not_started_and_fails_the_rest() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted();
    for loss in 1..=4 {
        let session = world.attach(&any_runner("r"), 1, vec![]);
        world.says(session, RunnerEvent::Credit(1));
        assert_eq!(world.state(&job), JobState::Assigned, "loss {loss}");
        let now = world.now();
        world.scheduler.detach(session, now);
        world.after(44);
        assert_eq!(world.state(&job), JobState::Assigned, "its lease has not expired");
        world.after(1);
    }
    assert_eq!(world.state(&job), JobState::Failed, "at most three times");

    let running = world.admitted();
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let lease = world.assigned().last().unwrap().2;
    world.says(session, RunnerEvent::Started(running.clone(), lease));
    world.after(60);
    assert_eq!(world.state(&running), JobState::Failed);
    assert_eq!(world.scheduler.job(&running).unwrap().record.reason, "runner lost: r");
}

#[test]
fn a_runner_that_comes_back_keeps_its_jobs() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted();
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let lease = world.assigned()[0].2;
    world.says(session, RunnerEvent::Started(job.clone(), lease));
    world.after(30);
    let held = HeldLease { job: job.clone(), lease, started: true };
    let again = world.attach(&any_runner("r"), 1, vec![held.clone()]);
    assert!(
        world
            .orders
            .iter()
            .any(|(to, order)| *to == session && matches!(order, RunnerOrder::End(CoreError::Superseded)))
    );
    for _ in 0..20 {
        world.after(10);
        world.says(again, RunnerEvent::Heartbeat(vec![held.clone()]));
    }
    assert_eq!(world.state(&job), JobState::Running);
    world.says(again, RunnerEvent::Finished(job.clone(), lease, success()));
    world.says(again, RunnerEvent::Finished(job.clone(), lease, JobResult { state: JobState::Failed, ..success() }));
    assert_eq!(world.state(&job), JobState::Success, "the first result counts");
}

#[test]
fn an_old_lease_is_worth_nothing() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted();
    let (a, b) = (any_runner("a"), any_runner("b"));
    let on_a = world.attach(&a, 1, vec![]);
    world.says(on_a, RunnerEvent::Credit(1));
    let old = world.assigned()[0].2;
    let now = world.now();
    world.scheduler.detach(on_a, now);
    world.after(45);
    let on_b = world.attach(&b, 1, vec![]);
    world.says(on_b, RunnerEvent::Credit(1));
    assert_eq!(world.assigned()[1].0, on_b);
    let back = world.attach(&a, 1, vec![HeldLease { job: job.clone(), lease: old, started: true }]);
    assert!(
        matches!(world.orders.last(), Some((to, RunnerOrder::Cancel(_, lease, _))) if *to == back && *lease == old)
    );
    world.says(back, RunnerEvent::Finished(job.clone(), old, success()));
    assert_eq!(world.state(&job), JobState::Assigned, "its result does not count");
    // Nor does another runner's word under the valid lease.
    let valid = world.assigned()[1].2;
    world.says(back, RunnerEvent::Finished(job.clone(), valid, success()));
    assert_eq!(world.state(&job), JobState::Assigned);
}

#[test]
fn an_old_lease_is_worth_nothing_to_the_runner_that_has_the_new_one() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted();
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let old = world.assigned()[0].2;
    world.says(session, RunnerEvent::Refused(job.clone(), old, "busy".into()));
    world.after(6);
    world.says(session, RunnerEvent::Credit(1));
    let new = world.assigned()[1].2;
    assert!(new > old);
    world.says(session, RunnerEvent::Started(job.clone(), old));
    assert_eq!(world.state(&job), JobState::Assigned);
    assert!(matches!(world.orders.last(), Some((_, RunnerOrder::Cancel(_, lease, _))) if *lease == old));
    world.says(session, RunnerEvent::Finished(job.clone(), old, success()));
    assert_eq!(world.state(&job), JobState::Assigned);
    world.says(session, RunnerEvent::Started(job.clone(), new));
    assert_eq!(world.state(&job), JobState::Running);
}

#[test]
fn a_cancelled_job_is_stopped_where_it_runs() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted();
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let lease = world.assigned()[0].2;
    let now = world.now();
    world.scheduler.cancel(&job, "canceled by ci".into(), now).unwrap();
    world.settle();
    assert!(matches!(world.orders.last(), Some((_, RunnerOrder::Cancel(..)))));
    world.says(session, RunnerEvent::Finished(job.clone(), lease, success()));
    assert_eq!(world.state(&job), JobState::Canceled);
}

#[test]
fn a_silent_runner_gets_nothing_new_and_is_detached() {
    let mut world = World::new(chains(vec![]));
    let session = world.attach(&any_runner("r"), 2, vec![]);
    world.says(session, RunnerEvent::Credit(2));
    world.after(16);
    let job = world.admitted();
    assert!(world.assigned().is_empty());
    world.says(session, RunnerEvent::Heartbeat(vec![]));
    assert_eq!(world.state(&job), JobState::Assigned, "it was heard again");
    world.after(46);
    assert!(world.orders.iter().any(|(_, order)| matches!(order, RunnerOrder::End(CoreError::Silent))));
}

#[test]
fn a_full_queue_takes_nothing_and_submits_all_or_none() {
    let mut world = World::new(chains(vec![]));
    let jobs = |count| (0..count).map(|n| crate::testing::new_job(&format!("x{n}"), "a/b")).collect::<Vec<_>>();
    let now = world.now();
    assert!(matches!(world.scheduler.submit(jobs(1001), now), Err(CoreError::QueueFull { limit: 1000 })));
    assert_eq!(world.scheduler.list(&JobFilter { limit: 10, ..JobFilter::default() }).jobs.len(), 0);
    world.scheduler.submit(jobs(1000), now).unwrap();
}

#[test]
fn systems_of_one_runner_that_differ_do_not_hand_a_job_back_and_forth() {
    let mut world = World::new(chains(vec![entry("c", "runner:a", "v1")]));
    let a = any_runner("a");
    for system in ["old", "new"] {
        let session = world.attach_as(&a, system, 1, vec![]);
        world.says(session, RunnerEvent::Credit(1));
    }
    let job = world.admitted();
    for _ in 0..10 {
        world.decide(&job, Conclusion::Rejected, Some("a"));
    }
    assert_eq!(world.asked.len(), 3, "on arrival, and once about each system");
}

#[test]
fn a_chain_that_changes_with_every_answer_holds_up_nobody_else() {
    let mut world = World::new(chains(vec![entry("c", "project:acme/payments/api", "v0")]));
    let restless = world.submit(|_| {});
    let other = world.submit(|job| job.project = "acme/other".parse().unwrap());
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.decide(&restless, Conclusion::Admitted, None);
    let now = world.now();
    world.scheduler.set_chains(chains(vec![entry("c", "project:acme/payments/api", "v1")]), now);
    world.says(session, RunnerEvent::Credit(1));
    world.decide(&other, Conclusion::Admitted, None);
    for version in 2..100 {
        if world.state(&other) == JobState::Assigned {
            break;
        }
        let (_, admission) = world.asked.iter().rev().find(|(asked, _)| *asked == restless).unwrap().clone();
        let project = "acme/payments/api".parse().unwrap();
        let old = world.scheduler.chains().version(&project, Part::Arrival);
        let now = world.now();
        let next = chains(vec![entry("c", "project:acme/payments/api", &format!("v{version}"))]);
        world.scheduler.set_chains(next, now);
        world.decide_as(&restless, admission, Conclusion::Admitted, old);
    }
    assert_eq!(world.state(&other), JobState::Assigned, "the slot is not held for ever");
    let asked = world.asked.len();
    world.after(1);
    assert_eq!((world.state(&restless), world.asked.len()), (JobState::Routing, asked + 1), "after a pause");
}

#[test]
fn a_runner_that_a_reload_removes_gets_nothing_by_it() {
    let mut world = World::new(chains(vec![entry("c", "runner:a", "v1"), entry("c", "runner:b", "v1")]));
    let (a, b) = (any_runner("a"), any_runner("b"));
    for runner in [&a, &b] {
        let session = world.attach(runner, 1, vec![]);
        world.says(session, RunnerEvent::Credit(1));
    }
    let job = world.admitted();
    for _ in 0..2 {
        let runner = world.scheduler.job(&job).and_then(|job| match &job.phase {
            Phase::Admitted { check: Some(check), .. } => Some(check.runner.to_string()),
            _ => None,
        });
        world.decide(&job, Conclusion::Rejected, runner.as_deref());
    }
    world.orders.clear();
    let now = world.now();
    world.scheduler.reconfigure(chains(vec![]), Rules::default(), TTL, false, now);
    world.settle();
    world.decide(&job, Conclusion::Admitted, None);
    assert!(world.assigned().is_empty(), "{:?}", world.orders);
    assert_eq!(world.orders.iter().filter(|(_, order)| matches!(order, RunnerOrder::End(_))).count(), 2);
}

#[test]
fn a_job_that_is_over_leaves_nothing_behind() {
    let mut world = World::new(chains(vec![]));
    let session = world.attach(&any_runner("r"), 1, vec![]);
    let before = world.scheduler.timers.len();
    let jobs: Vec<_> = (0..100).map(|_| world.admitted()).collect();
    assert_eq!(world.scheduler.queue(world.now()).oldest_wait_seconds, Some(0));
    let now = world.now();
    for job in &jobs {
        world.scheduler.cancel(job, "x".into(), now).unwrap();
    }
    world.settle();
    let job = &jobs[99];
    assert!(world.scheduler.timers.len() <= before + 2, "no timer of its own waits for it");
    assert_eq!(world.scheduler.lanes.len(), 0);
    assert_eq!(world.scheduler.lanes.iter().count(), 0, "nor a lane");
    let over = world.scheduler.job(job).unwrap();
    assert!(matches!(over.content(), Content::Gone), "nor does what may hold its secrets");
    let queue = world.scheduler.queue(world.now());
    assert_eq!(queue.jobs, [("canceled", 100)].into());
    assert_eq!(queue.oldest_wait_seconds, None);
    let now = world.now();
    world.scheduler.detach(session, now);
}

#[test]
fn a_job_that_comes_back_after_a_day_is_dropped_when_it_waits_another() {
    let mut world = World::new(chains(vec![]));
    let job = world.submit(|job| job.retry_on_lost = true);
    world.decide(&job, Conclusion::Admitted, None);
    let session = world.attach(&any_runner("r"), 1, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let lease = world.assigned()[0].2;
    let held = HeldLease { job: job.clone(), lease, started: true };
    for _ in 0..=24 * 3600 / 30 {
        world.says(session, RunnerEvent::Heartbeat(vec![held.clone()]));
        world.says(session, RunnerEvent::Output(job.clone(), lease));
        world.after(30);
    }
    assert_eq!(world.state(&job), JobState::Running);
    world.after(60);
    assert_eq!(world.state(&job), JobState::Admitted, "its runner was lost");
    let busy = world.attach(&any_runner("busy"), 1, vec![]);
    world.hold_out(busy, 24 * 3600 - 100);
    assert_eq!(world.state(&job), JobState::Admitted);
    world.hold_out(busy, 100);
    assert_eq!(world.state(&job), JobState::Dropped);
}

#[test]
fn a_slot_held_for_a_job_that_is_dropped_goes_to_another() {
    let mut world = World::new(chains(vec![entry("c", "runner:a", "v1")]));
    let stuck = world.admitted();
    let busy = world.attach(&any_runner("busy"), 1, vec![]);
    world.hold_out(busy, 24 * 3600 - 10);
    let session = world.attach(&any_runner("a"), 1, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    world.decide(&stuck, Conclusion::Admitted, None);
    let next = world.admitted();
    let asked = world.asked.len();
    world.after(10);
    assert_eq!(world.state(&stuck), JobState::Dropped);
    assert_eq!(world.asked.len(), asked + 1);
    assert_eq!(world.asked.last().unwrap().0, next);
}
