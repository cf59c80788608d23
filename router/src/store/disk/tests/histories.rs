//! Random histories of commits, checkpoints, restarts, power losses and failures, compared with a model after each start.

use proptest::prelude::*;

use super::{
    model::{Histories, Model, merged},
    simulated::{How, Left, Plan, Simulated},
    *,
};
use crate::store::{Batch, Store};

#[derive(Clone, Copy, Debug)]
enum Act {
    Commit,
    Checkpoint,
    Restart,
    PowerLoss(u64),
    /// An operation soon to come fails.
    Failure(u64, bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        12 => Just(Act::Commit),
        2 => Just(Act::Checkpoint),
        1 => Just(Act::Restart),
        2 => any::<u64>().prop_map(Act::PowerLoss),
        3 => (0_u64..6, any::<bool>()).prop_map(|(after, broken)| Act::Failure(after, broken)),
    ];
    prop::collection::vec(act, 5..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_holds_what_a_model_holds(seed: u64, acts in acts()) {
        let mut medium = Simulated::default();
        let mut histories = Histories::new(seed);
        let mut model = Model::default();
        let mut waiting = Batch::default();
        let mut store = open(&medium).unwrap().0;
        for act in acts {
            match act {
                Act::Commit => {
                    waiting = merged(waiting, histories.batch());
                    if store.commit(&waiting).is_ok() {
                        model.apply(&waiting);
                        waiting = Batch::default();
                    }
                    continue;
                }
                Act::Checkpoint => {
                    let _ = store.checkpoint();
                    continue;
                }
                Act::Failure(after, broken) => {
                    let how = if broken { How::Broken } else { How::Full };
                    medium.set_plan(Some(Plan { at: medium.operations() + after, how }));
                    continue;
                }
                Act::Restart => {
                    // What was to fail would fail a start, which is another test.
                    medium.set_plan(None);
                    drop(store);
                }
                Act::PowerLoss(left) => {
                    medium.turn_off();
                    drop(store);
                    medium = medium.after_power_loss(Left::Some(left));
                }
            }
            let (opened, restored, _) = open(&medium).unwrap();
            store = opened;
            let found = Model::read(&restored, &*store.archive().unwrap()).unwrap();
            let mut offered = model.clone();
            offered.apply(&waiting);
            prop_assert!(found == model || found == offered);
            // The router that is gone offers nothing again.
            model = found;
            waiting = Batch::default();
        }
    }
}

/// After a sync that failed, the frame can be read, and yet is not on the disk. A start that finds it must put it there.
#[test]
fn what_a_failed_sync_left_to_be_read_is_written_again_at_a_start() {
    let medium = Simulated::default();
    let mut histories = Histories::new(1);
    let (mut store, _, _) = open(&medium).unwrap();
    medium.set_plan(Some(Plan { at: medium.operations() + 1, how: How::Broken }));
    let first = histories.batch();
    store.commit(&first).unwrap_err();
    medium.turn_off();
    drop(store);
    medium.turn_on();
    let (mut store, restored, _) = open(&medium).unwrap();
    assert_eq!(restored.jobs.len(), first.rows.iter().filter(|row| row.finished_at.is_none()).count());
    store.commit(&histories.batch()).unwrap();
    medium.turn_off();
    drop(store);
    open(&medium.after_power_loss(Left::Nothing)).unwrap();
}
