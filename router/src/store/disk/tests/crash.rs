//! For every operation of a history: power is lost there, or it fails once.

use std::time::Instant;

use super::{
    model::{Model, merged},
    simulated::{How, Left, Plan, Simulated},
    *,
};
use crate::store::{Batch, Store};

const BATCHES: usize = 32;

/// What a history left behind: what was acknowledged, and what was offered last.
struct Outcome {
    acknowledged: Model,
    offered: Model,
    refused: usize,
}

/// Runs a history until it ends or power is lost, with a checkpoint now and then; what is refused is offered again with the
/// next batch. With `stop`, power is lost after the first batch that is accepted after one was refused.
fn run(medium: &Simulated, seed: u64, stop: bool) -> Outcome {
    let mut histories = Histories::new(seed);
    let mut outcome = Outcome { acknowledged: Model::default(), offered: Model::default(), refused: 0 };
    let mut waiting = Batch::default();
    // What fails once may be opening it.
    let opened = open(medium).or_else(|_| open(medium));
    let Ok((mut store, _, _)) = opened else {
        assert!(medium.is_off(), "{}", opened.unwrap_err());
        return outcome;
    };
    for number in 0..BATCHES {
        waiting = merged(waiting, histories.batch());
        outcome.offered = outcome.acknowledged.clone();
        outcome.offered.apply(&waiting);
        let mut committed = store.commit(&waiting);
        if committed.is_err() && number + 1 == BATCHES {
            committed = store.commit(&waiting);
        }
        if committed.is_err() {
            outcome.refused += 1;
            if medium.is_off() {
                return outcome;
            }
        } else {
            outcome.acknowledged = outcome.offered.clone();
            waiting = Batch::default();
            if stop && outcome.refused > 0 {
                medium.turn_off();
                return outcome;
            }
        }
        if number % 7 == 6 {
            let _ = store.checkpoint();
        }
    }
    outcome
}

/// Opens what is left, and compares. Then goes on with it.
fn examine(medium: &Simulated, outcome: &Outcome) -> Result<(), String> {
    let (mut store, restored, _) = open(medium).map_err(|error| error.to_string())?;
    let archive = store.archive().unwrap();
    let mut found = Model::read(&restored, &*archive)?;
    if found != outcome.acknowledged && found != outcome.offered {
        let Outcome { acknowledged, offered, .. } = outcome;
        return Err(format!("found {found:#?}\nacknowledged {acknowledged:#?}\noffered {offered:#?}"));
    }
    let mut histories = Histories::new(4711);
    for _ in 0..3 {
        let batch = histories.batch();
        store.commit(&batch).map_err(|error| error.to_string())?;
        found.apply(&batch);
    }
    // As after a crash: nothing is written at the end.
    medium.turn_off();
    drop(store);
    let again = medium.after_power_loss(Left::Nothing);
    let (store, restored, _) = open(&again).map_err(|error| format!("again: {error}"))?;
    let archive = store.archive().unwrap();
    let after = Model::read(&restored, &*archive).map_err(|error| format!("again: {error}"))?;
    if after == found { Ok(()) } else { Err(format!("again: found {after:#?}\nexpected {found:#?}")) }
}

/// Tries every operation, on both cores.
#[expect(clippy::print_stderr, reason = "says how much was tried")]
fn every_operation(seed: u64, examine: impl Fn(u64) -> u64 + Sync) {
    let whole = Simulated::default();
    let outcome = run(&whole, seed, false);
    assert_eq!(outcome.refused, 0);
    assert!(outcome.acknowledged == outcome.offered);
    let operations = whole.operations();
    let begun = Instant::now();
    let disks: u64 = std::thread::scope(|scope| {
        let half = |first| {
            let examine = &examine;
            scope.spawn(move || (first..operations).step_by(2).map(examine).sum::<u64>())
        };
        let halves = [half(0), half(1)];
        halves.into_iter().map(|half| half.join().unwrap()).sum()
    });
    eprintln!("seed {seed}: {BATCHES} batches, {operations} operations, {disks} disks examined, {:?}", begun.elapsed());
}

#[test]
fn power_may_be_lost_at_any_moment() {
    let seed = 1;
    every_operation(seed, |at| {
        let medium = Simulated::with_plan(Plan { at, how: How::PowerLoss });
        let outcome = run(&medium, seed, false);
        let all = [Left::Nothing, Left::Everything, Left::Some(at)];
        for left in all {
            if let Err(what) = examine(&medium.after_power_loss(left), &outcome) {
                panic!("seed {seed}, power lost at operation {at}, {left:?}: {what}");
            }
        }
        all.len() as u64
    });
}

#[test]
fn any_operation_may_fail_once() {
    let seed = 2;
    every_operation(seed, |at| {
        let all = [(How::Full, false), (How::Broken, false), (How::Broken, true)];
        for (how, stop) in all {
            let medium = Simulated::with_plan(Plan { at, how });
            let outcome = run(&medium, seed, stop);
            let left = if stop { Left::Some(at) } else { Left::Nothing };
            if let Err(what) = examine(&medium.after_power_loss(left), &outcome) {
                panic!("seed {seed}, operation {at} fails, {how:?}, stop {stop}: {what}");
            }
        }
        all.len() as u64
    });
}
