//! A disk that is full: nothing accepted is lost, nothing new is accepted, and it goes on when there is room again.

use super::{
    model::{Histories, Model, merged},
    simulated::{Left, Simulated},
    *,
};
use crate::store::{Batch, Store};

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let medium = Simulated::default();
    let (mut store, _, _) = open(&medium).unwrap();
    let (mut histories, mut model, mut waiting) = (Histories::new(11), Model::default(), Batch::default());
    for _ in 0..10 {
        let batch = histories.batch();
        store.commit(&batch).unwrap();
        model.apply(&batch);
    }
    store.checkpoint().unwrap();
    medium.set_full(true);
    // What was made ahead is used up first.
    let error = (0..100)
        .find_map(|_| {
            waiting = merged(std::mem::take(&mut waiting), histories.batch());
            let refused = store.commit(&waiting).err();
            if refused.is_none() {
                model.apply(&waiting);
                waiting = Batch::default();
            }
            refused
        })
        .unwrap()
        .to_string();
    assert!(error.contains("no space left") && error.contains("store/log/0000000"), "{error}");
    assert!(store.commit(&waiting).is_err());
    let found = |medium: &Simulated| {
        let (store, restored, _) = open(medium).unwrap();
        Model::read(&restored, &*store.archive().unwrap()).unwrap()
    };
    // The index may not find room either; what is in the log stays there.
    let _ = store.checkpoint();
    assert!(found(&medium.after_power_loss(Left::Nothing)) == model);
    medium.set_full(false);
    store.commit(&waiting).unwrap();
    model.apply(&waiting);
    store.checkpoint().unwrap();
    drop(store);
    assert!(found(&medium.after_power_loss(Left::Nothing)) == model);
}

#[test]
fn a_full_disk_at_a_start_is_said() {
    let medium = Simulated::default();
    medium.set_full(true);
    let error = open(&medium).unwrap_err().to_string();
    assert!(error.contains("a store cannot be made here"), "{error}");
    medium.set_full(false);
    drop(open(&medium).unwrap());
}

#[test]
fn an_index_that_cannot_be_written_stops_nothing() {
    let medium = Simulated::default();
    let (mut store, _, _) = open(&medium).unwrap();
    let archive = store.archive().unwrap();
    let (mut histories, mut model) = (Histories::new(12), Model::default());
    for number in 0..40 {
        let batch = histories.batch();
        store.commit(&batch).unwrap();
        model.apply(&batch);
        if number % 4 == 3 {
            // Every other checkpoint fails somewhere.
            let plan = simulated::Plan { at: medium.operations() + number % 5, how: simulated::How::Broken };
            medium.set_plan((number % 8 == 3).then_some(plan));
            let written = store.checkpoint();
            assert_eq!(written.is_err(), number % 8 == 3, "{written:?}");
            medium.set_plan(None);
        }
        for row in batch.rows.iter().filter(|row| row.finished_at.is_some()) {
            assert!(archive.finished(&crate::JobId::new(row.id.as_str())).unwrap().is_some());
        }
    }
    let (store, restored, _) = {
        medium.turn_off();
        drop(store);
        open(&medium.after_power_loss(Left::Nothing)).unwrap()
    };
    assert!(Model::read(&restored, &*store.archive().unwrap()).unwrap() == model);
}

#[test]
fn a_smaller_batch_leaves_nothing_of_a_larger_one_that_failed() {
    let medium = Simulated::default();
    let (mut store, _, _) = open(&medium).unwrap();
    let [larger, smaller] = [2000, 1].map(|length| {
        let settings = [("leader".to_owned(), Some(vec![1; length]))].into();
        Batch { settings, ..Batch::default() }
    });
    medium.set_plan(Some(simulated::Plan { at: medium.operations() + 1, how: simulated::How::Full }));
    store.commit(&larger).unwrap_err();
    store.commit(&smaller).unwrap();
    medium.turn_off();
    drop(store);
    let (_, restored, repairs) = open(&medium.after_power_loss(Left::Everything)).unwrap();
    assert!(repairs.is_empty(), "{repairs:?}");
    assert_eq!(restored.settings["leader"], [1]);
}

#[test]
fn an_index_that_cannot_be_opened_anew_is_opened_when_it_can_be() {
    let medium = Simulated::default();
    let (mut store, _, _) = open(&medium).unwrap();
    let (mut histories, mut model) = (Histories::new(14), Model::default());
    for _ in 0..5 {
        let batch = histories.batch();
        store.commit(&batch).unwrap();
        model.apply(&batch);
    }
    medium.turn_off();
    store.checkpoint().unwrap_err();
    medium.turn_on();
    store.checkpoint().unwrap();
    assert!(store.checkpointer.shared().pending().deltas().all(super::super::pending::Delta::is_empty));
    drop(store);
    let (store, restored, _) = open(&medium.after_power_loss(Left::Nothing)).unwrap();
    assert!(Model::read(&restored, &*store.archive().unwrap()).unwrap() == model);
}
