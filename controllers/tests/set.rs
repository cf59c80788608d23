//! Directories of policies: what is loaded from them, who decides, and what a reload changes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jobgate_controllers::{Faults, LoadOptions, PolicyHandle, PolicySet, ReloadOutcome, watch};
use jobgate_sdk::{Controller, testing};

/// A YAML policy that rejects images that do not match, with one rule `r`.
fn yaml(name: &str, image: &str) -> String {
    format!(
        "apiVersion: jobgate/v1\nkind: Policy\nname: {name}\nrules: [{{ name: r, require: {{ image: [{image:?}] }}, message: {name} }}]\n"
    )
}

const REGO: &str = r#"package jobgate
deny contains {"message": "from rego", "rule": "unprotected"} if not input.job.protected
"#;

fn write(directory: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn load(path: &Path) -> Result<PolicySet, Faults> {
    PolicySet::load(&[path.into()], &LoadOptions::default()).map(|loaded| loaded.set)
}

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), files);
    directory
}

#[tokio::test]
async fn the_first_rejection_in_file_order_is_the_reason_and_the_others_are_told() {
    let directory = directory(&[
        ("a.yaml", &yaml("first", "docker.io/**")),
        ("b.rego", REGO),
        ("c/d.yml", &yaml("last", "registry.acme.example/**")),
        (".hidden.yaml", "not a policy"),
        ("notes.txt", "not a policy"),
        ("c/d.test.yaml", "not a policy"),
        ("b_test.rego", "not a policy"),
    ]);
    let set = load(directory.path()).unwrap();
    assert_eq!(set.names().collect::<Vec<_>>(), ["first", "jobgate", "last"]);

    let verdict = set.admit(&testing::request().image("quay.io/x/y").build()).await;
    assert_eq!(verdict.rejection().unwrap().rule(), Some("first/r"));
    let also = ["also rejected by rule unprotected: from rego", "also rejected by rule last/r: last"];
    assert_eq!(verdict.warnings(), also);

    let verdict = set.admit(&testing::request().image("alpine").build()).await;
    assert_eq!(verdict.rejection().unwrap().rule(), Some("unprotected"));
    assert_eq!(verdict.warnings(), also[1..].to_vec());
    assert_eq!(verdict.version(), Some(set.version()));
}

#[tokio::test]
async fn a_failure_counts_unless_something_rejects() {
    let failing = "package jobgate\ndeny contains msg if { x := to_number(input.job.name); x > 1; msg := \"no\" }\n";
    let directory = directory(&[("a.rego", failing), ("b.yaml", &yaml("images", "docker.io/**"))]);
    let set = load(directory.path()).unwrap();
    let verdict = set.admit(&testing::request().job(|job| job.name = Some("build".into())).build()).await;
    assert!(verdict.failure().is_some(), "{verdict:?}");
    let request = testing::request().image("quay.io/x/y").job(|job| job.name = Some("build".into())).build();
    let verdict = set.admit(&request).await;
    assert_eq!(verdict.rejection().unwrap().rule(), Some("images/r"));
    assert!(verdict.warnings()[0].starts_with("a policy failed: "), "{verdict:?}");
}

#[test]
fn a_path_without_a_policy_is_refused() {
    let only_data = directory(&[("data.json", "{}"), ("x_test.rego", "package jobgate"), ("x.test.yaml", "cases: []")]);
    let empty = directory(&[("notes.txt", "")]);
    let gone = empty.path().join("gone");
    let text = empty.path().join("notes.txt");
    for path in [only_data.path(), empty.path(), &text] {
        assert!(load(path).unwrap_err().to_string().contains("no policy in it"), "{}", path.display());
    }
    assert!(load(&gone).unwrap_err().to_string().contains("no such file or directory"));
    assert!(PolicySet::load(&[], &LoadOptions::default()).is_err());
}

#[test]
fn faults_of_all_files_are_said_at_once() {
    let directory = directory(&[
        ("a.yaml", "apiVersion: x\n"),
        ("b.rego", "package jobgate\ndeny contains if {"),
        ("c.yaml", "{"),
        ("data.json", "{"),
        ("d/data.yaml", "[]"),
    ]);
    fs::write(directory.path().join("e.yaml"), [0xff, 0xfe]).unwrap();
    let faults = load(directory.path()).unwrap_err().to_string();
    assert!(faults.contains("e.yaml: this is not UTF-8 text"), "{faults}");
    fs::remove_file(directory.path().join("e.yaml")).unwrap();
    let faults = load(directory.path()).unwrap_err().to_string();
    for file in ["a.yaml", "b.rego", "c.yaml", "data.json", "data.yaml"] {
        assert!(faults.contains(&format!("{file}:")), "{file} is not in\n{faults}");
    }
}

