//! What a restart of the router leaves as it was: only rows and settings that were committed survive.

use super::{super::*, *};

fn policy(version: &str) -> Chains {
    chains(vec![entry("c", "instance", version)])
}

#[test]
fn a_job_in_routing_is_asked_about_again_under_a_new_admission() {
    for waits in [false, true] {
        let mut world = World::new(policy("v1"));
        let job = world.submit(|_| {});
        if waits {
            world.decide(&job, Conclusion::Wait, None);
        }
        let (old, asked) = (world.asked[0].1.clone(), world.asked.len());
        world.restart();
        assert_eq!(world.asked.len(), asked + 1);
        assert_ne!(world.asked[asked].1, old, "an id of an admission is used once");
        let version = world.scheduler.chains().version(&"acme/payments/api".parse().unwrap(), Part::Arrival);
        world.decide_as(&job, old, Conclusion::Admitted, version);
        assert_eq!(world.state(&job), JobState::Routing, "the old admission is nobody's any more");
        world.decide(&job, Conclusion::Admitted, None);
        assert_eq!(world.state(&job), JobState::Admitted);
    }
}

#[test]
fn nobody_is_asked_before_the_restored_router_begins() {
    let mut world = World::new(policy("v1"));
    world.submit(|_| {});
    let mut fresh = Scheduler::new(policy("v1"), world.scheduler.limits, Rules::default());
    let now = world.now();
    fresh.restore(world.disk.read(), now).unwrap();
    fresh.tick(Now { tick: now.tick + Duration::from_secs(60), ..now });
    assert!(fresh.take_outcome(now).effects.is_empty());
    fresh.begin(now);
    assert!(matches!(fresh.take_outcome(now).effects[..], [Effect::Ask { .. }]));
}

#[test]
fn an_admission_about_a_runner_is_not_named_like_one_before_a_restart() {
    let mut world = World::new(chains(vec![entry("c", "runner:r", "v1")]));
    world.ready(&any_runner("r"), 1);
    world.admitted();
    world.restart();
    world.ready(&any_runner("r"), 1);
    let ids: Vec<_> = world.asked.iter().map(|(_, admission)| admission.clone()).collect();
    assert_eq!(ids.len(), 3, "when it arrived, about the runner, and about it again: {ids:?}");
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3, "{ids:?}");
}

#[test]
fn an_admitted_job_keeps_a_decision_that_is_still_fresh() {
    for how in ["fresh", "old", "nearly old", "other chain", "clock set back", "clock set forward"] {
        let mut world = World::new(policy("v1"));
        let job = world.admitted();
        let mut chains = policy("v1");
        match how {
            "old" => world.now += TTL,
            "nearly old" => world.now += TTL - Duration::from_millis(1),
            "other chain" => chains = policy("v2"),
            "clock set back" => world.ahead -= SignedDuration::from_secs(1),
            "clock set forward" => world.ahead += SignedDuration::from_secs(600),
            _ => {}
        }
        world.restart_with(chains, TTL);
        let asked = world.asked.len();
        assert_eq!(
            (world.state(&job), asked),
            (JobState::Admitted, 1),
            "{how}: nobody is asked before a runner is there"
        );
        world.ready(&any_runner("r"), 1);
        let fresh = matches!(how, "fresh" | "nearly old");
        let expected = if fresh { JobState::Assigned } else { JobState::Routing };
        assert_eq!(world.state(&job), expected, "{how}");
        assert_eq!(world.asked.len(), asked + usize::from(!fresh), "{how}");
    }
}

#[test]
fn a_decision_is_as_old_after_several_restarts_as_it_is() {
    let mut world = World::new(policy("v1"));
    let job = world.admitted();
    for _ in 0..5 {
        world.after(119);
        world.restart();
        let row = world.disk.row(&job).unwrap();
        assert_eq!(row.decided_at, row.admitted_at);
    }
    world.after(5);
    world.ready(&any_runner("r"), 1);
    assert_eq!(world.state(&job), JobState::Routing, "it is 600 s old");
}

/// A job that a runner has, started or not.
fn had(started: bool) -> (World, JobId, Lease) {
    let mut world = World::new(policy("v1"));
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted_as(|job| job.retry_on_lost = true);
    let lease = world.lease(&job);
    if started {
        world.says(session, RunnerEvent::Started(job.clone(), lease));
    }
    world.after(3);
    world.restart();
    (world, job, lease)
}

#[test]
fn a_runner_that_comes_back_within_a_minute_keeps_its_jobs() {
    for started in [false, true] {
        let (mut world, job, lease) = had(started);
        let before = world.state(&job);
        world.after_ms(59_999);
        assert_eq!(world.state(&job), before);
        let session = world.attach(&any_runner("r"), 1, vec![HeldLease { job: job.clone(), lease, started }]);
        world.alive(&[session], 300);
        assert_eq!((world.state(&job), world.lease(&job)), (before, lease));
        assert!(world.stopped(session, &job).is_empty());
        world.says(session, RunnerEvent::Finished(job.clone(), lease, success()));
        assert_eq!(world.state(&job), JobState::Success);
    }
}

#[test]
fn jobs_of_a_runner_that_does_not_come_back_are_lost_after_exactly_a_minute() {
    for started in [false, true] {
        let (mut world, job, lease) = had(started);
        let before = world.state(&job);
        let other = world.ready(&any_runner("other"), 1);
        world.alive(&[other], 59);
        world.after_ms(999);
        assert_eq!(world.state(&job), before, "no lease passes on earlier");
        world.after_ms(1);
        assert_eq!(world.given_to(&job), Some(other));
        assert!(world.lease(&job) > lease, "numbers of leases are never used again");
        let late = world.attach(&any_runner("r"), 1, vec![HeldLease { job: job.clone(), lease, started: true }]);
        assert_eq!(world.stopped(late, &job).len(), 1);
    }
}

