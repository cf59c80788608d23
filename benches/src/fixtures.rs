//! The job that all measures are about: an ordinary one, admitted by all policies.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use jobgate_sdk::{AdmissionRequest, Image, Job, Project, Question, Service, Strings, Subject, User, Variable};

pub(crate) const REGO: &str = include_str!("../policies/eight.rego");
pub(crate) const YAML: &str = include_str!("../policies/eight.yaml");
pub(crate) const PROJECT: &str = "acme/payments/api";

/// A question about that job; [`numbered`] makes others of it.
pub(crate) fn question() -> AdmissionRequest {
    let variable = |n: usize| Variable {
        key: format!("CI_VARIABLE_{n}"),
        value: Some("some value".into()),
        public: true,
        ..Variable::default()
    };
    let job = Job {
        id: "0190a5f2b1c47d3e8f60718293a4b5c6".into(),
        source_id: Some("4711".into()),
        name: Some("build".into()),
        stage: Some("build".into()),
        r#ref: Some("feature/faster-builds".into()),
        ref_type: Some(1),
        protected: Some(true),
        sha: Some("0123456789abcdef0123456789abcdef01234567".into()),
        environment: Some("staging".into()),
        tags: Some(Strings { values: vec!["docker".into(), "linux".into()] }),
        image: Some(image("builder")),
        services: vec![Service { image: Some(image("postgres")), alias: vec!["db".into()] }],
        variables: (0..8).map(variable).collect(),
        timeout_seconds: Some(3600),
        ..Job::default()
    };
    let question = Question {
        id: "0190a5f2b1c47d3e8f60718293a4b5c7/images".into(),
        admission_id: "0190a5f2b1c47d3e8f60718293a4b5c7".into(),
        controller: "images".into(),
        scope: "group:acme".into(),
        dry_run: false,
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
        time_left: Duration::from_secs(2),
    };
    let project = Project { id: Some(7), path: PROJECT.into(), groups: vec!["acme".into(), "acme/payments".into()] };
    let user = User { id: Some(42), login: Some("ann".into()) };
    let subject = Subject { job: job.into(), project: project.into(), user: Some(user.into()), runner: None };
    AdmissionRequest::new(question, subject)
}

/// The same question with an id of its own.
pub(crate) fn numbered(question: &AdmissionRequest, number: u64) -> AdmissionRequest {
    let id: Arc<str> = id(number).into();
    let own = Question { id, ..question.question().clone() };
    AdmissionRequest::new(own, question.subject().clone())
}

/// The id of a question of this number; as long as the router's.
pub(crate) fn id(number: u64) -> String {
    format!("{number:032x}/images")
}

fn image(repository: &str) -> Image {
    Image {
        name: format!("registry.acme.example/{repository}:1"),
        resolved: format!("registry.acme.example/{repository}:1@sha256:abc"),
        registry: Some("registry.acme.example".into()),
        repository: Some(repository.into()),
        tag: Some("1".into()),
        digest: Some("sha256:abc".into()),
        ..Image::default()
    }
}

/// The document of that job, as it is submitted.
pub(crate) fn document() -> Bytes {
    let digest = "sha256:9f2b1c47d3e8f60718293a4b5c60190a5f2b1c47d3e8f60718293a4b5c6019aa";
    let variables: serde_json::Map<_, _> =
        (0..8).map(|n| (format!("CI_VARIABLE_{n}"), serde_json::Value::from("some value"))).collect();
    let document = serde_json::json!({
        "job": {
            "name": "build", "stage": "build", "ref": "feature/faster-builds", "ref_type": "branch", "protected": true,
            "sha": "0123456789abcdef0123456789abcdef01234567", "environment": "staging", "timeout_seconds": 3600,
            "image": { "name": format!("registry.acme.example/builder:1@{digest}") },
            "services": [{ "name": format!("registry.acme.example/postgres:1@{digest}"), "alias": ["db"] }],
        },
        "project": { "path": PROJECT },
        "user": { "login": "ann" },
        "payload": { "script": ["make", "make test"], "variables": variables },
    });
    document.to_string().into()
}

/// A document of a job with a number, about so many bytes long.
pub(crate) fn numbered_document(number: u64, project: &str, tags: &[&str], bytes: usize) -> Bytes {
    let digest = "sha256:9f2b1c47d3e8f60718293a4b5c60190a5f2b1c47d3e8f60718293a4b5c6019aa";
    let image = serde_json::json!({ "name": format!("registry.acme.example/builder:1@{digest}") });
    let job = serde_json::json!({
        "name": "build", "ref": "main", "ref_type": "branch", "protected": true, "timeout_seconds": 3600, "tags": tags,
        "image": image,
    });
    let project = serde_json::json!({ "path": project });
    let head = format!(r#"{{"job":{job},"project":{project},"payload":{{"script":["make"],"filler":""#);
    let tail = format!(r#"","number":"{number:012}"}}}}"#);
    let filler = "x".repeat(bytes.saturating_sub(head.len() + tail.len()));
    format!("{head}{filler}{tail}").into()
}

/// The number of a job with this document.
pub(crate) fn number_of(document: &[u8]) -> Option<u64> {
    let digits = document.strip_suffix(br#""}}"#)?.last_chunk::<12>()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
