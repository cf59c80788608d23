//! What runners and those who scale them hear of the queue.

use super::{super::*, *};
use crate::handle::GroupQueue;

fn tagged(tag: &str) -> impl FnOnce(&mut NewJob) {
    let tags = vec![tag.to_owned()];
    move |job| job.tags = tags
}

fn group_of(world: &World, tags: &[&str]) -> GroupQueue {
    let groups = world.scheduler.queue(world.now()).groups;
    groups.into_iter().find(|group| group.tags == tags).unwrap()
}

#[test]
fn demand_that_no_runner_serves_is_seen() {
    let mut world = World::new(chains(vec![]));
    world.admitted_as(tagged("gpu"));
    world.after(10);
    world.admitted_as(tagged("gpu"));
    let gpu = group_of(&world, &["gpu"]);
    assert_eq!((gpu.served, gpu.waiting, gpu.running, gpu.capacity), (false, 2, 0, 0));
    assert_eq!(gpu.oldest_wait_seconds, Some(10));
    let smallest = fingerprint::Capability::lacking(&["gpu".to_owned()]).fingerprint().to_string();
    assert_eq!(gpu.fingerprint, smallest, "it is named as the smallest runner that could");
    world.attach(&runner("r", &["gpu"], RunnerOwner::Instance, false), 1, vec![]);
    let gpu = group_of(&world, &["gpu"]);
    assert_eq!((gpu.served, gpu.waiting, gpu.capacity, gpu.fingerprint == smallest), (true, 2, 1, true));
}

#[test]
fn numbers_of_a_group_are_what_is_there() {
    let mut world = World::new(chains(vec![]));
    let session = world.attach(&any_runner("r"), 5, vec![]);
    world.says(session, RunnerEvent::Credit(2));
    for _ in 0..3 {
        world.admitted();
    }
    let group = group_of(&world, &[]);
    assert_eq!((group.waiting, group.running, group.free, group.capacity, group.systems), (1, 2, 0, 5, 1));
    let queue = world.scheduler.queue(world.now());
    assert_eq!(queue.jobs, [("admitted", 1), ("assigned", 2)].into());
    let first = world.given()[0].clone();
    world.runs(session, &first);
    world.says(session, RunnerEvent::Credit(3));
    let group = group_of(&world, &[]);
    assert_eq!((group.waiting, group.running, group.free), (0, 2, 2));
}

#[test]
fn a_job_counts_in_every_group_that_could_take_it() {
    let mut world = World::new(chains(vec![]));
    world.attach(&runner("a", &["x"], RunnerOwner::Instance, false), 1, vec![]);
    world.attach(&runner("b", &["x", "y"], RunnerOwner::Instance, false), 1, vec![]);
    world.admitted_as(tagged("x"));
    assert_eq!((group_of(&world, &["x"]).waiting, group_of(&world, &["x", "y"]).waiting), (1, 1));
    world.admitted_as(tagged("y"));
    assert_eq!((group_of(&world, &["x"]).waiting, group_of(&world, &["x", "y"]).waiting), (1, 2));
}

#[test]
fn a_runner_hears_of_its_queue_when_it_attaches() {
    let mut world = World::new(chains(vec![]));
    world.admitted();
    world.after(20);
    let session = world.attach(&any_runner("r"), 3, vec![]);
    let (to, signal, _) = world.signals[0].clone();
    assert_eq!((to, signal.waiting, signal.running, signal.capacity), (session, 1, 0, 3));
    let now = world.now().wall;
    assert_eq!((signal.oldest, signal.time), (Some(now - SignedDuration::from_secs(20)), now));
}

#[test]
fn a_group_hears_of_changes_within_a_second_and_at_most_every_half() {
    let mut world = World::new(chains(vec![]));
    let a = world.attach(&any_runner("a"), 5, vec![]);
    let b = world.attach(&any_runner("b"), 5, vec![]);
    world.after(1);
    world.signals.clear();
    for _ in 0..100 {
        world.admitted();
        world.after_ms(20);
    }
    world.after_ms(500);
    for session in [a, b] {
        let heard: Vec<_> = world.signals.iter().filter(|(to, ..)| *to == session).collect();
        assert!((4..=6).contains(&heard.len()), "{} in two seconds", heard.len());
        assert!(heard.windows(2).all(|pair| pair[1].2 - pair[0].2 >= Duration::from_millis(500)));
        assert_eq!(heard.last().unwrap().1.waiting, 100);
    }
    world.signals.clear();
    world.alive(&[a, b], 60);
    assert!(world.signals.is_empty(), "nothing changed");
}

#[test]
fn runners_of_other_groups_hear_nothing_of_it() {
    let mut world = World::new(chains(vec![]));
    world.attach(&runner("x", &["x"], RunnerOwner::Instance, false), 1, vec![]);
    world.after(1);
    world.signals.clear();
    world.admitted();
    world.after(1);
    assert!(world.signals.is_empty());
}

#[test]
fn a_job_that_is_being_asked_about_is_no_demand_yet() {
    let mut world = World::new(chains(vec![]));
    world.attach(&any_runner("r"), 1, vec![]);
    world.submit(|_| {});
    assert_eq!(group_of(&world, &[]).waiting, 0);
}
