//! The view under documents nobody thought of: it never panics, and no secret gets out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::SystemTime;

use jobgate_router::{Expose, MAX_DOCUMENT_BYTES, ProjectPath, Scope, question_from_document, read_documents};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Reads, and views what could be read under every kind of expose list; gives all that would get out.
fn everything(bytes: Vec<u8>) -> Vec<String> {
    let documents = match read_documents(&bytes.into(), "in", MAX_DOCUMENT_BYTES) {
        Ok(documents) => documents,
        Err(faults) => return vec![format!("{faults} {faults:?}")],
    };
    let lists = [&[][..], &["script"], &["*"], &["script", "*"]].map(|words| Expose::parse(words).unwrap());
    let mut out = Vec::new();
    for document in documents {
        out.push(format!("{document:?}"));
        for expose in &lists {
            match question_from_document(&document, None, SystemTime::UNIX_EPOCH, expose) {
                Ok(question) => out.push(serde_json::to_string(&question).unwrap()),
                Err(rejection) => out.push(format!("{rejection} {rejection:?}")),
            }
        }
    }
    out
}

/// Where a secret may stand in a document.
const SECRET_PLACES: usize = 12;

/// A GitLab job with a secret in one of the places where they stand, besides what its author wrote.
fn document(place: usize, secret: &str, author: &[(String, String)], image: &str) -> Value {
    let flags = |public: bool, masked: bool, file: bool| json!({"key": "HELD", "value": secret, "public": public, "masked": masked, "file": file});
    let mut variables: Vec<Value> =
        author.iter().map(|(key, value)| json!({"key": key, "value": value, "public": true})).collect();
    let mut gitlab = json!({
        "id": 1, "token": "another-token",
        "job_info": {"name": "n", "project_full_path": "acme/x"},
        "git_info": {"repo_url": "https://gitlab.example/acme/x.git"},
        "image": {"name": image}, "services": [{"name": image, "alias": "a,b"}],
        "steps": [{"name": "script", "script": ["make"]}],
    });
    match place {
        0 => gitlab["token"] = secret.into(),
        1 => gitlab["git_info"]["repo_url"] = format!("https://u:{secret}@gitlab.example/acme/x.git").into(),
        2 => variables.push(flags(true, true, false)),
        3 => variables.push(flags(true, false, true)),
        4 => variables.insert(0, flags(false, false, false)),
        5 => gitlab["credentials"] = json!([{"password": secret}]),
        6 => gitlab["dependencies"] = json!([{"token": secret}]),
        7 => variables.push(json!({"key": "HELD", "value": format!("https://{secret}@h/x"), "public": true})),
        8 => variables.push(json!({"key": "HELD", "value": format!("eyJh.eyJi.{secret}"), "public": true})),
        9 => gitlab["secrets"] = json!({"HELD": {"vault": {"server": {"auth": {"data": {"jwt": secret}}}}}}),
        10 => gitlab["image"]["name"] = format!("u:{secret}@reg.example/x").into(),
        _ => gitlab["inputs"] = json!([{"key": "HELD", "value": {"content": secret, "sensitive": true}}]),
    }
    gitlab["variables"] = variables.into();
    json!({"gitlab": gitlab, "tags": ["t"]})
}

/// Any JSON, with the keys that are read.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[$a-z{}@:/.é\u{0}-]{0,12}".prop_map(Value::from),
        Just(json!("acme/x")),
    ];
    let key = prop::sample::select(vec![
        "gitlab",
        "job",
        "project",
        "payload",
        "user",
        "tags",
        "job_info",
        "git_info",
        "project_full_path",
        "path",
        "repo_url",
        "variables",
        "key",
        "value",
        "public",
        "image",
        "name",
        "services",
        "alias",
        "executor_opts",
        "docker",
        "steps",
        "script",
        "hooks",
        "run",
        "secrets",
        "cache",
        "artifacts",
        "paths",
        "credentials",
        "password",
        "Image",
        "x",
    ]);
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_secret_gets_out(
        place in 0..SECRET_PLACES,
        secret in "[A-Za-z0-9]{12,40}",
        author in prop::collection::vec(("(HELD|A|B|CI_ENVIRONMENT_NAME|CI_JOB_NAME)", "[a-z$A-Z{}:/.@]{0,20}"), 0..6),
        image in "(alpine:)?[$]?[{]?(HELD|A|B|x)[}]?(:[$](HELD|A|B))?",
    ) {
        let secret = format!("s3cr3t{secret}");
        let document = document(place, &secret, &author, &image);
        for out in everything(document.to_string().into_bytes()) {
            prop_assert!(!out.contains(&secret), "place {}: {}", place, out);
        }
        let listed = everything(serde_json::to_vec_pretty(&json!([document])).unwrap());
        prop_assert!(listed.iter().all(|out| !out.contains(&secret)));
    }

    #[test]
    fn any_json_is_read_or_refused(value in any_json()) {
        everything(value.to_string().into_bytes());
        everything(json!({"gitlab": value.clone()}).to_string().into_bytes());
        everything(json!({"job": value, "project": {"path": "acme/x"}}).to_string().into_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[\\[{}\\]:,\"'a-z0-9 \n$&*!-]{0,80}") {
        everything(bytes);
        everything(text.into_bytes());
    }

    #[test]
    fn a_scope_covers_by_whole_segments(group in "[a-c]{1,2}(/[a-c]{1,2}){0,2}", project in "[a-cA-C]{1,2}(/[a-cA-C]{1,2}){1,3}") {
        let scope: Scope = format!("group:{group}").parse().unwrap();
        let path: ProjectPath = project.parse().unwrap();
        let lower = project.to_lowercase();
        let (ours, theirs): (Vec<_>, Vec<_>) = (group.split('/').collect(), lower.split('/').collect());
        prop_assert_eq!(scope.covers(&path, None), theirs.len() > ours.len() && theirs.starts_with(&ours));
        prop_assert_eq!(scope.covers(&path, None), path.groups().any(|own| Scope::Group(own) == scope));
    }
}
