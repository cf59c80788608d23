//! Runner groups with a single leader. The first six tests are named after the gaps of others (facts, section C).

use super::{super::*, *};
use crate::handle::{RunnerAction, TaintKind};

struct Group {
    world: World,
    a: Session,
    b: Session,
}

/// Runners a and b, with one free slot each; a came first and leads.
fn group() -> Group {
    let (a, b) = (member("a", "g"), member("b", "g"));
    let mut world = World::with(chains(vec![]), rules(&[&a, &b]));
    let a = world.ready(&a, 2);
    world.after(1);
    let b = world.ready(&b, 2);
    Group { world, a, b }
}

impl Group {
    fn leader(&self) -> Option<String> {
        leader(&self.world)
    }
}

fn leader(world: &World) -> Option<String> {
    let status = world.scheduler.queue(world.now()).leaders;
    status[0].runner.as_ref().map(ToString::to_string)
}

fn fence(world: &World) -> u64 {
    world.scheduler.queue(world.now()).leaders[0].fence
}

#[test]
fn a_paused_old_leader_neither_takes_nor_finishes_work() {
    let Group { mut world, a, b } = group();
    let running = world.admitted_as(|job| job.retry_on_lost = true);
    assert_eq!(world.given_to(&running), Some(a));
    let old = world.lease(&running);
    world.says(a, RunnerEvent::Started(running.clone(), old));
    // It is paused: nothing is heard of it any more.
    world.alive(&[b], 15);
    let next = world.admitted();
    assert_eq!(world.given_to(&next), Some(b), "it takes nothing");
    assert_eq!(world.state(&running), JobState::Running, "its lease has not ended");
    world.alive(&[b], 30);
    assert_eq!(world.given_to(&running), Some(b), "what it had follows when its lease has ended");
    assert!(world.lease(&running) > old);
    assert!(world.fences[2] > world.fences[0], "{:?}", world.fences);
    // It goes on where it was paused.
    world.says(a, RunnerEvent::Finished(running.clone(), old, success()));
    let back = world.attach(&member("a", "g"), 2, vec![HeldLease { job: running.clone(), lease: old, started: true }]);
    world.says(back, RunnerEvent::Credit(2));
    world.says(back, RunnerEvent::Finished(running.clone(), old, success()));
    assert_eq!(world.state(&running), JobState::Assigned, "its result does not count");
    assert_eq!(world.stopped(back, &running).len(), 1, "it is told to stop");
    let last = world.admitted();
    assert_eq!(world.given_to(&last), None, "b is full, and leads");
}

#[test]
fn failover_takes_no_longer_than_the_leadership_lease() {
    for how in ["silent", "gone"] {
        let Group { mut world, a, b } = group();
        world.alive(&[a, b], 5);
        world.admitted();
        world.admitted();
        let job = world.admitted();
        if how == "gone" {
            world.detach(a);
        }
        world.alive(&[b], 14);
        world.after_ms(999);
        assert_eq!(world.given_to(&job), None, "{how}: never two at once");
        world.after_ms(1);
        assert_eq!(world.given_to(&job), Some(b), "{how}");
    }
}

#[test]
fn a_leader_that_was_silent_when_it_was_elected_has_no_longer_a_lease_for_it() {
    let Group { mut world, a, b } = group();
    let c = world.ready(&member("c", "g"), 1);
    world.alive(&[a, b, c], 5);
    // b is heard last now; ten seconds later it is elected.
    world.alive(&[a, c], 10);
    world.taint("a", TaintKind::Leadership);
    assert_eq!(leader(&world).as_deref(), Some("b"));
    world.alive(&[a, c], 5);
    assert_eq!(leader(&world).as_deref(), Some("c"), "15 s after b was heard last");
}

#[test]
fn a_recovered_older_runner_does_not_take_leadership_back() {
    let Group { mut world, a, b } = group();
    world.alive(&[b], 16);
    assert_eq!(leader(&world).as_deref(), Some("b"));
    world.says(a, RunnerEvent::Heartbeat(vec![]));
    assert_eq!(leader(&world).as_deref(), Some("b"));
    let again = world.ready(&member("a", "g"), 2);
    world.alive(&[again, b], 120);
    assert_eq!(leader(&world).as_deref(), Some("b"));
    let job = world.admitted();
    assert_eq!(world.given_to(&job), Some(b));
}

