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

/// Tokens, masked values and credentials that must never come out.
const SECRETS: [&str; 5] =
    ["glcbt-secret-token", "hunter2-masked", "hunter2-file", "hunter2-private", "hunter2-registry"];

fn gitlab_job() -> Value {
    let variable = |key: &str, value: &str, public: bool, masked: bool, file: bool| json!({ "key": key, "value": value, "public": public, "masked": masked, "file": file, "raw": false });
    json!({ "gitlab": {
        "id": 4711, "token": "glcbt-secret-token", "allow_git_fetch": true,
        "job_info": { "name": "deploy", "stage": "deploy", "project_id": 7, "project_full_path": "acme/api", "user_id": 3 },
        "git_info": {
            "repo_url": "https://gitlab-ci-token:glcbt-secret-token@gitlab.example.com/acme/api.git",
            "ref": "main", "sha": "abc", "ref_type": "branch", "protected": true
        },
        "runner_info": { "timeout": 60 },
        "variables": [
            variable("CI_JOB_TOKEN", "glcbt-secret-token", false, true, false),
            variable("MASKED", "hunter2-masked", true, true, false),
            variable("KUBECONFIG", "hunter2-file", true, false, true),
            variable("PRIVATE", "hunter2-private", false, false, false),
            variable("OPEN", "fine", true, false, false)
        ],
        "steps": [{ "name": "script", "script": ["echo $MASKED"], "timeout": 60, "when": "on_success", "allow_failure": false }],
        "image": { "name": "alpine:$MASKED" },
        "credentials": [{ "type": "registry", "url": "r.example", "username": "u", "password": "hunter2-registry" }]
    }, "tags": [] })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_a_job_comes_out_anywhere() {
    let site = Site::new();
    // A policy that says everything it is told, even the script.
    site.file(
        "tell.rego",
        "package jobgate\n\n# METADATA\n# custom:\n#   needs: [job, project, user]\ndeny contains message if {\n\tmessage := sprintf(\"told: %v\", [[input.job, input.project, input.user]])\n}\n\n\
         warn contains message if {\n\tsome line in input.job.script\n\tmessage := line.text\n}\n",
    );
    site.file("ci.token", TOKEN);
    site.file(
        "jobgate.yaml",
        "listen: 127.0.0.1:0\ndecision_log: { path: decisions.jsonl }\ncontrollers:\n  - { name: tell, scope: instance, \
         policy: tell.rego, expose: [script, OPEN, MASKED, PRIVATE, KUBECONFIG] }\ntokens:\n  \
         - { name: ci, token_file: ci.token, may: [submit, read, operate] }\n",
    );
    let router = site.start("jobgate.yaml").await;
    let (status, submitted) = router.post("/v1/jobs", TOKEN, &gitlab_job()).await;
    assert_eq!(status, 201, "{submitted}");
    let id = submitted["jobs"][0]["id"].as_str().unwrap().to_owned();
    let record = eventually_final(&router, TOKEN, &id).await;
    assert_eq!(record["state"], "rejected");
    assert!(record["reason"].as_str().unwrap().contains("told: "), "{record}");
    let mut seen = record.to_string();
    for path in ["/v1/decisions", "/v1/jobs", "/v1/controllers", "/v1/runners", "/v1/queue"] {
        seen.push_str(&router.get(path, TOKEN).await.1.to_string());
    }
    for path in ["/metrics", "/readyz"] {
        seen.push_str(&router.text(path, TOKEN).await);
    }
    router.stop().await;
    let exported = std::fs::read_to_string(site.path().join("decisions.jsonl")).unwrap();
    assert!(exported.contains(&id), "decisions are exported: {exported}");
    seen.push_str(&exported);
    for secret in SECRETS {
        assert!(!seen.contains(secret), "{secret} is in {seen}");
    }
    assert!(!seen.contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_configuration_are_reloaded_and_faulty_ones_change_nothing() {
    let site = Site::new();
    site.file("p.yaml", include_str!("data/group.yaml"));
    site.file("ci.token", TOKEN);
    let config = |state: &str| {
        format!(
            "listen: 127.0.0.1:0\ncontrollers:\n  - {{ name: p, scope: instance, policy: p.yaml, state: {state} }}\n\
             tokens:\n  - {{ name: ci, token_file: ci.token, may: [submit, read, operate] }}\n"
        )
    };
    site.file("jobgate.yaml", &config("enabled"));
    let router = site.start("jobgate.yaml").await;
    let rejected = async || {
        let (status, answer) = router.post("/v1/jobs", TOKEN, &job("acme/api", "x", "alpine:3.20")).await;
        assert_eq!(status, 201, "{answer}");
        router.settled(TOKEN, answer["jobs"][0]["id"].as_str().unwrap()).await["state"] == "rejected"
    };
    assert!(rejected().await);

    // Another policy: published.
    let version = router.policy_version(TOKEN).await;
    site.file("p.yaml", &include_str!("data/group.yaml").replace("registry.acme.example", "docker.io"));
    router.until(TOKEN, |controller| controller["policy_version"] != version.as_str()).await;
    assert!(!rejected().await);

    // A faulty one: the version before goes on, marked stale.
    let version = router.policy_version(TOKEN).await;
    site.file("p.yaml", "apiVersion: jobgate/v1\nkind: Polizy\n");
    router.until(TOKEN, |controller| controller["stale"] == true).await;
    assert_eq!(router.policy_version(TOKEN).await, version);
    assert!(!rejected().await);

    // A faulty configuration changes nothing; a good one is taken.
    let parse = |text: &str| jobgate_router::config::Config::parse(&jobgate_yaml::Source::new("c", text), site.path());
    assert!(parse(&config("enabledd")).is_err());
    site.file("q.yaml", "nonsense");
    let broken = parse(&config("enabled").replace("p.yaml", "q.yaml")).unwrap();
    assert!(router.reloader.reload(broken).await.is_err());
    assert!(!rejected().await);
    site.file("q.yaml", include_str!("data/group.yaml"));
    let good = parse(&config("enabled").replace("p.yaml", "q.yaml")).unwrap();
    assert_eq!(router.reloader.reload(good).await.unwrap(), Vec::<&str>::new());
    assert!(rejected().await);

    let config = config("enabled").replace("p.yaml", "q.yaml");
    // What takes effect at once, and what waits for a restart.
    let scheduling = "spillover_hold: 0s\npriorities:\n  - { class: 5, refs: [main] }\nfairness:\n  \
                      - { projects: [\"acme/**\"], weight: 2 }\nrunner_groups:\n  - { name: deployers, single_leader: true }\n";
    let at_once = parse(&format!("{config}{scheduling}")).unwrap();
    assert_eq!(router.reloader.reload(at_once).await.unwrap(), Vec::<&str>::new());
    let later = parse(&format!("{config}{scheduling}retention: 1h\nstate: elsewhere\nmax_jobs: 7\n"));
    assert_eq!(router.reloader.reload(later.unwrap()).await.unwrap(), ["state", "max_jobs", "retention"]);
    router.stop().await;
}
