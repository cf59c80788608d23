//! The JSON form: a known value is always written, an unknown one is left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use jobgate_proto::{
    admission::v1::{
        AdmitRequest, Image, Job, Project, RefType, Runner, RunnerType, Script, ScriptLine, Service, Strings, User,
        Variable,
    },
    job::v1::{JobRecord, JobState},
};
use prost::Message;
use serde_json::{Value, json};

fn to_json<T: serde::Serialize>(message: &T) -> Value {
    serde_json::to_value(message).unwrap()
}

/// A job about which everything is known, and all of it is false, zero or empty.
fn known() -> Job {
    Job {
        id: "j".into(),
        source_id: Some(String::new()),
        name: Some(String::new()),
        stage: Some(String::new()),
        pipeline_id: Some(0),
        source: Some(String::new()),
        r#ref: Some(String::new()),
        ref_type: Some(RefType::Branch.into()),
        protected: Some(false),
        sha: Some(String::new()),
        environment: Some(String::new()),
        tags: Some(Strings::default()),
        image: Some(Image::default()),
        timeout_seconds: Some(0),
        script: Some(Script::default()),
        ..Job::default()
    }
}

#[test]
fn a_known_value_is_written_also_when_it_is_false_zero_or_empty() {
    let image =
        json!({"name": "", "resolved": "", "unresolved": false, "pull_policy": [], "entrypoint": [], "command": []});
    let expected = json!({
        "id": "j", "source_id": "", "name": "", "stage": "", "pipeline_id": 0, "source": "", "ref": "", "ref_type": "branch",
        "protected": false, "sha": "", "environment": "", "tags": [], "image": image, "services": [], "variables": [],
        "timeout_seconds": 0, "artifact_paths": [], "cache_keys": [], "secret_providers": [], "script": [], "priority": 0,
        "claims": [],
    });
    assert_eq!(to_json(&known()), expected);
}

#[test]
fn an_unknown_value_is_left_out() {
    let expected = json!({
        "id": "", "services": [], "variables": [], "artifact_paths": [], "cache_keys": [], "secret_providers": [],
        "priority": 0, "claims": [],
    });
    assert_eq!(to_json(&Job::default()), expected);
    let expected = json!({"id": "", "admission_id": "", "controller": "", "scope": "", "dry_run": false});
    assert_eq!(to_json(&AdmitRequest::default()), expected);
    assert_eq!(to_json(&Project::default()), json!({"path": "", "groups": []}));
    assert_eq!(to_json(&User::default()), json!({}));
    assert_eq!(to_json(&Runner::default()), json!({"name": ""}));
    let variable = json!({"key": "", "public": false, "masked": false, "file": false});
    assert_eq!(to_json(&Variable::default()), variable);
}

#[test]
fn unknown_and_false_differ_on_the_wire_and_in_json() {
    let job = |protected, tags, environment| Job { protected, tags, environment, ..Job::default() };
    let (unknown, known) = (job(None, None, None), job(Some(false), Some(Strings::default()), Some(String::new())));
    assert_ne!(unknown.encode_to_vec(), known.encode_to_vec());
    for job in [unknown, known] {
        assert_eq!(Job::decode(job.encode_to_vec().as_slice()).unwrap(), job);
        assert_eq!(serde_json::from_value::<Job>(to_json(&job)).unwrap(), job);
    }
}