#[tokio::test]
async fn data_is_joined_and_never_twice() {
    let rego = "package jobgate\ndeny contains \"no\" if { not input.project.path in data.allowed }\n\
                deny contains \"limit\" if { data.limit < 1 }\n";
    let files = [("p.rego", rego), ("data.json", r#"{"allowed": ["acme/app"]}"#), ("sub/data.yaml", "limit: 3")];
    let both = directory(&files);
    let set = load(both.path()).unwrap();
    assert!(set.admit(&testing::request().project("acme/app").build()).await.is_admitted());
    assert!(!set.admit(&testing::request().project("acme/other").build()).await.is_admitted());
    write(both.path(), &[("sub/data.yaml", "allowed: []")]);
    assert!(load(both.path()).unwrap_err().to_string().contains("`allowed` is in"));
}

#[test]
fn the_version_is_that_of_what_decides() {
    let one = directory(&[("a.yaml", &yaml("a", "**")), ("sub/b.yaml", &yaml("b", "**"))]);
    let same =
        directory(&[("a.yaml", &yaml("a", "**")), ("sub/b.yaml", &yaml("b", "**")), ("a.test.yaml", "cases: []")]);
    let moved = directory(&[("a.yaml", &yaml("a", "**")), ("b.yaml", &yaml("b", "**"))]);
    let [version, again, other] =
        [&one, &same, &moved].map(|directory| load(directory.path()).unwrap().version().clone());
    assert_eq!(version, again);
    assert_ne!(version, other);
    assert!(version.starts_with("sha256:") && version.len() == 7 + 12, "{version}");
}

#[cfg(unix)]
#[test]
fn a_mounted_config_map_is_loaded_once_and_loops_end() {
    use std::os::unix::fs::symlink;

    let directory = directory(&[("..2026_11_21/policy.yaml", &yaml("p", "**"))]);
    symlink("..2026_11_21", directory.path().join("..data")).unwrap();
    symlink("..data/policy.yaml", directory.path().join("policy.yaml")).unwrap();
    symlink(".", directory.path().join("loop")).unwrap();
    symlink("nowhere", directory.path().join("dangling.txt")).unwrap();
    assert_eq!(load(directory.path()).unwrap().names().collect::<Vec<_>>(), ["p"]);
    symlink("nowhere", directory.path().join("dangling.yaml")).unwrap();
    assert!(load(directory.path()).unwrap_err().to_string().contains("dangling.yaml: no such file"));
}

#[test]
fn large_files_are_not_read() {
    let directory = directory(&[("a.yaml", &yaml("a", "**"))]);
    fs::File::create(directory.path().join("b.yaml")).unwrap().set_len(10 << 20).unwrap();
    assert!(load(directory.path()).unwrap_err().to_string().contains("b.yaml: 10485760 bytes are more than"));
}

fn handle(path: &Path) -> PolicyHandle {
    PolicyHandle::load(&[PathBuf::from(path)], LoadOptions::default()).unwrap().0
}

#[tokio::test]
async fn a_reload_publishes_what_is_sound_and_keeps_what_decided_otherwise() {
    let directory = directory(&[("a.yaml", &yaml("a", "docker.io/**"))]);
    let handle = handle(directory.path());
    let mut versions = handle.version();
    let first = handle.current().version().clone();
    assert_eq!(handle.reload().await, ReloadOutcome::Unchanged);

    write(directory.path(), &[("a.yaml", &yaml("a", "quay.io/**"))]);
    let ReloadOutcome::Published { version: second, .. } = handle.reload().await else { panic!("not published") };
    assert_ne!(first, second);
    assert!(versions.has_changed().unwrap());
    assert_eq!(*versions.borrow_and_update(), second);
    let request = testing::request().image("alpine").build();
    let verdict = handle.admit(&request).await;
    assert!(!verdict.is_admitted());
    assert_eq!(verdict.version(), Some(&second));

    // Faulty, empty, gone: each keeps the version that decided.
    write(directory.path(), &[("a.yaml", "apiVersion: x")]);
    let breakages: [&dyn Fn(); 3] = [&|| {}, &|| fs::remove_file(directory.path().join("a.yaml")).unwrap(), &|| {
        fs::remove_dir_all(directory.path()).unwrap();
    }];
    for breakage in breakages {
        breakage();
        let ReloadOutcome::Kept { version, faults } = handle.reload().await else { panic!("not kept") };
        assert_eq!(version, second);
        assert!(faults.iter().count() > 0 && handle.is_stale());
        assert_eq!(handle.admit(&request).await.version(), Some(&second));
    }
    assert!(!versions.has_changed().unwrap());

    write(directory.path(), &[("a.yaml", &yaml("a", "quay.io/**"))]);
    assert_eq!(handle.reload().await, ReloadOutcome::Unchanged);
    assert!(!handle.is_stale());
}

#[tokio::test]
async fn files_are_watched() {
    let directory = directory(&[("a.yaml", &yaml("a", "docker.io/**"))]);
    let handle = handle(directory.path());
    let mut versions = handle.version();
    let (told, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
    let watched = handle.clone();
    let watching = tokio::spawn(async move {
        watch(&watched, Duration::from_millis(200), |outcome| told.send(outcome).unwrap()).await;
    });
    write(directory.path(), &[("a.yaml", &yaml("a", "quay.io/**"))]);
    versions.changed().await.unwrap();
    // A half-written file may have been seen on the way, and said to be faulty.
    while !matches!(outcomes.recv().await.unwrap(), ReloadOutcome::Published { .. }) {}
    write(directory.path(), &[("a.yaml", "{")]);
    assert!(matches!(outcomes.recv().await.unwrap(), ReloadOutcome::Kept { .. }));
    watching.abort();
}
