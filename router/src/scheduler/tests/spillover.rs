//! Runners of a lower priority help out while those above are full.

use super::{super::*, *};
use crate::handle::TaintKind;

struct Levels {
    world: World,
    high: Session,
    low: Session,
}

fn rules_of(hold: u64) -> Rules {
    Rules { hold: Duration::from_secs(hold), ..rules(&[&ranked("high", 10), &ranked("low", 0)]) }
}

/// One slot above, two below; the one above is taken.
fn full(hold: u64) -> Levels {
    let mut world = World::with(chains(vec![]), rules_of(hold));
    let high = world.ready(&ranked("high", 10), 1);
    let low = world.ready(&ranked("low", 0), 2);
    let first = world.admitted();
    assert_eq!(world.given_to(&first), Some(high), "those above get jobs first");
    Levels { world, high, low }
}

#[test]
fn a_lower_level_opens_when_the_higher_one_has_been_full_for_hold_and_not_before() {
    let Levels { mut world, high, low } = full(30);
    let job = world.admitted();
    world.alive(&[high, low], 29);
    world.after_ms(999);
    assert_eq!(world.given_to(&job), None);
    world.after_ms(1);
    assert_eq!(world.given_to(&job), Some(low));
    let next = world.admitted();
    assert_eq!(world.given_to(&next), Some(low), "it stays open while the higher one is full");
}

#[test]
fn a_slot_freed_and_taken_again_in_one_step_does_not_close_the_level_below() {
    let Levels { mut world, high, low } = full(30);
    let (second, third) = (world.admitted(), world.admitted());
    world.alive(&[high, low], 20);
    let first = world.given()[0].clone();
    let (lease, now) = (world.lease(&first), world.now());
    world.scheduler.event(high, RunnerEvent::Finished(first, lease, success()), now);
    world.scheduler.event(high, RunnerEvent::Credit(1), now);
    world.settle();
    assert_eq!(world.given_to(&second), Some(high));
    world.alive(&[high, low], 10);
    assert_eq!(world.given_to(&third), Some(low), "30 s after the level was full first");
}

#[test]
fn a_slot_left_free_at_the_end_of_a_step_begins_the_hold_anew() {
    let Levels { mut world, high, low } = full(30);
    world.alive(&[high, low], 20);
    let first = world.given()[0].clone();
    world.runs(high, &first);
    world.says(high, RunnerEvent::Credit(1));
    let second = world.admitted();
    assert_eq!(world.given_to(&second), Some(high));
    let third = world.admitted();
    world.alive(&[high, low], 29);
    assert_eq!(world.given_to(&third), None);
    world.alive(&[high, low], 1);
    assert_eq!(world.given_to(&third), Some(low));
}

#[test]
fn a_higher_level_that_is_not_there_holds_nothing_up() {
    for how in ["offline", "tainted", "draining", "silent"] {
        let Levels { mut world, high, low } = full(300);
        let job = world.admitted();
        match how {
            "offline" => world.detach(high),
            "tainted" => world.taint("high", TaintKind::Jobs),
            "draining" => world.says(high, RunnerEvent::Draining),
            _ => {
                world.alive(&[low], 14);
                assert_eq!(world.given_to(&job), None);
                world.alive(&[low], 1);
            }
        }
        assert_eq!(world.given_to(&job), Some(low), "{how}");
    }
}

#[test]
fn a_higher_level_that_comes_back_is_first_again() {
    let Levels { mut world, high, low } = full(30);
    world.taint("high", TaintKind::Jobs);
    let job = world.admitted();
    assert_eq!(world.given_to(&job), Some(low));
    world.untaint("high");
    let next = world.admitted();
    assert_eq!(world.given_to(&next), None, "full for no time yet");
    let first = world.given()[0].clone();
    world.runs(high, &first);
    world.says(high, RunnerEvent::Credit(1));
    assert_eq!(world.given_to(&next), Some(high));
}

#[test]
fn a_hold_of_zero_opens_at_once() {
    let Levels { mut world, low, .. } = full(0);
    let job = world.admitted();
    assert_eq!(world.given_to(&job), Some(low));
}

