//! The view, from outside: what a document says, what its author could have forged, and what must stay behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::SystemTime;

use jobgate_router::{
    Expose, JobDocument, MAX_DOCUMENT_BYTES, View, ViewRejection, question_from_document, read_documents, view,
};
use serde_json::{Value, json};

#[path = "view/images.rs"]
mod images;

const TOKEN: &str = "glcbt-64_Zx81qGh2Kp0vVtYw3";
const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhY21lIn0.c2lnbmF0dXJl";

fn read(document: &Value) -> JobDocument {
    let bytes = document.to_string().into();
    read_documents(&bytes, "job.json", MAX_DOCUMENT_BYTES).unwrap().remove(0)
}

fn viewed(document: &Value) -> View {
    view(&read(document), "j1").unwrap()
}

fn rejected(document: &Value) -> ViewRejection {
    view(&read(document), "j1").unwrap_err()
}

fn job(document: &Value) -> Value {
    serde_json::to_value(viewed(document).job()).unwrap()
}

fn exposed(document: &Value, words: &[&str]) -> Value {
    let expose = Expose::parse(words).unwrap();
    let question = question_from_document(&read(document), None, SystemTime::UNIX_EPOCH, &expose).unwrap();
    serde_json::to_value(question).unwrap()
}

fn public(key: &str, value: &str) -> Value {
    json!({"key": key, "value": value, "public": true})
}

/// A job as GitLab hands it out.
fn gitlab() -> Value {
    json!({
        "gitlab": {
            "id": 4_711,
            "token": TOKEN,
            "job_info": {
                "name": "deploy", "stage": "deploy", "project_id": 7, "project_full_path": "acme/payments/api",
                "pipeline_id": 99, "user_id": 12,
            },
            "git_info": {
                "repo_url": format!("https://gitlab-ci-token:{TOKEN}@gitlab.example/acme/payments/api.git"),
                "ref": "main", "sha": "d79f3e7b", "ref_type": "branch", "protected": true,
            },
            "runner_info": {"timeout": 600},
            "variables": [
                public("CI_PIPELINE_SOURCE", "push"),
                public("CI_ENVIRONMENT_NAME", "production"),
                public("GITLAB_USER_LOGIN", "ada"),
                {"key": "CI_JOB_TOKEN", "value": TOKEN, "public": false, "masked": true},
                {"key": "CI_REPOSITORY_URL", "value": format!("https://u:{TOKEN}@gitlab.example/a.git"), "public": false},
                public("DEPLOY_REGION", "eu-1"),
            ],
            "steps": [{"name": "script", "script": ["make", "make deploy"]}],
            "image": {"name": "alpine:3.20"},
            "services": [{"name": "postgres:16", "alias": "db,database pg"}],
            "artifacts": [{"paths": ["out/", "log"]}],
            "cache": [{"key": "k1", "fallback_keys": ["k0"]}],
            "credentials": [{"type": "registry", "url": "registry.example", "username": "u", "password": "registry-pass-77"}],
            "dependencies": [{"id": 1, "token": "dependency-token-88", "name": "build"}],
        },
        "tags": ["linux"],
    })
}

fn variables(document: &mut Value) -> &mut Vec<Value> {
    document["gitlab"]["variables"].as_array_mut().unwrap()
}

