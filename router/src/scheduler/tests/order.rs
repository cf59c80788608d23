//! Which job goes first: class and age, then the project's share, then the order of submission.

use std::collections::{HashMap, VecDeque};

use super::{super::*, *};

fn class(class: i32) -> impl FnOnce(&mut NewJob) {
    move |job| job.priority = class
}

fn of(project: &str) -> impl FnOnce(&mut NewJob) {
    let project = project.parse().unwrap();
    move |job| job.project = project
}

#[test]
fn a_higher_class_goes_first_and_a_class_is_served_in_order() {
    let mut world = World::new(chains(vec![]));
    let low = world.admitted();
    let first = world.admitted_as(class(5));
    let second = world.admitted_as(class(5));
    let lowest = world.admitted_as(class(-1));
    world.ready(&any_runner("r"), 4);
    assert_eq!(world.given(), [first, second, low, lowest]);
}

#[test]
fn a_job_goes_up_a_class_after_exactly_ten_minutes() {
    for (millis, older_first) in [(599_999, false), (600_000, true)] {
        for project in ["acme/payments/api", "acme/other"] {
            let mut world = World::patient(chains(vec![]));
            let old = world.admitted();
            world.after_ms(millis - 1000);
            let new = world.admitted_as(|job| {
                job.priority = 1;
                job.project = project.parse().unwrap();
            });
            world.after_ms(1000);
            world.ready(&any_runner("r"), 1);
            let expected = if older_first { old } else { new };
            assert_eq!(world.given(), [expected], "after {millis} ms, {project}");
        }
    }
}

#[test]
fn age_counts_from_submission_also_for_a_job_that_came_back() {
    let mut world = World::patient(chains(vec![]));
    let old = world.admitted();
    let session = world.ready(&any_runner("r"), 1);
    world.after(5);
    world.detach(session);
    world.after(595);
    assert_eq!(world.state(&old), JobState::Admitted);
    let new = world.admitted_as(class(1));
    world.ready(&any_runner("s"), 2);
    assert_eq!(world.given()[1..], [old, new]);
}

#[test]
fn an_old_job_of_a_low_class_overtakes_a_new_one_of_a_high_class() {
    for (new_class, older_first) in [(2, true), (3, true), (4, false)] {
        let mut world = World::patient(chains(vec![]));
        let old = world.admitted();
        world.after(30 * 60);
        let new = world.admitted_as(class(new_class));
        world.ready(&any_runner("r"), 1);
        assert_eq!(world.given(), [if older_first { old } else { new }], "class {new_class}");
    }
}

#[test]
fn with_equal_weights_the_project_with_the_fewest_running_jobs_goes_first() {
    let mut world = World::new(chains(vec![]));
    for project in ["acme/a", "acme/a", "acme/b"] {
        world.admitted_as(of(project));
    }
    let session = world.attach(&any_runner("r"), 6, vec![]);
    world.says(session, RunnerEvent::Credit(3));
    let of_a = world.admitted_as(of("acme/a"));
    let of_b = world.admitted_as(of("acme/b"));
    let of_c = world.admitted_as(of("acme/c"));
    world.says(session, RunnerEvent::Credit(3));
    assert_eq!(world.given()[3..], [of_c, of_b, of_a], "two of a and one of b run already");
}

#[test]
fn a_share_is_free_again_when_a_job_ends() {
    let mut world = World::new(chains(vec![]));
    let session = world.attach(&any_runner("r"), 4, vec![]);
    world.says(session, RunnerEvent::Credit(2));
    let running: Vec<_> = ["acme/a", "ACME/a"].map(|project| world.admitted_as(of(project))).into();
    let of_a = world.admitted_as(of("Acme/A"));
    let of_b = world.admitted_as(of("acme/b"));
    for job in &running {
        world.runs(session, job);
    }
    world.says(session, RunnerEvent::Credit(2));
    assert_eq!(world.given()[2..], [of_a, of_b], "nothing of either runs: first come, first served");
}

#[test]
fn class_comes_before_shares() {
    let mut world = World::new(chains(vec![]));
    world.admitted_as(of("acme/a"));
    let session = world.attach(&any_runner("r"), 3, vec![]);
    world.says(session, RunnerEvent::Credit(1));
    let of_b = world.admitted_as(of("acme/b"));
    let urgent = world.admitted_as(|job| {
        job.project = "acme/a".parse().unwrap();
        job.priority = 1;
    });
    world.says(session, RunnerEvent::Credit(2));
    assert_eq!(world.given()[1..], [urgent, of_b]);
}

