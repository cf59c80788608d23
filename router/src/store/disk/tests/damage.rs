//! What is damaged is said, with its place, and stays as it is.

use super::{
    model::{Histories, Model},
    simulated::{Dice, Left, Simulated},
    *,
};
use crate::store::{
    Batch, Store,
    disk::{
        Medium,
        check::check_in,
        frame::FRAME_HEADER,
        index,
        segment::{SEGMENT_HEADER, name},
    },
};

/// A store as a crash leaves it: so many batches, none of them in the index unless `checkpoint` says after which.
fn written(batches: usize, checkpoint: Option<usize>) -> (Simulated, Model, Vec<(u64, u64, u64)>) {
    let medium = Simulated::default();
    let (mut store, _, _) = open(&medium).unwrap();
    let (mut histories, mut model, mut frames) = (Histories::new(3), Model::default(), Vec::new());
    for number in 0..batches {
        let batch = histories.batch();
        store.commit(&batch).unwrap();
        model.apply(&batch);
        let end = store.log.position();
        frames.push((end.segment, end.offset, end.next));
        if checkpoint == Some(number) {
            store.checkpoint().unwrap();
        }
    }
    medium.turn_off();
    drop(store);
    (medium.after_power_loss(Left::Nothing), model, frames)
}

/// Where the frames lie: segment, first byte, byte after the last.
fn places(ends: &[(u64, u64, u64)]) -> Vec<(u64, u64, u64)> {
    let mut at = (1, SEGMENT_HEADER);
    let mut places = Vec::new();
    for (segment, end, _) in ends {
        if *segment != at.0 {
            at = (*segment, SEGMENT_HEADER);
        }
        places.push((*segment, at.1, *end));
        at.1 = *end;
    }
    places
}

/// Opening fails, names the place, and changes nothing; so does `check`, which goes on to the end.
fn is_refused(medium: &Simulated, file: &str, offset: Option<u64>) {
    let before = medium.contents();
    let error = open(medium).unwrap_err();
    let OpenError::Damaged(faults) = &error else { panic!("{error}") };
    let place = format!("store/{file}");
    assert!(
        faults.iter().any(|fault| fault.file == place && (offset.is_none() || fault.offset == offset)),
        "{place} {offset:?}: {error}"
    );
    assert!(before == medium.contents(), "something was changed");
    let report = check_in(&(Arc::new(medium.clone()) as Arc<dyn Medium>)).unwrap();
    assert!(
        report.faults.iter().any(|fault| fault.file == place && (offset.is_none() || fault.offset == offset)),
        "{place} {offset:?}: {:?}",
        report.faults
    );
    assert!(before == medium.contents(), "check changed something");
}

#[test]
fn a_byte_flipped_in_any_frame_but_the_last_is_damage() {
    let (medium, _, ends) = written(14, None);
    let mut dice = Dice(1);
    let places = places(&ends);
    for (segment, first, end) in &places[..places.len() - 1] {
        let mut bytes: Vec<u64> = (*first..first + FRAME_HEADER as u64 - 8).step_by(4).collect();
        bytes.extend((0..3).map(|_| first + dice.roll(end - 8 - first)));
        for byte in bytes {
            let medium = medium.copy();
            medium.change(&name(*segment), |file| file[byte as usize] ^= 1 << dice.roll(8));
            is_refused(&medium, &name(*segment), Some(*first));
        }
    }
}

#[test]
fn the_last_batch_may_be_torn_anywhere() {
    let (medium, model, ends) = written(9, None);
    let before = written(8, None).1;
    let places = places(&ends);
    let (segment, first, end) = *places.last().unwrap();
    for byte in (first..end - 8).step_by(37) {
        let medium = medium.copy();
        medium.change(&name(segment), |file| file[byte as usize..].fill(0));
        let report = check_in(&(Arc::new(medium.clone()) as Arc<dyn Medium>)).unwrap();
        assert!(report.is_good());
        assert_eq!(report.torn.is_some(), byte > first);
        let (store, restored, repairs) = open(&medium).unwrap();
        let torn = repairs.iter().next().map(ToString::to_string).unwrap_or_default();
        assert_eq!(torn.contains(&format!("store/{}, offset {first}", name(segment))), byte > first, "{torn}");
        let found = Model::read(&restored, &*store.archive().unwrap()).unwrap();
        assert!(found == before && found != model);
        drop(store);
        // It is said once.
        assert!(open(&medium).unwrap().2.is_empty());
    }
}

