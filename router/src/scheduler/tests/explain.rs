//! Why a job waits, in one word and a sentence.

use super::{super::*, *};
use crate::handle::TaintKind;

fn tagged(tags: &[&str]) -> impl FnOnce(&mut NewJob) {
    let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
    move |job| job.tags = tags
}

fn says(world: &World, job: &JobId, why: &str, text: &str) {
    let waits = world.waits(job);
    assert_eq!(waits.why, why, "{}", waits.text);
    assert!(waits.text.contains(text), "{} does not say: {text}", waits.text);
}

#[test]
fn admission() {
    let mut world = World::new(chains(vec![entry("c", "instance", "v1"), entry("r", "runner:r", "v1")]));
    let job = world.submit(|_| {});
    says(&world, &job, "admission", "its controllers are being asked");
    world.decide(&job, Conclusion::Wait, None);
    says(&world, &job, "admission", "asked again soon: because");
    world.after(1);
    world.decide(&job, Conclusion::Admitted, None);
    world.ready(&any_runner("r"), 1);
    says(&world, &job, "admission", "the controllers of runner r are being asked");
}

#[test]
fn nothing_for_a_job_that_does_not_wait() {
    let mut world = World::new(chains(vec![]));
    let session = world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    let details = world.scheduler.explain(&job, world.now()).unwrap();
    assert!(details.waits.is_none());
    let texts: Vec<_> = details.events.iter().map(|event| (event.state, event.text.as_str())).collect();
    assert_eq!(
        texts,
        [(JobState::Routing, "submitted"), (JobState::Admitted, ""), (JobState::Assigned, "to r (host)")]
    );
    world.runs(session, &job);
    assert!(world.scheduler.explain(&job, world.now()).unwrap().waits.is_none());
    assert!(world.scheduler.explain(&JobId::new("x"), world.now()).is_none());
}

#[test]
fn no_matching_runner_and_the_nearest_miss() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted_as(tagged(&["gpu", "linux"]));
    says(&world, &job, "no_matching_runner", "no runner is configured or attached");
    world.attach(&runner("far", &["arm"], RunnerOwner::Instance, false), 1, vec![]);
    says(&world, &job, "no_matching_runner", "nearest are far: they lack the tags gpu, linux");
    world.attach(&runner("near", &["linux"], RunnerOwner::Instance, false), 1, vec![]);
    says(&world, &job, "no_matching_runner", "nearest are near: they lack the tag gpu");
    let waits = world.waits(&job);
    let what: Vec<_> = waits.groups.iter().map(|obstacle| (obstacle.what, &*obstacle.runners[0])).collect();
    assert_eq!(what, [("tags", "near"), ("tags", "far")], "nearest first");
}

#[test]
fn which_property_is_lacking() {
    let of = |owner: &str| RunnerOwner::Group(owner.parse().unwrap());
    for (runner, tags, what, text) in [
        (runner("r", &["x"], RunnerOwner::Instance, false), vec![], "untagged", "they take no jobs without tags"),
        (runner("r", &["x"], RunnerOwner::Instance, true), vec!["x"], "protected", "jobs of protected refs only"),
        (runner("r", &["x"], of("other"), false), vec!["x"], "owner", "no runner takes jobs of this project"),
    ] {
        let mut world = World::new(chains(vec![]));
        world.attach(&runner, 1, vec![]);
        let job = world.admitted_as(tagged(&tags));
        says(&world, &job, "no_matching_runner", text);
        assert_eq!(world.waits(&job).groups[0].what, what);
    }
}

#[test]
fn a_configured_runner_that_is_offline() {
    let mut world = World::with(chains(vec![]), rules(&[&any_runner("r")]));
    let job = world.admitted();
    says(&world, &job, "no_runner_online", "none of its runners is attached");
    assert_eq!(&*world.waits(&job).groups[0].runners[0], "r");
    let session = world.ready(&any_runner("s"), 1);
    world.runs(session, &job);
    let next = world.admitted();
    world.after(16);
    says(&world, &next, "no_runner_online", "none of its streams takes jobs: 1 silent");
}

#[test]
fn all_full() {
    let mut world = World::new(chains(vec![]));
    world.attach(&any_runner("a"), 3, vec![]);
    world.attach(&any_runner("b"), 2, vec![]);
    let job = world.admitted();
    says(&world, &job, "all_full", "all 5 slots of 2 streams are taken, or not offered");
}

#[test]
fn spillover_hold() {
    let (high, low) = (ranked("high", 10), ranked("low", 0));
    let mut world = World::with(chains(vec![]), rules(&[&high, &low]));
    let high = world.attach(&high, 1, vec![]);
    let low = world.ready(&low, 1);
    let job = world.admitted();
    world.alive(&[high, low], 7);
    says(
        &world,
        &job,
        "spillover_hold",
        "runners of priority 10 have been full for 7 s; those of priority 0 help out after 30 s",
    );
}

#[test]
fn kept_from_runner() {
    let mut world = World::new(chains(vec![entry("r", "runner:r", "v1")]));
    world.ready(&any_runner("r"), 1);
    let job = world.admitted();
    world.decide(&job, Conclusion::Rejected, Some("r"));
    says(&world, &job, "kept_from_runner", "it is kept from r: because");
}

#[test]
fn not_leader() {
    let (a, b) = (member("a", "g"), member("b", "g"));
    let mut world = World::with(chains(vec![]), rules(&[&a, &b]));
    world.ready(&a, 1);
    let on_b = world.ready(&b, 1);
    world.admitted();
    let job = world.admitted();
    says(&world, &job, "all_full", "all 1 slots of 1 streams");
    world.alive(&[on_b], 5);
    let session = world.scheduler.systems[&("a".into(), "host".into())];
    world.detach(session);
    says(&world, &job, "not_leader", "only the leader of runner group g gets jobs: a (host), which cannot take it now");
    world.taint("b", TaintKind::Leadership);
    world.alive(&[on_b], 15);
    says(&world, &job, "not_leader", "runner group g has no leader at present");
}

#[test]
fn the_store_and_the_end_of_the_router() {
    let mut world = World::new(chains(vec![]));
    let job = world.admitted();
    world.scheduler.pause();
    says(&world, &job, "store", "cannot write its state");
    world.scheduler.drain();
    says(&world, &job, "draining", "shutting down");
}

#[test]
fn of_very_many_events_the_first_and_the_last_are_kept() {
    let mut world = World::new(chains(vec![]));
    let session = world.attach(&any_runner("r"), 1, vec![]);
    let job = world.admitted();
    for n in 0..60 {
        world.says(session, RunnerEvent::Credit(1));
        let lease = world.lease(&job);
        world.says(session, RunnerEvent::Refused(job.clone(), lease, format!("no {n}")));
        world.alive(&[session], 5);
    }
    let events = world.scheduler.explain(&job, world.now()).unwrap().events;
    assert!(events.len() <= 40, "{}", events.len());
    assert_eq!(events[0].text, "submitted");
    assert!(events.iter().any(|event| event.text.contains("no 0")));
    assert!(events.iter().any(|event| event.text.contains("no 59")));
}
