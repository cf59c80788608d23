//! For every operation of a history: power is lost there, or it fails once.

use super::{
    model::{Model, merged},
    simulated::{How, Left, Plan, Simulated},
    *,
};
use crate::store::{Batch, Store};

const BATCHES: usize = 40;

/// What a history left behind: what was acknowledged, and what was offered last.
struct Outcome {
    acknowledged: Model,
    offered: Model,
    commits: usize,
}

/// Runs a history until it ends or everything fails. A checkpoint now and then.
fn run(medium: &Simulated, seed: u64) -> Outcome {
    let mut histories = Histories::new(seed);
    let mut acknowledged = Model::default();
    let mut offered = Model::default();
    let mut commits = 0;
    let mut waiting = Batch::default();
    let mut opened = open(medium);
    if opened.is_err() {
        // It may have failed once only.
        opened = open(medium);
    }
    let Ok((mut store, _, _)) = opened else { return Outcome { acknowledged, offered, commits } };
    for number in 0..BATCHES {
        waiting = merged(waiting, histories.batch());
        offered = acknowledged.clone();
        offered.apply(&waiting);
        if store.commit(&waiting).is_ok() {
            commits += 1;
            acknowledged = offered.clone();
            waiting = Batch::default();
        }
        if number % 7 == 6 {
            let _ = store.checkpoint();
        }
    }
    if !waiting.is_empty() && store.commit(&waiting).is_ok() {
        acknowledged = offered.clone();
    }
    drop(store);
    Outcome { acknowledged, offered, commits }
}

/// Opens what is left, and compares. Then goes on with it.
fn examine(medium: &Simulated, outcome: &Outcome) -> Result<(), String> {
    let (mut store, restored, _) = open(medium).map_err(|error| error.to_string())?;
    let archive = store.archive().unwrap();
    let mut found = Model::read(&restored, &*archive)?;
    if found != outcome.acknowledged && found != outcome.offered {
        return Err(format!(
            "found {found:#?}\nacknowledged {:#?}\noffered {:#?}",
            outcome.acknowledged, outcome.offered
        ));
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
    let after = Model::read(&restored, &*archive)?;
    if after != found { Err(format!("again: found {after:#?}\nexpected {found:#?}")) } else { Ok(()) }
}

#[test]
fn power_may_be_lost_at_any_moment() {
    let seed = 1;
    let whole = Simulated::default();
    let outcome = run(&whole, seed);
    assert_eq!(outcome.commits, BATCHES);
    let operations = whole.operations();
    examine(&whole.after_power_loss(Left::Nothing), &outcome).unwrap();
    let mut images = 0;
    let begun = std::time::Instant::now();
    for at in 0..operations {
        let medium = Simulated::with_plan(Plan { at, how: How::PowerLoss });
        let outcome = run(&medium, seed);
        for left in [Left::Nothing, Left::Everything, Left::Some(at)] {
            images += 1;
            if let Err(what) = examine(&medium.after_power_loss(left), &outcome) {
                panic!("seed {seed}, power lost at operation {at} of {operations}, {left:?}: {what}");
            }
        }
    }
    println!("{BATCHES} batches, {operations} operations, {images} disks after power loss, {:?}", begun.elapsed());
}
