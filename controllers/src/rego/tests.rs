//! Policies from outside: text in, verdicts and faults out.

mod decisions;
mod reading;
mod refusals;
mod tools;
mod traps;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use jobgate_sdk::{AdmissionRequest, Image, Job, Project, Question, Subject, Variable, Verdict};
use jobgate_yaml::Faults;

use super::{RegoOptions, RegoPolicy, SourceFile};

pub(super) fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { path: PathBuf::from(name), text: text.into() }
}

/// A policy of one file; the package line is added.
pub(super) fn load(rules: &str) -> Result<RegoPolicy, Faults> {
    RegoPolicy::load(&[file("policy.rego", &format!("package jobgate\n\n{rules}\n"))], None, &options())
}

pub(super) fn options() -> RegoOptions {
    RegoOptions { workers: 1, version: "v1".into(), ..RegoOptions::default() }
}

/// The faults of a policy that must not load, as people read them.
pub(super) fn refused(rules: &str) -> String {
    match load(rules) {
        Ok(_) => panic!("loaded, but should not have:\n{rules}"),
        Err(faults) => faults.to_string(),
    }
}

pub(super) fn question() -> Question {
    Question {
        id: "q1".into(),
        admission_id: "a1".into(),
        controller: "images".into(),
        scope: "instance".into(),
        dry_run: false,
        time: UNIX_EPOCH + Duration::from_secs(1_795_000_000),
        time_left: Duration::from_secs(60),
    }
}

pub(super) fn job() -> Job {
    Job {
        id: "j1".into(),
        name: Some("build".into()),
        r#ref: Some("main".into()),
        protected: Some(true),
        image: Some(Image {
            name: "alpine".into(),
            resolved: "alpine".into(),
            registry: Some("docker.io".into()),
            repository: Some("library/alpine".into()),
            tag: Some("latest".into()),
            ..Image::default()
        }),
        variables: vec![Variable {
            key: "CI_DEBUG_TRACE".into(),
            value: Some("true".into()),
            public: true,
            ..Variable::default()
        }],
        ..Job::default()
    }
}

pub(super) fn request(job: Job) -> AdmissionRequest {
    let project = Project { id: Some(7), path: "acme/payments/api".into(), groups: vec!["acme".into()] };
    AdmissionRequest::new(
        question(),
        Subject { job: Arc::new(job), project: Arc::new(project), user: None, runner: None },
    )
}

/// What the rules say about the usual job.
pub(super) async fn decide(rules: &str) -> Verdict {
    decide_on(rules, job()).await
}

pub(super) async fn decide_on(rules: &str, job: Job) -> Verdict {
    load(rules).unwrap_or_else(|faults| panic!("{faults}")).decide(&request(job)).await
}

pub(super) fn reason(verdict: &Verdict) -> &str {
    verdict.rejection().unwrap_or_else(|| panic!("{verdict:?}")).reason().as_str()
}

pub(super) fn failure(verdict: &Verdict) -> &str {
    verdict.failure().unwrap_or_else(|| panic!("{verdict:?}")).message()
}