#[test]
fn a_shorter_hold_counts_from_its_reload_on() {
    let Levels { mut world, high, low } = full(300);
    let job = world.admitted();
    world.alive(&[high, low], 10);
    world.reconfigure(rules_of(30));
    world.alive(&[high, low], 19);
    assert_eq!(world.given_to(&job), None);
    world.after(1);
    assert_eq!(world.given_to(&job), Some(low), "nothing happened but that time passed");
}

#[test]
fn a_hold_that_is_over_already_opens_with_its_reload() {
    let Levels { mut world, high, low } = full(300);
    let job = world.admitted();
    world.alive(&[high, low], 60);
    world.reconfigure(rules_of(30));
    assert_eq!(world.given_to(&job), Some(low));
}

#[test]
fn a_longer_hold_closes_what_was_open_and_ends_in_time() {
    let Levels { mut world, high, low } = full(30);
    world.alive(&[high, low], 40);
    world.reconfigure(rules_of(60));
    let job = world.admitted();
    world.alive(&[high, low], 19);
    assert_eq!(world.given_to(&job), None);
    world.after(1);
    assert_eq!(world.given_to(&job), Some(low));
}

#[test]
fn each_level_above_must_be_full() {
    let runners = [ranked("a", 20), ranked("b", 10), ranked("c", 0)];
    let mut world = World::with(chains(vec![]), Rules { hold: Duration::from_secs(30), ..rules(&runners.each_ref()) });
    let sessions = runners.map(|runner| world.ready(&runner, 1));
    let first = world.admitted();
    assert_eq!(world.given_to(&first), Some(sessions[0]));
    world.alive(&sessions, 30);
    let (second, third) = (world.admitted(), world.admitted());
    assert_eq!((world.given_to(&second), world.given_to(&third)), (Some(sessions[1]), None));
    world.alive(&sessions, 29);
    assert_eq!(world.given_to(&third), None);
    world.alive(&sessions, 1);
    assert_eq!(world.given_to(&third), Some(sessions[2]));
}

#[test]
fn runners_of_other_capabilities_are_not_a_level() {
    let mut world = World::new(chains(vec![]));
    let high =
        RunnerConfig { priority: 10, ..RunnerConfig::clone(&runner("high", &["x"], RunnerOwner::Instance, false)) };
    world.ready(&Arc::new(high), 1);
    let low = world.ready(&any_runner("low"), 1);
    let job = world.admitted();
    assert_eq!(world.given_to(&job), Some(low));
}

#[test]
fn a_job_kept_from_those_above_goes_below_at_once() {
    let runners = rules(&[&ranked("high", 10), &ranked("low", 0)]);
    let mut world = World::with(chains(vec![entry("c", "runner:high", "v1")]), runners);
    let high = world.ready(&ranked("high", 10), 1);
    let low = world.ready(&ranked("low", 0), 1);
    let job = world.admitted();
    world.decide(&job, Conclusion::Rejected, Some("high"));
    assert_eq!(world.given_to(&job), Some(low), "the free slot above is of no use to it");
    let _ = high;
}

#[test]
fn a_slot_above_that_is_of_no_use_to_a_job_opens_the_level_below_when_it_becomes_free() {
    let (a, b, low) = (ranked("a", 10), ranked("b", 10), ranked("low", 0));
    let mut world = World::with(chains(vec![entry("c", "runner:a", "v1")]), rules(&[&a, &b, &low]));
    let on_a = world.ready(&a, 1);
    let kept = world.admitted();
    world.decide(&kept, Conclusion::Rejected, Some("a"));
    let other = world.admitted();
    world.decide(&other, Conclusion::Admitted, Some("a"));
    assert_eq!(world.given_to(&other), Some(on_a));
    world.attach(&b, 1, vec![]);
    let on_low = world.ready(&low, 1);
    assert_eq!(world.given_to(&kept), None, "those above are full, and not for long");
    world.runs(on_a, &other);
    world.says(on_a, RunnerEvent::Credit(1));
    assert_eq!(world.given_to(&kept), Some(on_low), "they have a free slot now, which it may not have");
}