#[test]
fn a_pin_survives_elections_and_yields_to_a_taint() {
    let Group { mut world, a, b } = group();
    world.pin("g", "b");
    assert_eq!(leader(&world).as_deref(), Some("b"), "it takes over at once");
    // An election while it is away, and another when it is back.
    world.detach(b);
    world.alive(&[a], 15);
    assert_eq!(leader(&world).as_deref(), Some("a"));
    let b = world.ready(&member("b", "g"), 1);
    assert_eq!(leader(&world).as_deref(), Some("b"), "it is still pinned");
    for kind in [TaintKind::Leadership, TaintKind::Jobs] {
        world.taint("b", kind);
        assert_eq!(leader(&world).as_deref(), Some("a"), "{kind:?}");
        world.untaint("b");
        assert_eq!(leader(&world).as_deref(), Some("b"));
    }
    world.operate(RunnerAction::Unpin { group: "g".into() });
    assert_eq!(leader(&world).as_deref(), Some("b"), "who leads goes on leading");
    let status = &world.scheduler.queue(world.now()).leaders[0];
    assert_eq!(status.pinned, None);
    let _ = b;
}

#[test]
fn jobs_of_a_group_without_a_leader_wait() {
    let Group { mut world, a, b } = group();
    world.taint("a", TaintKind::Leadership);
    world.taint("b", TaintKind::Jobs);
    assert_eq!(leader(&world), None);
    let job = world.admitted();
    world.alive(&[a, b], 300);
    assert_eq!(world.state(&job), JobState::Admitted);
    assert_eq!(world.waits(&job).why, "not_leader");
    world.untaint("b");
    assert_eq!(world.given_to(&job), Some(b));
}

#[test]
fn leadership_and_what_follows_from_it_are_one_step() {
    let Group { mut world, a, b } = group();
    let old = fence(&world);
    let jobs: Vec<_> = (0..3).map(|_| world.admitted()).collect();
    assert_eq!(world.given_to(&jobs[2]), None);
    let now = world.now();
    let taint = RunnerAction::Taint {
        runner: "a".into(),
        system: None,
        kind: TaintKind::Jobs,
        reason: "disk".into(),
        by: "op".into(),
    };
    world.scheduler.operate(taint, now).unwrap();
    let outcome = world.scheduler.take_outcome(now);
    let kept = outcome.settings["leader/g"].as_ref().expect("the new leader is kept");
    assert!(String::from_utf8_lossy(kept).contains("\"b\""));
    assert!(outcome.settings.contains_key("taint/jobs/a"));
    let assigned = outcome.effects.iter().filter_map(|effect| match effect {
        Effect::Assign(session, assignment) => Some((*session, assignment.job.clone(), assignment.fence)),
        _ => None,
    });
    let assigned: Vec<_> = assigned.collect();
    assert_eq!(assigned, [(b, jobs[2].clone(), Some(old + 1))], "what waited follows in the same step");
    assert!(!world.scheduler.sessions[&a].leads && world.scheduler.sessions[&b].leads);
}

#[test]
fn the_runner_that_has_been_there_longest_leads_and_keeps_its_post() {
    let Group { mut world, a, b } = group();
    world.taint("a", TaintKind::Leadership);
    assert_eq!(leader(&world).as_deref(), Some("b"));
    world.untaint("a");
    assert_eq!(leader(&world).as_deref(), Some("b"), "though a is here longer");
    let c = world.ready(&member("c", "g"), 1);
    world.detach(b);
    world.alive(&[a, c], 15);
    assert_eq!(leader(&world).as_deref(), Some("a"), "it is here longer than c");
}

#[test]
fn a_leader_that_attaches_again_is_the_same_leader() {
    let Group { mut world, b, .. } = group();
    let before = fence(&world);
    let again = world.ready(&member("a", "g"), 1);
    let job = world.admitted();
    assert_eq!((world.given_to(&job), fence(&world)), (Some(again), before));
    world.detach(again);
    world.alive(&[b], 10);
    let again = world.ready(&member("a", "g"), 1);
    let job = world.admitted();
    assert_eq!((world.given_to(&job), fence(&world)), (Some(again), before), "within its lease");
}

