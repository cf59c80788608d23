//! With a real directory: who may open it, who may read it, and with threads.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use super::{
    model::{Histories, Model},
    *,
};
use crate::store::{
    Store,
    disk::{check, prepare},
};

fn small() -> DiskOptions {
    DiskOptions { checkpoint_interval: Duration::from_millis(5), checkpoint_bytes: 16 << 10, ..options() }
}

/// Every file with its contents.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in [directory.to_owned(), directory.join("log")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                found.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn threads_write_the_index_while_commits_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("state");
    let (mut histories, mut model) = (Histories::new(5), Model::default());
    for _ in 0..4 {
        let (mut store, restored, repairs) = DiskStore::open(&place, small()).unwrap();
        assert!(repairs.is_empty(), "{repairs:?}");
        let archive = store.archive().unwrap();
        assert!(Model::read(&restored, &*archive).unwrap() == model);
        for _ in 0..60 {
            let batch = histories.batch();
            let documents = store.commit(&batch).unwrap();
            model.apply(&batch);
            for (at, (_, document)) in documents.into_iter().zip(&batch.documents) {
                assert_eq!(archive.document(at).unwrap(), document);
            }
            for row in batch.rows.iter().filter(|row| row.finished_at.is_some()) {
                let id = crate::JobId::new(row.id.as_str());
                assert_eq!(archive.finished(&id).unwrap().unwrap().0.id, id);
                assert!(archive.list_finished(None, 1000).unwrap().iter().any(|record| record.id == id));
                assert!(!archive.decisions(&id, 10).unwrap().is_empty());
            }
        }
    }
    let report = check(&place).unwrap();
    assert!(report.is_good(), "{:?}", report.faults);
    assert_eq!(report.frames, 240);
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _, _) = DiskStore::open(directory.path(), small()).unwrap();
    for error in
        [DiskStore::open(directory.path(), small()).map(|_| ()).unwrap_err(), check(directory.path()).unwrap_err()]
    {
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    }
    drop(store);
    DiskStore::open(directory.path(), small()).unwrap();
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("thesis.tex"), "x").unwrap();
    let error = DiskStore::open(directory.path(), small()).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(check(directory.path()).is_err());
}

#[test]
fn only_the_owner_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("state");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    drop(DiskStore::open(&place, small()).unwrap());
    assert_eq!(mode(&place), 0o700);
    assert_eq!(mode(&place.join("log")), 0o700);
    for file in ["lock", "format", "live.redb", "log/0000000001.seg"] {
        assert_eq!(mode(&place.join(file)), 0o600, "{file}");
    }
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(place.join("live.redb"), fs::Permissions::from_mode(0o644)).unwrap();
    let (store, _, repairs) = DiskStore::open(&place, small()).unwrap();
    assert_eq!(repairs.iter().count(), 2, "{repairs:?}");
    assert_eq!((mode(&place), mode(&place.join("live.redb"))), (0o700, 0o600));
    drop(store);
    assert!(DiskStore::open(&place, small()).unwrap().2.is_empty());
}

#[test]
fn check_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _, _) = DiskStore::open(directory.path(), options()).unwrap();
    let mut histories = Histories::new(6);
    for _ in 0..20 {
        store.commit(&histories.batch()).unwrap();
    }
    drop(store);
    let before = contents(directory.path());
    assert!(check(directory.path()).unwrap().is_good());
    assert!(before == contents(directory.path()));
    // A copy of a store has no lock of its own.
    fs::remove_file(directory.path().join("lock")).unwrap();
    assert!(check(directory.path()).unwrap().is_good());
    assert!(!directory.path().join("lock").exists());
}

#[test]
fn segments_are_made_before_they_are_needed() {
    let directory = tempfile::tempdir().unwrap();
    let medium: Arc<dyn super::super::Medium> = Arc::new(super::super::medium::Directory::new(directory.path()));
    fs::create_dir(directory.path().join("log")).unwrap();
    let preparer = Arc::new(prepare::Preparer::new(medium, 7, 1 << 20, true));
    let running = preparer.clone();
    let thread = std::thread::spawn(move || running.run());
    preparer.request(3);
    preparer.take(3).unwrap();
    assert_eq!(fs::metadata(directory.path().join("log/0000000003.seg")).unwrap().len(), 1 << 20);
    preparer.stop();
    thread.join().unwrap();
}
