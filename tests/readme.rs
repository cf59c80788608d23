//! What the README shows is what happens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{fs, process::Command};

use jobgate_controllers::{LoadOptions, PolicySet};
use jobgate_sdk::{AdmissionRequest, Controller, Verdict, testing};

const README: &str = include_str!("../README.md");

/// The blocks of one kind, in order.
fn blocks<'a>(kind: &'a str) -> impl Iterator<Item = &'static str> + 'a {
    let fence = format!("\n```{kind}\n");
    let starts: Vec<_> = README.match_indices(&fence).map(|(at, _)| at + fence.len()).collect();
    starts.into_iter().map(|at| &README[at..][..=README[at..].find("\n```").expect("a block has an end")])
}

fn block(kind: &str) -> &'static str {
    let mut found = blocks(kind);
    let first = found.next().unwrap_or_else(|| panic!("no block of {kind}"));
    assert!(found.next().is_none(), "more than one block of {kind}");
    first
}

async fn ask(policy: (&str, &str), request: AdmissionRequest) -> Verdict {
    let loaded = PolicySet::from_texts([policy], &LoadOptions::default()).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.set.admit(&request).await
}

#[tokio::test]
async fn both_policies_say_the_same_and_the_rego_is_ten_lines() {
    let rego = block("rego");
    assert_eq!(rego.lines().count(), 10);
    let yaml = blocks("yaml").find(|text| text.starts_with("apiVersion")).expect("a YAML policy");
    for policy in [("images.rego", rego), ("images.yaml", yaml)] {
        let ours = || testing::request().image("registry.acme.example/build:1");
        assert!(ask(policy, ours().build()).await.is_admitted());
        for request in [
            testing::request().image("alpine:3.20"),
            testing::request().image("registry.acme.example/$IMAGE"),
            testing::request().image("$REGISTRY/build:1"),
            ours().service("postgres:16"),
        ] {
            let verdict = ask(policy, request.build()).await;
            let rejection = verdict.rejection().unwrap_or_else(|| panic!("{}: {verdict:?}", policy.0));
            assert!(rejection.rule().is_some_and(|rule| rule.ends_with("own-registry")), "{rejection:?}");
            assert!(rejection.reason().as_str().ends_with("is not from our registry"), "{rejection:?}");
        }
    }
    // The one difference, as the README says.
    let unnamed = || testing::request().no_image().build();
    assert!(ask(("images.rego", rego), unnamed()).await.is_admitted());
    assert!(ask(("images.yaml", yaml), unnamed()).await.rejection().is_some());
}

#[test]
fn the_rust_controller_is_fifteen_lines() {
    // It is compiled as a doc test of the library.
    assert!(block("rust,no_run").lines().count() <= 15);
}

#[test]
fn commands_print_what_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("images.rego"), block("rego")).unwrap();
    fs::write(folder.path().join("job.yaml"), blocks("yaml").next().unwrap()).unwrap();
    let mut said = String::new();
    let mut shown = String::new();
    for line in block("console").lines() {
        shown.push_str(line);
        shown.push('\n');
        let Some(command) = line.strip_prefix("$ jobgate ") else { continue };
        let run = Command::new(env!("CARGO_BIN_EXE_jobgate"))
            .args(command.split_whitespace())
            .current_dir(&folder)
            .output()
            .unwrap();
        said.push_str(&format!("{line}\n{}", String::from_utf8(run.stdout).unwrap()));
        assert_eq!(String::from_utf8(run.stderr).unwrap(), "", "{line}");
    }
    assert_eq!(said, shown);
}

#[test]
fn the_demo_prints_what_is_shown() {
    let demo = Command::new(env!("CARGO_BIN_EXE_jobgate")).arg("demo").output().unwrap();
    let said = String::from_utf8(demo.stdout).unwrap();
    assert!(demo.status.success(), "{said}");
    for line in block("text").lines().filter(|line| *line != "…") {
        assert!(said.lines().any(|other| other.trim_end() == line), "the demo does not print\n{line}\nbut\n{said}");
    }
}

#[test]
fn the_two_commands_are_those_that_ci_runs() {
    let ci = include_str!("../.ci/run");
    assert!(README.contains("\ncargo test --workspace "));
    assert!(ci.ends_with("\ncargo test --workspace\n"));
    assert!(README.contains("\ncargo run --release -- demo "));
    assert!(ci.contains("\njobgate demo\n"));
}
