//! The whole system in one process, seen from outside: a configuration file, policies of both languages, a dialled and an
//! attached controller, the native runner, and REST over a real socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use jobgate_sdk::{AdmissionRequest, Verdict, serve};
use serde_json::{Value, json};
use support::{Site, eventually_final};

const TOKEN: &str = "ci-token-0123456789abcdef";

fn job(project: &str, name: &str, image: &str) -> Value {
    json!({
        "job": { "name": name, "ref": "main", "protected": true, "image": { "name": image } },
        "project": { "path": project },
        "payload": { "script": ["echo hello from $WHO", "test \"$WHO\" = world"], "variables": { "WHO": "world" } }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_chain_of_all_kinds_of_controllers_and_a_runner_that_gets_admitted_jobs_only() {
    let dialled = serve(|request: AdmissionRequest| async move {
        match request.job().name.as_deref() {
            Some("forbidden") => Verdict::reject("this name is not for jobs").rule("names"),
            _ => Verdict::admit(),
        }
    });
    let dialled = dialled.listen("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap()).bind().await.unwrap();
    let dialled_at = dialled.local_addr();
    let _dialled = tokio::spawn(dialled.into_future());

    let site = Site::new();
    site.file("instance/policy.rego", include_str!("data/instance.rego"));
    site.file("group.yaml", include_str!("data/group.yaml"));
    site.file("ci.token", TOKEN);
    site.file("runner.token", "runner-token-0123456789");
    site.file("attached.token", "attached-token-0123456789");
    site.file(
        "jobgate.yaml",
        &format!(
            r#"
listen: 127.0.0.1:0
controllers:
  - {{ name: instance, scope: instance, policy: instance }}
  - {{ name: group, scope: "group:acme", policy: group.yaml }}
  - {{ name: names, scope: "project:acme/api", grpc: "http://{dialled_at}" }}
  - {{ name: attached, scope: "project:acme/api", attach: {{ token_file: attached.token }}, on_failure: wait }}
runners:
  - {{ name: r1, token_file: runner.token }}
tokens:
  - {{ name: ci, token_file: ci.token, may: [submit, read, operate] }}
"#
        ),
    );
    let router = site.start("jobgate.yaml").await;

    let attached = serve(|request: AdmissionRequest| async move {
        assert_eq!(request.scope(), "project:acme/api");
        Verdict::admit().warn("watched")
    });
    let attached = attached
        .named("attached")
        .attach(format!("http://{}", router.address), jobgate_sdk::Token::from_value("attached-token-0123456789"));
    let _attached = tokio::spawn(attached.into_future());
    let _runner = router.runner("runner-token-0123456789");

    let submitted = router
        .post(
            "/v1/jobs",
            TOKEN,
            &json!([
                job("acme/api", "build", "registry.acme.example/build:1"),
                job("acme/api", "latest", "registry.acme.example/build:latest"),
                job("acme/api", "foreign", "alpine:3.20"),
                job("acme/api", "forbidden", "registry.acme.example/build:1"),
                job("other/x", "free", "alpine:3.20"),
            ]),
        )
        .await;
    assert_eq!(submitted.0, 201, "{}", submitted.1);
    let ids: Vec<_> =
        submitted.1["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect();

    let mut records = Vec::new();
    for id in &ids {
        records.push(eventually_final(&router, TOKEN, id).await);
    }
    let summary: Vec<_> =
        records.iter().map(|record| (record["state"].as_str().unwrap(), record["reason"].as_str().unwrap())).collect();
    assert_eq!(
        summary,
        [
            ("success", ""),
            (
                "rejected",
                "rejected by instance (instance), rule pinned: registry.acme.example/build:latest is not pinned"
            ),
            (
                "rejected",
                "rejected by group (group:acme), rule images/own-registry: alpine:3.20 is not from our registry"
            ),
            ("rejected", "rejected by names (project:acme/api), rule names: this name is not for jobs"),
            ("success", ""),
        ]
    );
    assert_eq!(records[0]["runner"], "r1");

    let (status, decisions) = router.get(&format!("/v1/decisions?job={}", ids[0]), TOKEN).await;
    assert_eq!(status, 200);
    let verdicts = decisions["decisions"][0]["verdicts"].as_array().unwrap();
    let asked: Vec<_> = verdicts.iter().map(|verdict| verdict["controller"].as_str().unwrap()).collect();
    assert_eq!(asked, ["instance", "group", "names", "attached"]);
    assert_eq!(verdicts[3]["warnings"], json!(["watched"]));
    assert!(verdicts[0]["policy_version"].as_str().unwrap().starts_with("sha256:"), "{verdicts:?}");
    router.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_router_stops_at_once() {
    let site = Site::new();
    site.file("jobgate.yaml", "listen: 127.0.0.1:0\n");
    let router = site.start("jobgate.yaml").await;
    router.stop().await;
}