#[test]
fn facts_and_claims_of_a_gitlab_job() {
    let question = exposed(&gitlab(), &[]);
    let job = &question["job"];
    for (field, value) in [
        ("id", json!("job")),
        ("source_id", json!("4711")),
        ("name", json!("deploy")),
        ("stage", json!("deploy")),
        ("pipeline_id", json!(99)),
        ("source", json!("push")),
        ("ref", json!("main")),
        ("ref_type", json!("branch")),
        ("protected", json!(true)),
        ("sha", json!("d79f3e7b")),
        ("environment", json!("production")),
        ("tags", json!(["linux"])),
        ("timeout_seconds", json!(600)),
        ("artifact_paths", json!(["out/", "log"])),
        ("cache_keys", json!(["k1", "k0"])),
        ("secret_providers", json!([])),
        ("priority", json!(0)),
        ("claims", json!(["source", "environment", "user.login"])),
    ] {
        assert_eq!(job[field], value, "{field}");
    }
    assert_eq!(job["services"][0]["alias"], json!(["db", "database", "pg"]));
    assert_eq!(job["services"][0]["repository"], "library/postgres");
    assert_eq!(job.get("script"), None);
    assert_eq!(question["project"], json!({"id": 7, "path": "acme/payments/api", "groups": ["acme", "acme/payments"]}));
    assert_eq!(question["user"], json!({"id": 12, "login": "ada"}));
}

#[test]
fn what_nobody_says_is_unknown_and_not_guessed() {
    let minimal = json!({"gitlab": {"job_info": {"project_full_path": "acme/x"}, "git_info": {"protected": null}}});
    let question = exposed(&minimal, &["script", "*"]);
    let job = question["job"].as_object().unwrap();
    let unknown = [
        "source_id",
        "name",
        "stage",
        "pipeline_id",
        "source",
        "ref",
        "ref_type",
        "protected",
        "sha",
        "environment",
        "tags",
        "image",
    ];
    for field in unknown {
        assert_eq!(job.get(field), None, "{field}");
    }
    assert_eq!(job["timeout_seconds"], 7200, "what runners take");
    assert_eq!(question.get("user"), None);
    // Tags are not read from variables, which the author writes.
    let mut tagged = gitlab();
    tagged.as_object_mut().unwrap().remove("tags");
    variables(&mut tagged).push(public("CI_RUNNER_TAGS", "[\"linux\"]"));
    variables(&mut tagged).push(public("CI_COMMIT_REF_PROTECTED", "true"));
    tagged["gitlab"]["git_info"]["protected"] = Value::Null;
    let job = job_of(&tagged);
    assert_eq!((job.get("tags"), job.get("protected")), (None, None));
}

fn job_of(document: &Value) -> serde_json::Map<String, Value> {
    job(document).as_object().unwrap().clone()
}

#[test]
fn no_environment_is_known_and_nobodys_claim() {
    let mut document = gitlab();
    variables(&mut document).retain(|variable| variable["key"] != "CI_ENVIRONMENT_NAME");
    let job = job(&document);
    assert_eq!(job["environment"], "");
    assert_eq!(job["claims"], json!(["source", "user.login"]));
    // One whose value is a secret is not none.
    variables(&mut document).push(json!({"key": "CI_ENVIRONMENT_NAME", "value": "production", "public": false}));
    assert_eq!(job_of(&document).get("environment"), None);
}

#[test]
fn a_login_beside_the_response_is_no_claim() {
    let mut document = gitlab();
    document["user"] = json!({"login": "bob"});
    let question = exposed(&document, &[]);
    assert_eq!(question["user"], json!({"id": 12, "login": "bob"}));
    assert_eq!(question["job"]["claims"], json!(["source", "environment"]));
}

#[test]
fn a_predefined_variable_set_again_rejects_the_job_in_either_order() {
    let forgeries =
        [("CI_PIPELINE_SOURCE", "schedule"), ("CI_ENVIRONMENT_NAME", "test"), ("GITLAB_USER_LOGIN", "root")];
    for (key, forged) in forgeries {
        for first in [true, false] {
            let mut document = gitlab();
            let at = if first { 0 } else { variables(&mut document).len() };
            variables(&mut document).insert(at, public(key, forged));
            assert_eq!(rejected(&document), ViewRejection::PredefinedTwice(vec![key.into()]));
            assert!(
                rejected(&document).to_string().starts_with(&format!("`{key}` is set twice")),
                "{}",
                rejected(&document)
            );
            assert!(!rejected(&document).to_string().contains(forged));
        }
    }
    // Whatever its flags say, runners take it.
    for flags in
        [json!({"public": false}), json!({"public": true, "masked": true}), json!({"public": true, "file": true})]
    {
        let mut document = gitlab();
        let mut forged = public("CI_PIPELINE_SOURCE", "schedule");
        forged.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        variables(&mut document).push(forged);
        assert_eq!(rejected(&document), ViewRejection::PredefinedTwice(vec!["CI_PIPELINE_SOURCE".into()]));
    }
    // Again to the same value is no forgery, and the author's own keys are theirs.
    let mut document = gitlab();
    variables(&mut document).extend([public("CI_PIPELINE_SOURCE", "push"), public("DEPLOY_REGION", "us-1")]);
    assert_eq!(job(&document)["source"], "push");
}