#[test]
fn a_missing_or_foreign_segment_is_damage() {
    let (medium, _, ends) = written(20, Some(6));
    let last = ends.last().unwrap().0;
    assert!(last > 3, "{last}");
    for segment in 1..=last {
        if segment == last {
            // What came after the last checkpoint, and nothing shows that it was there.
            continue;
        }
        let lost = medium.copy();
        lost.lose(&name(segment));
        is_refused(&lost, &name(segment), None);
        let changed = medium.copy();
        changed.change(&name(segment), |file| file[20] ^= 1);
        is_refused(&changed, &name(segment), Some(0));
        let cut = medium.copy();
        cut.change(&name(segment), |file| file.truncate(30));
        is_refused(&cut, &name(segment), Some(30));
    }
}

#[test]
fn a_damaged_or_missing_index_is_said() {
    let (medium, model, _) = written(20, Some(12));
    let length = medium.contents()[index::FILE].len();
    let mut dice = Dice(9);
    let (mut refused, mut harmless) = (0, 0);
    for _ in 0..60 {
        let changed = medium.copy();
        let byte = dice.roll(length as u64) as usize;
        changed.change(index::FILE, |file| file[byte] ^= 1 << dice.roll(8));
        let before = changed.contents();
        match open(&changed) {
            // A page that is not in use.
            Ok((store, restored, _)) => {
                harmless += 1;
                assert!(Model::read(&restored, &*store.archive().unwrap()).unwrap() == model, "byte {byte}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("store/live.redb"), "{error}");
                assert!(before == changed.contents(), "something was changed");
            }
        }
    }
    assert!(refused > 0 && harmless > 0, "{refused} {harmless}");
    for change in [|file: &mut Vec<u8>| file.clear(), |file: &mut Vec<u8>| file.truncate(5000)] {
        let changed = medium.copy();
        changed.change(index::FILE, change);
        is_refused(&changed, index::FILE, None);
    }
    // The log is whole: the index is made again.
    let lost = medium.copy();
    lost.lose(index::FILE);
    let (store, restored, repairs) = open(&lost).unwrap();
    assert!(Model::read(&restored, &*store.archive().unwrap()).unwrap() == model);
    assert!(repairs.iter().any(|repair| repair.to_string().contains("made again")), "{repairs:?}");
}

#[test]
fn a_newer_format_is_refused() {
    let (medium, _, _) = written(3, None);
    medium.change("format", |file| {
        let text = String::from_utf8(file.clone()).unwrap().replace("format 1", "format 2");
        *file = text.into_bytes();
    });
    let before = medium.contents();
    let error = open(&medium).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
    assert!(before == medium.contents());
    medium.lose("format");
    is_refused_without_check(&medium);
}

fn is_refused_without_check(medium: &Simulated) {
    let before = medium.contents();
    let error = open(medium).unwrap_err();
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    assert!(before == medium.contents());
}

#[test]
fn a_damaged_document_is_not_handed_out() {
    let (medium, _, _) = written(20, Some(19));
    let (store, restored, _) = open(&medium).unwrap();
    let archive = store.archive().unwrap();
    let at = restored.jobs.iter().filter_map(|job| job.document).find(|at| at.length > 10).unwrap();
    assert_eq!(archive.document(at).unwrap().len(), at.length as usize);
    medium.change(&name(at.segment), |file| file[at.offset as usize + 5] ^= 1);
    let error = archive.document(at).unwrap_err().to_string();
    assert!(error.contains(&format!("store/{}, offset {}", name(at.segment), at.offset)), "{error}");
    drop(store);
    let report = check_in(&(Arc::new(medium.clone()) as Arc<dyn Medium>)).unwrap();
    assert!(report.faults.iter().any(|fault| fault.what.contains("the document of job")), "{:?}", report.faults);
}

#[test]
fn a_good_store_is_good() {
    for checkpoint in [None, Some(5), Some(19)] {
        let (medium, model, _) = written(20, checkpoint);
        let report = check_in(&(Arc::new(medium.clone()) as Arc<dyn Medium>)).unwrap();
        assert!(report.is_good(), "{:?}", report.faults);
        assert_eq!(report.frames, 20);
        assert_eq!(report.finished, model.finished().count() as u64);
        assert!(report.torn.is_none() && report.documents > 0 && report.decisions > 0);
    }
}

#[test]
fn an_empty_batch_costs_nothing() {
    let medium = Simulated::default();
    let (mut store, _, _) = open(&medium).unwrap();
    let before = medium.operations();
    assert!(store.commit(&Batch::default()).unwrap().is_empty());
    assert_eq!(medium.operations(), before);
    store.commit(&Histories::new(1).batch()).unwrap();
    assert_eq!(medium.operations(), before + 2, "one write and one sync");
}