#[test]
fn each_new_leadership_has_a_higher_number_that_its_assignments_carry_also_after_a_restart() {
    let Group { mut world, a, b } = group();
    world.admitted();
    world.taint("a", TaintKind::Leadership);
    world.admitted();
    world.untaint("a");
    world.taint("b", TaintKind::Leadership);
    world.admitted();
    assert_eq!(world.fences, [Some(1), Some(2), Some(3)]);
    world.restart();
    assert_eq!((leader(&world).as_deref(), fence(&world)), (Some("a"), 3));
    let (a, b) = {
        let _ = (a, b);
        (world.ready(&member("a", "g"), 2), world.ready(&member("b", "g"), 2))
    };
    world.untaint("b");
    world.taint("a", TaintKind::Leadership);
    let job = world.admitted();
    assert_eq!((world.given_to(&job), world.fences.last()), (Some(b), Some(&Some(4))));
    let _ = a;
}

#[test]
fn after_a_restart_leadership_passes_on_after_a_minute_and_not_before() {
    let Group { mut world, .. } = group();
    world.restart();
    let b = world.ready(&member("b", "g"), 1);
    let job = world.admitted();
    world.alive(&[b], 59);
    assert_eq!(
        (world.given_to(&job), leader(&world).as_deref()),
        (None, Some("a")),
        "a may still believe that it leads"
    );
    assert!(world.waits(&job).text.contains("only the leader of runner group g gets jobs: a (host)"));
    world.alive(&[b], 1);
    assert_eq!(world.given_to(&job), Some(b));
}

#[test]
fn within_a_minute_of_a_restart_a_leader_may_come_back_more_than_once() {
    let Group { mut world, .. } = group();
    world.restart();
    world.ready(&member("a", "g"), 1);
    let b = world.ready(&member("b", "g"), 1);
    world.alive(&[b], 40);
    let a = world.ready(&member("a", "g"), 1);
    let job = world.admitted();
    assert_eq!((leader(&world).as_deref(), world.given_to(&job)), (Some("a"), Some(a)));
}

#[test]
fn a_pin_and_its_taint_are_known_after_a_restart() {
    let Group { mut world, .. } = group();
    world.pin("g", "b");
    world.taint("b", TaintKind::Leadership);
    world.restart();
    let (a, b) = (world.ready(&member("a", "g"), 1), world.ready(&member("b", "g"), 1));
    world.alive(&[a, b], 5);
    assert_eq!(leader(&world).as_deref(), Some("a"));
    world.untaint("b");
    assert_eq!(leader(&world).as_deref(), Some("b"));
}

#[test]
fn only_a_runner_of_the_group_can_be_pinned_and_only_where_one_leads() {
    let (a, b) = (member("a", "g"), any_runner("b"));
    let mut world = World::with(chains(vec![]), rules(&[&a, &b]));
    let now = world.now();
    let mut pin = |group: &str, runner: &str| {
        let pin = RunnerAction::Pin { group: group.into(), runner: runner.into(), by: "op".into() };
        world.scheduler.operate(pin, now)
    };
    assert!(matches!(pin("g", "b"), Err(CoreError::NotInGroup { .. })));
    assert!(matches!(pin("g", "x"), Err(CoreError::NoSuchRunner(_))));
    assert!(matches!(pin("x", "a"), Err(CoreError::NoSuchRunnerGroup(_))));
    assert_eq!(pin("g", "a"), Ok(()), "though it is not attached");
}

#[test]
fn a_group_that_needs_no_leader_any_more_gives_jobs_to_all() {
    let mut group = group();
    assert_eq!(group.leader().as_deref(), Some("a"));
    let Group { world, b, .. } = &mut group;
    let jobs: Vec<_> = (0..3).map(|_| world.admitted()).collect();
    assert_eq!(world.given_to(&jobs[2]), None);
    let mut rules = world.rules.clone();
    rules.groups[0].single_leader = false;
    world.reconfigure(rules);
    assert_eq!(world.given_to(&jobs[2]), Some(*b));
    assert_eq!(world.fences.last(), Some(&None));
}
