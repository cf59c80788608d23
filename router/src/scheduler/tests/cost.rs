//! What the scheduler does not do: counted, not timed.

use super::{super::*, *};

fn policy(version: &str) -> Chains {
    chains(vec![entry("c", "instance", version)])
}

/// A world with so many admitted jobs of a hundred projects.
fn crowd(jobs: usize) -> World {
    let mut world = World::limited(policy("v1"), rules(&[]), 200_000);
    world.careful = false;
    world.scheduler.limits.admission_ttl = TTL * 1000;
    let templates: Vec<_> = (0..100).map(|n| crate::testing::new_job("x", &format!("acme/p{n}"))).collect();
    let now = world.now();
    for n in 0..jobs {
        let job = NewJob { id: JobId::new(format!("job{n:06}")), ..templates[n % 100].clone() };
        world.scheduler.submit(vec![job], now).unwrap();
    }
    world.settle();
    let versions: Vec<_> =
        templates.iter().map(|job| world.scheduler.chains().version(&job.project, Part::Arrival)).collect();
    for (n, (job, admission)) in world.asked.clone().into_iter().enumerate() {
        let (version, conclusion) = (versions[n % 100].clone(), Conclusion::Admitted);
        let decided = Decided { job, admission, conclusion, version, cause: None, reason: String::new() };
        world.scheduler.decided(decided, now);
    }
    world.settle();
    assert_eq!(world.scheduler.waiting(), jobs);
    world
}

#[test]
fn a_reload_with_100_000_waiting_jobs_asks_no_more_than_there_are_free_slots_and_touches_no_other_job() {
    let mut world = crowd(100_000);
    let (asked, timers) = (world.asked.len(), world.scheduler.timers.len());
    let now = world.now();
    world.scheduler.set_chains(policy("v2"), now);
    let outcome = world.scheduler.take_outcome(now);
    assert!(outcome.rows.is_empty() && outcome.changed.is_empty() && outcome.effects.is_empty(), "no slot is free");
    world.scheduler.reconfigure(policy("v3"), rules(&[]), TTL * 1000, true, now);
    let outcome = world.scheduler.take_outcome(now);
    assert!(outcome.rows.is_empty() && outcome.changed.is_empty() && outcome.effects.is_empty());
    assert!(world.scheduler.timers.len() <= timers + 2);
    let session = world.ready(&any_runner("r"), 7);
    assert_eq!((world.asked.len() - asked, world.scheduler.waiting()), (7, 100_000 - 7));
    // Reload upon reload, with the slots held: nobody else is asked.
    for version in ["v4", "v5", "v6"] {
        world.set_chains(policy(version));
    }
    assert_eq!(world.asked.len() - asked, 7);
    let waiting: Vec<_> = world.asked[asked..].iter().map(|(job, _)| job.clone()).collect();
    for job in waiting {
        world.decide(&job, Conclusion::Admitted, None);
    }
    assert_eq!((world.assigned.len(), world.asked.len() - asked), (7, 7));
    let _ = session;
}

#[test]
fn lanes_and_timers_grow_with_kinds_of_jobs_and_runners_and_not_with_jobs() {
    let mut world = crowd(100_000);
    assert_eq!(world.scheduler.lanes.iter().count(), 100, "one for each project");
    let idle = world.scheduler.timers.len();
    assert!(idle <= 2 * 100 + 1, "{idle} timers: age and no runner for each lane, and the oldest");
    let sessions: Vec<_> = (0..1000).map(|n| world.attach(&any_runner(&format!("r{n}")), 4, vec![])).collect();
    assert_eq!(world.scheduler.groups.ids().len(), 1);
    assert!(world.scheduler.timers.len() <= idle + 1000 + 2, "one of each stream");
    // Each assignment costs one timer, one row, one effect.
    for session in &sessions {
        let now = world.now();
        let before = world.scheduler.timers.len();
        world.scheduler.event(*session, RunnerEvent::Credit(1), now);
        let outcome = world.scheduler.take_outcome(now);
        let assigned = outcome.effects.iter().filter(|effect| matches!(effect, Effect::Assign(..))).count();
        assert_eq!((assigned, outcome.rows.len(), outcome.effects.len()), (1, 1, 1));
        assert!(world.scheduler.timers.len() <= before + 2);
        world.scheduler.written(&outcome.rows);
    }
    assert_eq!(world.scheduler.lanes.iter().count(), 100);
    let given: Vec<_> = world.scheduler.jobs.iter().filter(|job| job.grant().is_some()).collect();
    assert_eq!(given.len(), 1000);
}

#[test]
fn what_ends_leaves_no_timers_lanes_or_groups_behind() {
    let mut world = World::new(policy("v1"));
    for round in 0..50 {
        let tag = format!("tag{round}");
        let runner = runner("r", &[&tag], RunnerOwner::Instance, false);
        let job = world.admitted_as(|job| job.tags = vec![tag.clone()]);
        let session = world.ready(&runner, 1);
        world.runs(session, &job);
        world.detach(session);
        world.after(60);
    }
    assert_eq!(world.scheduler.lanes.iter().count(), 0);
    assert_eq!(world.scheduler.groups.ids().len(), 0);
    assert!(world.scheduler.timers.len() <= 2, "{}", world.scheduler.timers.len());
    assert!(world.scheduler.lanes.projects.is_empty());
}

#[test]
fn many_jobs_kept_from_a_runner_share_lanes() {
    let mut world = World::new(chains(vec![entry("c", "runner:a", "v1")]));
    world.careful = false;
    let session = world.ready(&any_runner("a"), 1);
    for _ in 0..200 {
        let job = world.admitted();
        world.decide(&job, Conclusion::Rejected, Some("a"));
    }
    assert_eq!((world.scheduler.waiting(), world.scheduler.lanes.iter().count()), (200, 1));
    let _ = session;
}