#[test]
fn every_predefined_variable_set_again_is_named() {
    let mut document = gitlab();
    variables(&mut document).extend([public("CI_PIPELINE_SOURCE", "web"), public("GITLAB_USER_LOGIN", "root")]);
    let ViewRejection::PredefinedTwice(keys) = rejected(&document) else { panic!("another rejection") };
    assert_eq!(keys, ["CI_PIPELINE_SOURCE", "GITLAB_USER_LOGIN"]);
}

#[test]
fn the_projects_path_must_be_that_of_the_repository() {
    for (path, url, agrees) in [
        ("acme/x", "https://gitlab.example/acme/x.git", true),
        ("acme/x", "https://u:p@gitlab.example:8443/acme/x", true),
        ("acme/x", "https://gitlab.example/below/a/path/acme/x.git", true),
        ("ACME/x", "https://gitlab.example/acme/X.git?x#y", true),
        ("acme/x", "", true),
        ("acme/x", "https://gitlab.example/acme-evil/x.git", false),
        ("acme/x", "https://gitlab.example/evil-acme/x.git", false),
        ("acme/x", "https://gitlab.example/acme/x/y.git", false),
        ("acme/x", "https://gitlab.example/x.git", false),
        ("acme/x", "https://gitlab.example/acme/../acme/x/../y.git", false),
        ("acme/x", "https://gitlab.example/acme%2Fx.git", false),
        ("acme/x", "https://gitlab.example/evil?/acme/x.git", false),
        ("acme/x", "https://gitlab.example/evil#/acme/x.git", false),
        ("acme/x", "https://gitlab.example/acme/x.git.git", false),
    ] {
        let mut document = gitlab();
        document["gitlab"]["job_info"]["project_full_path"] = path.into();
        document["gitlab"]["git_info"]["repo_url"] = url.into();
        let result = view(&read(&document), "j1");
        assert_eq!(result.is_ok(), agrees, "{path} and {url}");
        if let Err(rejection) = result {
            assert_eq!(rejection, ViewRejection::ProjectDisagrees);
        }
    }
}

#[test]
fn who_started_it_must_be_said_once() {
    let mut document = gitlab();
    document["user"] = json!({"id": 13});
    assert_eq!(rejected(&document), ViewRejection::UserDisagrees);
}

