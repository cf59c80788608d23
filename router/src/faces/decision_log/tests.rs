use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use jiff::Timestamp;

use super::{DecisionLog, RotatingFile};
use crate::{
    config,
    decision::{Decision, Ruling},
    faces::Metrics,
    job::JobId,
};

fn decision(number: usize) -> Arc<Decision> {
    Arc::new(Decision {
        admission_id: format!("admission-{number}").into(),
        job_id: JobId::new("0123"),
        project: "acme/api".into(),
        runner: None,
        decision: Ruling::Admitted,
        cause: None,
        reason: String::new(),
        will_retry: false,
        chain_version: "v".into(),
        time: Timestamp::UNIX_EPOCH,
        verdicts: Vec::new(),
    })
}

fn settings(path: &Path, max_bytes: u64, keep: usize) -> config::DecisionLog {
    config::DecisionLog { path: path.to_owned(), max_bytes, keep }
}

/// Numbers of the decisions in a file; every line must be whole.
fn numbers(path: &Path) -> Vec<usize> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{}", path.display());
    let number = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["admission_id"].as_str().unwrap().trim_start_matches("admission-").parse().unwrap()
    };
    text.lines().map(number).collect()
}

async fn write(settings: &config::DecisionLog, which: std::ops::Range<usize>) -> Metrics {
    let metrics = Metrics::new();
    let (log, end) = DecisionLog::start(settings, metrics.clone()).unwrap();
    for number in which {
        log.export(decision(number));
    }
    drop(log);
    end.wait().await;
    metrics
}

#[tokio::test]
async fn decisions_are_lines_of_a_private_file_and_are_appended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("decisions.jsonl");
    write(&settings(&path, 1 << 20, 2), 0..3).await;
    write(&settings(&path, 1 << 20, 2), 3..5).await;
    assert_eq!(numbers(&path), [0, 1, 2, 3, 4]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn rotation_keeps_whole_lines_and_as_many_files_as_asked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("decisions.jsonl");
    let line = serde_json::to_vec(&*decision(100)).unwrap().len() as u64 + 1;
    write(&settings(&path, 4 * line, 2), 100..115).await;
    let numbered = |number: usize| directory.path().join(format!("decisions.jsonl.{number}"));
    assert_eq!(numbers(&path), [112, 113, 114]);
    assert_eq!(numbers(&numbered(1)), [108, 109, 110, 111]);
    assert_eq!(numbers(&numbered(2)), [104, 105, 106, 107]);
    assert!(!numbered(3).exists());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_line_larger_than_the_file_may_be_is_written_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("decisions.jsonl");
    write(&settings(&path, 10, 1), 0..3).await;
    assert_eq!(numbers(&path), [2]);
    assert_eq!(numbers(&directory.path().join("decisions.jsonl.1")), [1]);
}

#[tokio::test]
async fn a_full_disk_is_counted_and_stops_nothing() {
    let metrics = write(&settings(Path::new("/dev/full"), 1 << 20, 2), 0..5).await;
    let text = metrics.encode(&crate::faces::metrics::Snapshot::empty()).unwrap();
    assert!(text.contains("\njobgate_exports_lost_total 5\n"), "{text}");
    let metrics = write(&settings(Path::new("/nowhere/at/all"), 1 << 20, 2), 0..5).await;
    let text = metrics.encode(&crate::faces::metrics::Snapshot::empty()).unwrap();
    assert!(text.contains("\njobgate_exports_lost_total 5\n"), "{text}");
}

#[test]
fn a_file_comes_back_after_it_was_moved_or_its_directory_was_gone() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("logs");
    let path = below.join("decisions.jsonl");
    let mut file = RotatingFile::new(path.clone(), 1 << 20, 2);
    let line = |number: usize| [serde_json::to_vec(&*decision(number)).unwrap(), b"\n".to_vec()].concat();
    let (written, _) = file.append(&[line(0)]).unwrap_err();
    assert_eq!(written, 0);
    fs::create_dir(&below).unwrap();
    file.append(&[line(1)]).unwrap();
    fs::rename(&path, below.join("moved")).unwrap();
    file.append(&[line(2)]).unwrap();
    assert_eq!(numbers(&below.join("moved")), [1]);
    assert_eq!(numbers(&path), [2]);
}

#[test]
fn half_a_line_of_ours_is_removed_and_any_other_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("decisions.jsonl");
    let whole = String::from_utf8(serde_json::to_vec(&*decision(7)).unwrap()).unwrap();
    let append = |before: &str| {
        fs::write(&path, before).unwrap();
        let mut file = RotatingFile::new(path.clone(), 1 << 30, 2);
        file.append(&[format!("{whole}\n").into_bytes()]).unwrap();
        fs::read_to_string(&path).unwrap()
    };
    assert_eq!(append(&format!("{whole}\n{}", &whole[..30])), format!("{whole}\n{whole}\n"));
    assert_eq!(append(&format!("{}{}", &whole[..30], "x".repeat(20_000))), format!("{whole}\n"));
    assert_eq!(append("somebody else's words"), format!("somebody else's words\n{whole}\n"));
    assert_eq!(append(""), format!("{whole}\n"));
}