#[test]
fn kinds_are_lower_case_words() {
    let job = |kind: RefType| to_json(&Job { ref_type: Some(kind.into()), ..Job::default() })["ref_type"].clone();
    assert_eq!([job(RefType::Branch), job(RefType::Tag)], ["branch", "tag"]);
    let runner = |kind: RunnerType| to_json(&Runner { r#type: Some(kind.into()), ..Runner::default() })["type"].clone();
    assert_eq!(
        [RunnerType::Instance, RunnerType::Group, RunnerType::Project].map(runner),
        ["instance", "group", "project"]
    );
    let record = JobRecord { state: JobState::Running.into(), ..JobRecord::default() };
    assert_eq!(to_json(&record)["state"], "running");
    assert!(serde_json::from_value::<Job>(json!({"ref_type": "BRANCH_OF_MINE"})).is_err());
    assert!(serde_json::from_value::<Job>(json!({"ref_type": "unspecified"})).is_err());
}

#[test]
fn times_are_rfc_3339_and_time_left_is_seconds() {
    let request = AdmitRequest {
        time: Some(prost_types::Timestamp { seconds: 1_795_262_400, nanos: 250_000_000 }),
        time_left: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        ..AdmitRequest::default()
    };
    let form = to_json(&request);
    assert_eq!((form["time"].as_str(), form["time_left"].as_str()), (Some("2026-11-21T12:00:00.25Z"), Some("1.500s")));
    assert_eq!(serde_json::from_value::<AdmitRequest>(form).unwrap(), request);
    assert!(serde_json::from_value::<AdmitRequest>(json!({"time": "yesterday"})).is_err());
}

#[test]
fn large_numbers_are_numbers() {
    let id = 9_007_199_254_740_993; // 2^53 + 1: what a float would round
    let job = Job { pipeline_id: Some(id), ..Job::default() };
    assert_eq!(to_json(&job)["pipeline_id"], json!(id));
    assert_eq!(serde_json::from_str::<Job>(&serde_json::to_string(&job).unwrap()).unwrap(), job);
}

#[test]
fn lists_that_may_be_unknown_are_plain_arrays() {
    let line = ScriptLine { place: "steps.script[0]".into(), text: "make".into() };
    let job = Job {
        tags: Some(Strings { values: vec!["docker".into(), "linux".into()] }),
        script: Some(Script { lines: vec![line] }),
        ..Job::default()
    };
    let form = to_json(&job);
    assert_eq!(form["tags"], json!(["docker", "linux"]));
    assert_eq!(form["script"], json!([{"place": "steps.script[0]", "text": "make"}]));
    assert_eq!(serde_json::from_value::<Job>(form).unwrap(), job);
}

#[test]
fn a_service_is_an_image_with_aliases() {
    let image = Image { name: "postgres:16".into(), resolved: "postgres:16".into(), ..Image::default() };
    let service = Service { image: Some(Image { tag: Some("16".into()), ..image }), alias: vec!["db".into()] };
    let expected = json!({
        "name": "postgres:16", "resolved": "postgres:16", "unresolved": false, "tag": "16", "pull_policy": [], "entrypoint": [],
        "command": [], "alias": ["db"],
    });
    assert_eq!(to_json(&service), expected);
    assert_eq!(serde_json::from_value::<Service>(expected).unwrap(), service);
}

#[test]
fn a_full_question_comes_back_from_json_as_it_was() {
    let request = AdmitRequest {
        id: "q".into(),
        admission_id: "a".into(),
        job: Some(Job { claims: vec!["source".into(), "user.login".into()], priority: -3, ..known() }),
        project: Some(Project { id: Some(0), path: "acme/api".into(), groups: vec!["acme".into()] }),
        user: Some(User { id: Some(0), login: Some(String::new()) }),
        runner: Some(Runner {
            name: "r".into(),
            id: Some(0),
            r#type: Some(RunnerType::Group.into()),
            tags: Some(Strings::default()),
            run_untagged: Some(false),
            protected: Some(false),
            version: Some(String::new()),
            platform: Some(String::new()),
            executor: Some(String::new()),
        }),
        controller: "c".into(),
        scope: "group:acme".into(),
        dry_run: true,
        time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
        time_left: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
    };
    let form = to_json(&request);
    assert_eq!(form["runner"]["run_untagged"], false);
    assert_eq!(form["runner"]["tags"], json!([]));
    assert_eq!((form["time"].as_str(), form["time_left"].as_str()), (Some("1970-01-01T00:00:00Z"), Some("0s")));
    assert_eq!(serde_json::from_value::<AdmitRequest>(form).unwrap(), request);
}

#[test]
fn bytes_of_a_newer_version_are_read() {
    let mut bytes = Job { id: "j".into(), ..Job::default() }.encode_to_vec();
    bytes.extend_from_slice(b"\x92\xf7\x01\x05later");
    assert_eq!(Job::decode(bytes.as_slice()).unwrap().id, "j");
}