#[test]
fn secrets_stay_behind_whatever_is_exposed() {
    let mut document = gitlab();
    variables(&mut document).extend([
        json!({"key": "MASKED", "value": "masked-value-1", "public": true, "masked": true}),
        json!({"key": "FILE", "value": "file-value-22", "public": true, "file": true}),
        json!({"key": "PRIVATE", "value": "private-value-3", "public": false}),
        public("ID_TOKEN", JWT),
        public("URL", "https://bob:hunter2hunter2@db.example/x"),
        public("COPY", "x-masked-value-1-x"),
        public("COPY2", "private-value-3"),
        public("CI_ENVIRONMENT_URL", "https://bob:hunter2hunter2@db.example"),
        public("SHOWN", "plain"),
    ]);
    document["gitlab"]["job_info"]["name"] = format!("job {TOKEN} {JWT}").into();
    document["gitlab"]["image"] = json!({"name": format!("user:hunter2hunter2@reg.example/x")});
    document["gitlab"]["services"] = json!([{"name": "$URL"}, {"name": format!("reg.example/x:{TOKEN}")}]);
    document["gitlab"]["cache"] = json!([{"key": format!("k-{JWT}")}]);
    document["gitlab"]["steps"][0]["script"] = json!([format!("curl -H 'JOB-TOKEN: {TOKEN}'"), "cat registry-pass-77"]);
    document["gitlab"]["inputs"] =
        json!([{"key": "i", "value": {"type": "string", "content": "input-secret", "sensitive": true}}]);
    let secrets = [
        TOKEN,
        JWT,
        "masked-value-1",
        "file-value-22",
        "private-value-3",
        "hunter2hunter2",
        "registry-pass-77",
        "dependency-token-88",
        "input-secret",
    ];
    for words in [&[][..], &["script"], &["*"], &["script", "*", "MASKED", "PRIVATE", "ID_TOKEN", "CI_JOB_TOKEN"]] {
        let question = exposed(&document, words).to_string();
        for secret in secrets {
            assert!(!question.contains(secret), "{secret} with {words:?} in {question}");
        }
    }
    let debug = format!("{:?} {:?}", read(&document), viewed(&document));
    assert!(secrets.iter().all(|secret| !debug.contains(secret)), "{debug}");
    let question = exposed(&document, &["*"]);
    assert_eq!(variable(&question, "SHOWN")["value"], "plain");
    assert_eq!(question["job"]["image"]["name"], "[redacted]");
}

fn variable(question: &Value, key: &str) -> Value {
    let variables = question["job"]["variables"].as_array().unwrap();
    variables.iter().find(|variable| variable["key"] == key).unwrap().clone()
}

#[test]
fn values_are_sent_as_exposed_and_keys_always() {
    let document = gitlab();
    let plain = exposed(&document, &[]);
    assert_eq!(
        variable(&plain, "DEPLOY_REGION"),
        json!({"key": "DEPLOY_REGION", "public": true, "masked": false, "file": false})
    );
    assert_eq!(variable(&plain, "CI_PIPELINE_SOURCE")["value"], "push");
    assert_eq!(variable(&plain, "CI_JOB_TOKEN").get("value"), None);
    assert_eq!(variable(&exposed(&document, &["DEPLOY_*"]), "DEPLOY_REGION")["value"], "eu-1");
    assert_eq!(variable(&exposed(&document, &["OTHER"]), "DEPLOY_REGION").get("value"), None);
}

#[test]
fn a_private_variable_cannot_hide_what_gitlab_says() {
    let mut document = gitlab();
    variables(&mut document).push(json!({"key": "DEPLOY_TO", "value": "production", "public": false, "masked": true}));
    let question = exposed(&document, &[]);
    assert_eq!(question["job"]["environment"], "production");
    assert_eq!(variable(&question, "CI_ENVIRONMENT_NAME")["value"], "production");
}

#[test]
fn the_script_is_every_hook_run_and_step_with_its_place() {
    let mut document = gitlab();
    document["gitlab"]["hooks"] = json!([{"name": "pre_get_sources_script", "script": ["env"]}]);
    document["gitlab"]["run"] = "[{\"name\":\"s\",\"script\":\"id\"}]".into();
    document["gitlab"]["steps"] = json!([
        {"name": "script", "script": ["make", "make deploy"]}, {"name": "after_script", "script": ["rm -r x"]},
    ]);
    let lines: Vec<_> = exposed(&document, &["script"])["job"]["script"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["place"].as_str().unwrap().to_owned(), line["text"].as_str().unwrap().to_owned()))
        .collect();
    let line = |place: &str, text: &str| (place.to_owned(), text.to_owned());
    assert_eq!(
        lines,
        [
            line("hooks.pre_get_sources_script.script[0]", "env"),
            line("run", "[{\"name\":\"s\",\"script\":\"id\"}]"),
            line("steps.script.script[0]", "make"),
            line("steps.script.script[1]", "make deploy"),
            line("steps.after_script.script[0]", "rm -r x"),
        ]
    );
}

