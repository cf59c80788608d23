//! Not tests: figures. `cargo test --release -p jobgate-router --lib store::disk::tests::measure -- --ignored --nocapture`

use std::time::{Duration, Instant};

use bytes::Bytes;
use jobgate_proto::job::v1::JobState as State;

use super::*;
use crate::{
    job::JobId,
    store::{Batch, JobRow, Store},
};

/// A job as the router keeps it while it waits.
fn row(number: u64, state: State) -> JobRow {
    JobRow {
        id: format!("0199{number:028x}"),
        project: "acme/payments/api".to_owned(),
        source_id: Some(number.to_string()),
        name: Some("integration tests".to_owned()),
        tags: vec!["linux".to_owned(), "docker".to_owned()],
        sequence: number,
        state: state.into(),
        submitted_at: 1_800_000_000_000_000,
        admitted_at: Some(1_800_000_000_100_000),
        admissions: 1,
        chain_version: Some("0123456789abcdef".to_owned()),
        decided_at: Some(1_800_000_000_100_000),
        ..JobRow::default()
    }
}

fn submitted(numbers: std::ops::Range<u64>, document: &Bytes) -> Batch {
    let mut batch = Batch::default();
    for number in numbers {
        let row = row(number, State::Admitted);
        batch.documents.push((JobId::new(row.id.as_str()), document.clone()));
        batch.rows.push(row);
    }
    batch
}

fn percentile(times: &mut [Duration], of: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * of / 100).min(times.len() - 1)]
}

/// Directory on the disk that is measured, not in memory.
fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("store-").tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

#[test]
#[ignore = "figures"]
#[expect(clippy::print_stderr, reason = "figures are for reading")]
fn commits() {
    let document = Bytes::from(vec![b'x'; 512]);
    for size in [1, 64, 512] {
        let directory = directory();
        let (mut store, _, _) = DiskStore::open(directory.path(), DiskOptions::default()).unwrap();
        let mut times = Vec::new();
        let mut next = 0;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            let batch = submitted(next..next + size, &document);
            next += size;
            let begun = Instant::now();
            store.commit(&batch).unwrap();
            times.push(begun.elapsed());
        }
        let (p50, p99, max) = (percentile(&mut times, 50), percentile(&mut times, 99), percentile(&mut times, 100));
        eprintln!("{size} new jobs a batch: {} batches, p50 {p50:?}, p99 {p99:?}, max {max:?}", times.len());
    }
}

#[test]
#[ignore = "figures"]
#[expect(clippy::print_stderr, reason = "figures are for reading")]
fn starts() {
    let document = Bytes::from(vec![b'x'; 512]);
    for jobs in [100_000, 1_000_000] {
        let directory = directory();
        let (mut store, _, _) = DiskStore::open(directory.path(), DiskOptions::default()).unwrap();
        for first in (0..jobs).step_by(500) {
            store.commit(&submitted(first..first + 500, &document)).unwrap();
        }
        let begun = Instant::now();
        drop(store);
        eprintln!("{jobs} jobs: closed in {:?}", begun.elapsed());
        let size = std::fs::metadata(directory.path().join(super::super::index::FILE)).unwrap().len();
        for round in 0..2 {
            let begun = Instant::now();
            let (store, restored, _) = DiskStore::open(directory.path(), DiskOptions::default()).unwrap();
            let opened = begun.elapsed();
            assert_eq!(restored.jobs.len() as u64, jobs);
            eprintln!("{jobs} jobs, from the index ({} MiB): {opened:?}", size >> 20);
            if round == 0 {
                continue;
            }
            drop(restored);
            // All of it from the log: as if no checkpoint had ever been written.
            drop(store);
            std::fs::remove_file(directory.path().join(super::super::index::FILE)).unwrap();
            let begun = Instant::now();
            let (_store, restored, _) = DiskStore::open(directory.path(), DiskOptions::default()).unwrap();
            assert_eq!(restored.jobs.len() as u64, jobs);
            eprintln!("{jobs} jobs, from the log alone: {:?}", begun.elapsed());
        }
    }
}