#[test]
fn runners_of_groups_and_projects_serve_first_come_first_served() {
    let owners = [RunnerOwner::Group("acme".parse().unwrap()), RunnerOwner::Project("acme/a".parse().unwrap())];
    for owner in owners {
        let other = if matches!(owner, RunnerOwner::Group(_)) { "acme/b" } else { "acme/a" };
        let mut world = World::new(chains(vec![]));
        let runner = runner("r", &[], owner, false);
        let session = world.attach(&runner, 4, vec![]);
        world.says(session, RunnerEvent::Credit(2));
        let jobs: Vec<_> =
            ["acme/a", "acme/a", "acme/a", other].into_iter().map(|project| world.admitted_as(of(project))).collect();
        world.says(session, RunnerEvent::Credit(2));
        assert_eq!(world.given(), jobs);
    }
}

/// Three projects always have jobs waiting; each job runs as long as any other.
fn shares(weights: Arc<[WeightRule]>) -> HashMap<String, u32> {
    const SLOTS: u32 = 30;
    let rules = Rules { fairness: weights, ..rules(&[]) };
    let mut world = World::limited(chains(vec![]), rules, 100_000);
    world.careful = false;
    let mut given: HashMap<String, u32> = HashMap::new();
    let mut running = VecDeque::new();
    let mut seen = 0;
    let projects = ["acme/a", "acme/b", "acme/c"];
    for round in 0..3 * SLOTS {
        world.admitted_as(of(projects[round as usize % 3]));
    }
    let session = world.ready(&any_runner("r"), SLOTS);
    while given.values().sum::<u32>() < 3000 {
        while let Some((_, job, _)) = world.assigned.get(seen).cloned() {
            seen += 1;
            let project = world.scheduler.job(&job).unwrap().project().to_string();
            *given.entry(project.clone()).or_default() += 1;
            running.push_back(job);
            world.admitted_as(of(&project));
        }
        let over = running.pop_front().unwrap();
        world.runs(session, &over);
        world.says(session, RunnerEvent::Credit(1));
    }
    given
}

#[test]
fn weights_share_slots_within_a_tenth_over_3000_dispatches() {
    let given = shares(weights(&[("acme/a", 3), ("acme/b", 2)]));
    for (project, expected) in [("acme/a", 1500_u32), ("acme/b", 1000), ("acme/c", 500)] {
        let got = given[project];
        assert!(got.abs_diff(expected) * 10 <= expected, "{project}: {got} instead of {expected}; {given:?}");
    }
    let given = shares(weights(&[]));
    assert!(given.values().all(|got| got.abs_diff(1000) <= 100), "{given:?}");
}

#[test]
fn other_weights_count_from_their_reload_on() {
    let mut world = World::with(chains(vec![]), rules(&[]));
    let session = world.attach(&any_runner("r"), 6, vec![]);
    world.says(session, RunnerEvent::Credit(2));
    let _running: Vec<_> = ["acme/a", "acme/b"].map(|project| world.admitted_as(of(project))).into();
    let of_b = world.admitted_as(of("acme/b"));
    let of_a = world.admitted_as(of("acme/a"));
    let (now, rules) = (world.now(), Rules { fairness: weights(&[("acme/a", 10)]), ..rules(&[]) });
    world.scheduler.reconfigure(chains(vec![]), rules, TTL, true, now);
    world.settle();
    world.says(session, RunnerEvent::Credit(2));
    assert_eq!(world.given()[2..], [of_a, of_b]);
}

#[test]
fn a_job_goes_to_the_runner_with_most_free_slots_of_the_highest_priority() {
    let mut world = World::new(chains(vec![]));
    world.ready(&ranked("low", 0), 9);
    let narrow = world.ready(&ranked("narrow", 5), 2);
    let wide = world.ready(&ranked("wide", 5), 3);
    let jobs: Vec<_> = (0..5).map(|_| world.admitted()).collect();
    let to: Vec<_> = jobs.iter().filter_map(|job| world.given_to(job)).collect();
    assert_eq!(to.iter().filter(|session| **session == wide).count(), 3);
    assert_eq!(to.iter().filter(|session| **session == narrow).count(), 2);
    assert_eq!(to[0], wide);
}