#[test]
fn a_job_that_runs_and_is_not_to_run_twice_fails_with_its_runner_after_a_restart() {
    let mut world = World::new(policy("v1"));
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    let lease = world.lease(&job);
    world.says(session, RunnerEvent::Started(job.clone(), lease));
    world.restart();
    world.after(60);
    assert_eq!((world.state(&job), &*world.reason(&job)), (JobState::Failed, "runner lost: r"));
}

#[test]
fn another_runner_cannot_take_up_a_lease_after_a_restart() {
    let (mut world, job, lease) = had(true);
    let held = HeldLease { job: job.clone(), lease, started: true };
    let other = world.attach(&any_runner("other"), 1, vec![held.clone()]);
    let system = world.attach_as(&any_runner("r"), "another host", 1, vec![held]);
    assert_eq!((world.stopped(other, &job).len(), world.stopped(system, &job).len()), (1, 1));
    world.says(system, RunnerEvent::Finished(job.clone(), lease, success()));
    assert_eq!(world.state(&job), JobState::Running);
}

#[test]
fn leases_of_jobs_that_are_over_count_for_the_next_number() {
    let mut world = World::new(policy("v1"));
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    let lease = world.lease(&job);
    world.runs(session, &job);
    world.restart();
    world.disk.forget(&job);
    world.restart();
    world.ready(&any_runner("r"), 1);
    let next = world.admitted();
    assert!(world.lease(&next) > lease);
}

#[test]
fn order_and_shares_are_as_they_were() {
    let mut world = World::patient(policy("v1"));
    let of = |project: &'static str| move |job: &mut NewJob| job.project = project.parse().unwrap();
    let session = world.ready(&any_runner("r"), 1);
    let running = world.admitted_as(of("acme/a"));
    let lease = world.lease(&running);
    let of_a = world.admitted_as(of("acme/a"));
    let first_of_b = world.admitted_as(of("acme/b"));
    let second_of_b = world.admitted_as(of("acme/b"));
    let low = world.admitted_as(|job| job.priority = -1);
    world.alive(&[session], 300);
    let urgent = world.admitted_as(|job| job.priority = 1);
    world.restart_with(policy("v1"), TTL * 1000);
    world.after(1);
    let given = world.given().len();
    let held = HeldLease { job: running, lease, started: false };
    let session = world.attach(&any_runner("r"), 6, vec![held]);
    world.says(session, RunnerEvent::Credit(5));
    assert_eq!(world.given()[given..], [urgent, first_of_b, of_a, second_of_b, low]);
}

#[test]
fn age_goes_on_over_a_restart() {
    let mut world = World::patient(policy("v1"));
    let old = world.admitted();
    world.after(599);
    let new = world.admitted_as(|job| job.priority = 1);
    world.restart_with(policy("v1"), TTL * 1000);
    world.after(1);
    world.ready(&any_runner("r"), 2);
    assert_eq!(world.given(), [old, new]);
}

#[test]
fn a_job_that_ran_for_a_day_and_came_back_has_a_day_to_wait_after_a_restart() {
    let mut world = World::new(policy("v1"));
    world.careful = false;
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted_as(|job| job.retry_on_lost = true);
    let lease = world.lease(&job);
    world.says(session, RunnerEvent::Started(job.clone(), lease));
    for _ in 0..25 * 6 {
        world.alive(&[session], 600);
        world.says(session, RunnerEvent::Output(job.clone(), lease));
    }
    world.careful = true;
    world.after(60);
    assert_eq!(world.state(&job), JobState::Admitted);
    // All that was written meanwhile.
    let slot = world.scheduler.jobs.slot(&job).unwrap();
    let now = world.now();
    world.disk.commit(&mut world.scheduler, &[slot], &[], &BTreeMap::new(), now);
    world.disk.put_document(&job);
    world.restart();
    world.after(1);
    assert_eq!(world.state(&job), JobState::Admitted, "it has waited for a second");
}

#[test]
fn losses_count_over_restarts() {
    let mut world = World::new(policy("v1"));
    let job = world.admitted();
    for loss in 1..=4 {
        world.ready(&any_runner("r"), 1);
        assert_eq!(world.state(&job), JobState::Assigned, "loss {loss}");
        world.restart();
        world.after(60);
    }
    assert_eq!(world.state(&job), JobState::Failed);
}

#[test]
fn what_is_over_is_known_and_stays_over() {
    let mut world = World::new(policy("v1"));
    let job = world.submit(|_| {});
    world.decide(&job, Conclusion::Rejected, None);
    world.restart();
    assert_eq!((world.state(&job), &*world.reason(&job)), (JobState::Rejected, "because"));
    assert!(matches!(world.cancel(&job), Err(CoreError::AlreadyFinished(JobState::Rejected))));
}

#[test]
fn a_row_that_makes_no_sense_is_an_error_that_names_the_job() {
    let mut world = World::new(policy("v1"));
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    let _ = session;
    let breaks: [fn(&mut crate::store::JobRow); 6] = [
        |row| row.document = None,
        |row| row.lease = None,
        |row| row.system = None,
        |row| row.chain_version = None,
        |row| row.state = 99,
        |row| row.project = "../x".into(),
    ];
    for broken in breaks {
        let mut restored = world.disk.read();
        broken(&mut restored.jobs[0]);
        let mut fresh = Scheduler::new(policy("v1"), world.scheduler.limits, Rules::default());
        let error = fresh.restore(restored, world.now()).unwrap_err();
        assert!(error.to_string().contains(job.as_str()), "{error}");
    }
}
