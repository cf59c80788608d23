//! The policies under examples/policies: each loads without a warning, passes its own tests, and every rule is tested.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use jobgate_controllers::{CaseOutcome, Fault, Faults, LoadOptions, TestDocument, check, test};
use jobgate_sdk::{AdmissionRequest, Image, Job, Project, Service, Subject, testing};
use serde_json::Value;

fn library() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut policies: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    policies.retain(|path| path.is_dir());
    policies.sort();
    assert!(policies.len() >= 6);
    policies
}

fn options() -> LoadOptions {
    LoadOptions { expose: vec!["script".into()], ..LoadOptions::default() }
}

/// A short form of the router's own reader, which these tests cannot see.
fn reader(case: &TestDocument<'_>) -> Result<AdmissionRequest, Faults> {
    let broken = |what: String| Faults::from(Fault::new(case.file, what));
    let mut job = case.document["job"].as_object().ok_or_else(|| broken("no job".into()))?.clone();
    let variables = job.get("variables").and_then(Value::as_array).cloned().unwrap_or_default();
    let [image, services, script] = ["image", "services", "script"].map(|key| job.remove(key).unwrap_or_default());
    let mut job: Job = serde_json::from_value(job.into()).map_err(|error| broken(error.to_string()))?;
    for variable in &mut job.variables {
        variable.value = variable.value.take().filter(|_| variable.public);
    }
    let resolve = |value: &Value| {
        let written = value.as_str().or(value["name"].as_str()).unwrap_or_default();
        let name = variables.iter().filter(|variable| variable["public"] == true).fold(
            written.to_owned(),
            |name, variable| {
                name.replace(&format!("${}", variable["key"].as_str().unwrap()), variable["value"].as_str().unwrap())
            },
        );
        let image = testing::request().image(&name).build().job().image.clone().unwrap();
        Image { name: written.into(), user: value["user"].as_str().map(Into::into), ..image }
    };
    job.image = (!image.is_null()).then(|| resolve(&image));
    job.services = services
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| Service { image: Some(resolve(one)), alias: vec![] })
        .collect();
    let lines: Vec<_> = script.as_array().into_iter().flatten().map(|line| line.as_str().unwrap()).collect();
    let base = testing::request().script(lines).at(case.time).build();
    job.script.clone_from(&base.job().script);
    let path = case.document["project"]["path"].as_str().ok_or_else(|| broken("no project".into()))?;
    let groups = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
    let project = Project { id: None, path: path.into(), groups };
    let subject = Subject { job: job.into(), project: project.into(), user: None, runner: None };
    Ok(AdmissionRequest::new(base.question().clone(), subject))
}

#[tokio::test]
async fn every_policy_passes_its_tests_and_every_rule_is_tested() {
    for policy in library() {
        let report =
            test(std::slice::from_ref(&policy), &options(), &reader).await.unwrap_or_else(|faults| panic!("{faults}"));
        let wrong: Vec<_> = report.cases.iter().filter(|case| case.outcome != CaseOutcome::Passed).collect();
        assert!(report.passed(), "{}: {wrong:#?}", policy.display());
        let untested: Vec<_> = report.coverage.iter().filter(|rule| !rule.covered).collect();
        assert!(untested.is_empty(), "{untested:#?}");
    }
}

#[test]
fn every_policy_is_checked_without_a_word() {
    for policy in library() {
        let report = check(&[policy], &options(), "2026-11-21".parse().unwrap());
        assert!(report.faults.is_none(), "{}", report.faults.unwrap());
        let warnings: Vec<_> = report.warnings.iter().map(Fault::one_line).collect();
        assert!(warnings.is_empty(), "{warnings:#?}");
    }
}
