//! What keeps runners out, who says so, and what it survives.

use super::{super::*, *};
use crate::handle::{RunnerAction, TaintKind};

fn kinds(world: &World, runner: &str) -> Vec<(TaintKind, String)> {
    let runners = world.scheduler.runners();
    let taints = runners.iter().find(|status| *status.name == *runner).unwrap().taints.iter();
    taints.map(|taint| (taint.kind, taint.by.clone())).collect()
}

#[test]
fn an_operators_taint_keeps_a_runner_from_all_jobs_until_it_is_taken_away() {
    let mut world = World::with(chains(vec![]), rules(&[&any_runner("r")]));
    let session = world.ready(&any_runner("r"), 2);
    let running = world.admitted();
    world.taint("r", TaintKind::Jobs);
    let job = world.admitted();
    assert_eq!(world.given_to(&job), None);
    assert_eq!(world.waits(&job).why, "no_runner_online");
    assert!(world.waits(&job).text.contains("1 tainted"), "{}", world.waits(&job).text);
    world.runs(session, &running);
    assert_eq!(world.state(&running), JobState::Success, "it goes on with what it has");
    let again = world.ready(&any_runner("r"), 2);
    assert_eq!(world.given_to(&job), None, "the taint survives");
    world.restart();
    let once_more = world.ready(&any_runner("r"), 2);
    assert_eq!(world.given_to(&job), None, "also a restart of the router");
    assert_eq!(kinds(&world, "r"), [(TaintKind::Jobs, "op".into())]);
    world.untaint("r");
    assert_eq!(world.given_to(&job), Some(once_more));
    world.restart();
    assert_eq!(kinds(&world, "r"), [], "what was taken away stays away");
    let _ = again;
}

#[test]
fn a_runner_may_taint_itself_with_its_hello_and_cannot_take_that_back() {
    for kind in [TaintKind::Jobs, TaintKind::Leadership] {
        let (a, b) = (member("a", "g"), member("b", "g"));
        let mut world = World::with(chains(vec![]), rules(&[&a, &b]));
        let mut tainted = hello(&a, "host", 1, vec![]);
        tainted.taints = vec![(kind, "disk is full".into())];
        let on_a = world.greet(&tainted);
        world.says(on_a, RunnerEvent::Credit(1));
        let on_b = world.ready(&b, 1);
        let job = world.admitted();
        assert_eq!(world.given_to(&job), Some(on_b), "{kind:?}: it does not lead");
        assert_eq!(kinds(&world, "a"), [(kind, "runner".into())]);
        world.runs(on_b, &job);
        // A hello that says nothing of it changes nothing.
        let on_a = world.ready(&a, 1);
        world.detach(on_b);
        world.alive(&[on_a], 60);
        let next = world.admitted();
        assert_eq!(world.given_to(&next), None, "{kind:?}");
        world.restart();
        let on_a = world.ready(&a, 1);
        world.alive(&[on_a], 60);
        assert_eq!(world.given_to(&next), None, "{kind:?}");
        world.untaint("a");
        assert_eq!(world.given_to(&next), Some(on_a), "{kind:?}");
    }
}

#[test]
fn a_taint_of_leadership_keeps_nobody_from_jobs_where_nobody_leads() {
    let mut world = World::with(chains(vec![]), rules(&[&any_runner("r")]));
    let session = world.ready(&any_runner("r"), 1);
    world.taint("r", TaintKind::Leadership);
    let job = world.admitted();
    assert_eq!(world.given_to(&job), Some(session));
}

#[test]
fn a_taint_may_be_of_one_system() {
    let r = any_runner("r");
    let mut world = World::with(chains(vec![]), rules(&[&r]));
    let old = world.attach_as(&r, "old", 2, vec![]);
    let new = world.attach_as(&r, "new", 1, vec![]);
    for session in [old, new] {
        world.says(session, RunnerEvent::Credit(1));
    }
    world.operate(RunnerAction::Taint {
        runner: "r".into(),
        system: Some("old".into()),
        kind: TaintKind::Jobs,
        reason: "x".into(),
        by: "op".into(),
    });
    let (first, second) = (world.admitted(), world.admitted());
    assert_eq!((world.given_to(&first), world.given_to(&second)), (Some(new), None));
    world.operate(RunnerAction::Untaint { runner: "r".into(), system: Some("new".into()), kind: None });
    assert_eq!(world.given_to(&second), None, "that was not its taint");
    world.operate(RunnerAction::Untaint { runner: "r".into(), system: None, kind: Some(TaintKind::Leadership) });
    assert_eq!(world.given_to(&second), None, "nor of its kind");
    world.operate(RunnerAction::Untaint { runner: "r".into(), system: None, kind: Some(TaintKind::Jobs) });
    assert_eq!(world.given_to(&second), Some(old));
}

#[test]
fn a_taint_of_a_runner_that_is_not_attached_waits_for_it_and_a_name_nobody_has_is_an_error() {
    let mut world = World::with(chains(vec![]), rules(&[&any_runner("r")]));
    world.taint("r", TaintKind::Jobs);
    world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    assert_eq!(world.given_to(&job), None);
    let now = world.now();
    let untaint = RunnerAction::Untaint { runner: "x".into(), system: None, kind: None };
    assert_eq!(world.scheduler.operate(untaint, now), Err(CoreError::NoSuchRunner("x".into())));
}

#[test]
fn a_taint_that_cannot_be_read_back_lets_nobody_in() {
    let mut world = World::with(chains(vec![]), rules(&[&any_runner("r")]));
    world.taint("r", TaintKind::Jobs);
    for (key, value) in [("taint/jobs/r", "{"), ("taint/cheese/r", "{}"), ("pin/g", "1"), ("leader/g", "")] {
        let mut restored = world.disk.read();
        restored.settings.insert(key.into(), value.into());
        let limits = world.scheduler.limits;
        let mut fresh = Scheduler::new(chains(vec![]), limits, world.rules.clone());
        let error = fresh.restore(restored, world.now()).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}
