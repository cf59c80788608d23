//! What the documents name is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below these, with one of these endings.
fn files(below: &[&str], endings: &[&str]) -> Vec<PathBuf> {
    let mut open: Vec<_> = below.iter().map(|name| root().join(name)).collect();
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() && !path.ends_with("target") {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted)) {
            found.push(path);
        }
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let pages = files(&["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "examples"], &["md"]);
    let mut seen = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            seen += 1;
            assert!(page.parent().unwrap().join(file).exists(), "{}: there is no {target}", page.display());
        }
    }
    assert!(seen >= 10, "links are found: {seen}");
}

#[test]
fn the_tests_that_guard_the_invariants_exist() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let table = page.split("## What must always hold").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert_eq!(rows.len(), 6, "a row for each invariant");
    for row in rows {
        // `name`, `name` (`file`); `name` (`file or folder`)
        let words: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        let mut names = Vec::new();
        for word in words {
            if !word.contains('/') {
                names.push(word);
                continue;
            }
            let code: String = files(&[word], &["rs"]).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
            assert!(!names.is_empty() && !code.is_empty(), "{word} holds no tests");
            for name in names.drain(..) {
                assert!(code.contains(&format!("fn {name}(")), "there is no test {name} in {word}");
            }
        }
        assert!(names.is_empty(), "{names:?}: in which file?");
    }
}

#[test]
fn the_files_that_the_architecture_names_exist() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut seen = 0;
    for word in page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.ends_with(".rs") || (word.ends_with('/') && !word.starts_with('/')))
    {
        let places = ["", "router/src"].map(|folder| root().join(folder).join(word));
        assert!(places.iter().any(|place| place.exists()), "there is no {word}");
        seen += 1;
    }
    assert!(seen >= 20, "files are found: {seen}");
}