#[test]
fn jobs_are_shared_between_controllers_that_see_the_same() {
    let view = viewed(&gitlab());
    let script = Expose::parse(["script"]).unwrap();
    let same = |one: &Expose, other: &Expose| std::sync::Arc::ptr_eq(&view.subject(one).job, &view.subject(other).job);
    assert!(same(&Expose::default(), &Expose::default()) && same(&script, &script.clone()));
    assert!(!same(&Expose::default(), &script));
    let view = viewed(&gitlab()).with_priority(7);
    assert_eq!((view.subject(&script).job.priority, view.job().priority), (7, 7));
}

#[test]
fn a_native_document_states_its_facts() {
    let document = json!({
        "job": {
            "id": "mine", "priority": 99, "claims": ["x"], "source_id": "s9", "name": "build", "stage": "test", "pipeline_id": 5,
            "source": "push", "ref": "v1", "ref_type": "tag", "protected": false, "sha": "abc", "environment": "", "tags": [],
            "image": {"name": "reg.example/x:$V", "user": 0, "resolved": "forged/x", "unresolved": false},
            "services": ["redis", {"name": "postgres:16", "alias": ["db"]}],
            "variables": [public("V", "2"), public("CI_PIPELINE_SOURCE", "web"), {"key": "S", "value": "s3cret-value"}],
            "timeout_seconds": 60, "artifact_paths": ["o"], "cache_keys": ["c"], "secret_providers": ["vault"],
            "script": ["make", {"place": "after", "text": "clean"}], "retry_on_lost": true,
        },
        "project": {"id": 3, "path": "acme/x", "groups": ["forged"]},
        "user": {"id": 1, "login": "ada"},
    });
    assert!(read(&document).retry_on_lost());
    let question = exposed(&document, &["script", "*"]);
    assert_eq!(question["project"], json!({"id": 3, "path": "acme/x", "groups": ["acme"]}));
    assert_eq!(question["user"], json!({"id": 1, "login": "ada"}));
    let job = &question["job"];
    for (field, value) in [
        ("id", json!("job")),
        ("priority", json!(0)),
        ("claims", json!([])),
        ("source", json!("push")),
        ("protected", json!(false)),
        ("ref_type", json!("tag")),
        ("environment", json!("")),
        ("tags", json!([])),
        ("timeout_seconds", json!(60)),
        ("secret_providers", json!(["vault"])),
        ("script", json!([{"place": "script[0]", "text": "make"}, {"place": "after", "text": "clean"}])),
    ] {
        assert_eq!(job[field], value, "{field}");
    }
    assert_eq!((&job["image"]["resolved"], &job["image"]["user"]), (&json!("reg.example/x:2"), &json!("0")));
    assert_eq!(job["services"][1]["alias"], json!(["db"]));
    assert!(!question.to_string().contains("s3cret"));
}

#[test]
fn a_payload_is_listed_where_the_job_says_nothing() {
    let document = json!({
        "job": {"name": "build"}, "project": {"path": "acme/x"},
        "payload": {"script": ["make"], "variables": {"A": "secret-by-default", "B": {"value": "b", "public": true}}, "other": [1, {}]},
    });
    let question = exposed(&document, &["script", "*"]);
    assert_eq!(question["job"]["script"], json!([{"place": "payload.script[0]", "text": "make"}]));
    assert_eq!(variable(&question, "A").get("value"), None);
    assert_eq!(variable(&question, "B")["value"], "b");
    let own = json!({"job": {"script": ["mine"]}, "project": {"path": "a/x"}, "payload": {"script": "theirs"}});
    assert_eq!(exposed(&own, &["script"])["job"]["script"][0]["text"], "mine");
}
