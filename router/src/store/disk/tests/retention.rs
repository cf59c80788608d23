//! What is older than the retention is forgotten, and nothing else.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::SignedDuration;

use super::{
    model::{Histories, Model},
    simulated::{Dice, How, Left, Plan, Simulated},
    *,
};
use crate::{
    job::JobId,
    store::{Store, disk::check::check_in},
};

/// A clock that tests move.
fn timed(seconds: &Arc<AtomicI64>) -> DiskOptions {
    let seconds = seconds.clone();
    let clock = move || Timestamp::from_second(1_800_000_000 + seconds.load(Ordering::Relaxed)).unwrap();
    DiskOptions { retention: std::time::Duration::from_secs(1000), clock: Arc::new(clock), ..options() }
}

fn open_timed(medium: &Simulated, seconds: &Arc<AtomicI64>) -> Result<(DiskStore, Restored, Repairs), OpenError> {
    DiskStore::open_in(Arc::new(medium.clone()), timed(seconds), Background::Inline)
}

fn run(medium: &Simulated) -> (Model, Vec<String>, u64) {
    let seconds = Arc::new(AtomicI64::new(0));
    let (mut histories, mut model, mut recent) = (Histories::new(8), Model::default(), Vec::new());
    let Ok((mut store, _, _)) = open_timed(medium, &seconds) else { return (model, recent, 0) };
    let mut first = 0;
    for number in 0..60 {
        seconds.store(number * 100, Ordering::Relaxed);
        // All jobs end in the same batch or the one after: no document holds a segment for long.
        let batch = histories.finishing_batch();
        if store.commit(&batch).is_err() {
            break;
        }
        model.apply(&batch);
        if number >= 50 {
            recent.extend(batch.rows.iter().filter(|row| row.finished_at.is_some()).map(|row| row.id.clone()));
        }
        if number % 5 == 4 {
            let _ = store.checkpoint().and_then(|()| store.checkpointer.retire());
        }
        first = store.checkpointer.first_segment();
    }
    medium.turn_off();
    (model, recent, first)
}

#[test]
fn old_segments_go_with_what_is_in_them() {
    let medium = Simulated::default();
    let (model, recent, first) = run(&medium);
    assert!(first > 3, "{first}");
    let seconds = Arc::new(AtomicI64::new(5900));
    let medium = medium.after_power_loss(Left::Nothing);
    let (store, restored, _) = open_timed(&medium, &seconds).unwrap();
    let archive = store.archive().unwrap();
    let found = Model::read(&restored, &*archive).unwrap();
    let all: Vec<_> = model.finished().map(|row| row.id.clone()).collect();
    assert!(found.finished().all(|row| all.contains(&row.id)));
    assert!(found.finished().count() < all.len());
    assert!(!recent.is_empty() && recent.iter().all(|id| found.finished().any(|row| row.id == *id)));
    for id in all.iter().filter(|id| !found.finished().any(|row| row.id == **id)) {
        assert!(archive.finished(&JobId::new(id.as_str())).unwrap().is_none());
        assert!(archive.decisions(&JobId::new(id.as_str()), 10).unwrap().is_empty());
    }
    assert!(found.without_history() == model.without_history());
    drop(store);
    let report = check_in(&(Arc::new(medium.clone()) as Arc<dyn super::super::Medium>)).unwrap();
    assert!(report.is_good(), "{:?}", report.faults);
    assert!(!medium.contents().keys().any(|file| *file == super::super::segment::name(1)));
}

#[test]
fn a_segment_with_the_document_of_a_live_job_stays() {
    let medium = Simulated::default();
    let seconds = Arc::new(AtomicI64::new(0));
    let (mut store, _, _) = open_timed(&medium, &seconds).unwrap();
    let mut histories = Histories::new(9);
    let waiting = histories.waiting_batch();
    let at = store.commit(&waiting).unwrap()[0];
    for number in 1..40 {
        seconds.store(number * 1000, Ordering::Relaxed);
        store.commit(&histories.finishing_batch()).unwrap();
        store.checkpoint().and_then(|()| store.checkpointer.retire()).unwrap();
    }
    let archive = store.archive().unwrap();
    assert_eq!(archive.document(at).unwrap(), waiting.documents[0].1);
    assert_eq!(store.checkpointer.first_segment(), 1);
    // Also after a start.
    drop(store);
    let (mut store, restored, _) = open_timed(&medium, &seconds).unwrap();
    store.checkpointer.retire().unwrap();
    assert_eq!(store.archive().unwrap().document(at).unwrap(), waiting.documents[0].1);
    // Until it is over.
    let mut end = crate::store::Batch::default();
    let mut row = restored.jobs.iter().find(|row| row.id == waiting.rows[0].id).unwrap().clone();
    row.state = jobgate_proto::job::v1::JobState::Canceled.into();
    end.rows.push(row);
    store.commit(&end).unwrap();
    store.checkpoint().and_then(|()| store.checkpointer.retire()).unwrap();
    assert!(store.checkpointer.first_segment() > 10);
    assert!(store.archive().unwrap().document(at).is_err());
}

#[test]
fn power_may_be_lost_while_old_segments_go() {
    let whole = Simulated::default();
    run(&whole);
    let operations = whole.operations();
    let mut dice = Dice(1);
    for _ in 0..60 {
        let at = operations / 3 + dice.roll(operations * 2 / 3);
        let medium = Simulated::with_plan(Plan { at, how: How::PowerLoss });
        let (_, recent, _) = run(&medium);
        for left in [Left::Nothing, Left::Some(at)] {
            let medium = medium.after_power_loss(left);
            let (store, restored, _) = open_timed(&medium, &Arc::new(AtomicI64::new(5900)))
                .unwrap_or_else(|error| panic!("power lost at operation {at}, {left:?}: {error}"));
            let found = Model::read(&restored, &*store.archive().unwrap()).unwrap();
            assert!(recent.iter().all(|id| found.finished().any(|row| row.id == *id)), "operation {at}, {left:?}");
        }
    }
}

#[test]
fn submissions_are_forgotten_after_a_day() {
    let medium = Simulated::default();
    let seconds = Arc::new(AtomicI64::new(0));
    let (mut store, _, _) = open_timed(&medium, &seconds).unwrap();
    let mut histories = Histories::new(10);
    let mut made = 0;
    for _ in 0..30 {
        let batch = histories.batch();
        made += batch.submissions.len();
        store.commit(&batch).unwrap();
    }
    store.checkpoint().unwrap();
    drop(store);
    assert!(made > 0);
    assert_eq!(open_timed(&medium, &seconds).unwrap().1.submissions.len(), made);
    let day = SignedDuration::from_hours(24).as_secs();
    seconds.store(day + 10, Ordering::Relaxed);
    assert!(open_timed(&medium, &seconds).unwrap().1.submissions.is_empty());
}
