use super::support::{ALL, READER, Setup, document};

#[tokio::test]
async fn a_job_is_submitted_looked_at_and_canceled() {
    let world = Setup::guarded().start().await;
    let answer = world.post("/v1/jobs", ALL, &document("acme/api")).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.headers["cache-control"], "no-store");
    let id = answer.json()["jobs"][0]["id"].as_str().unwrap().to_owned();

    let record = world.get(&format!("/v1/jobs/{id}"), ALL).await.json();
    assert_eq!(record["project"], "acme/api");
    let list = world.get("/v1/jobs?project=ACME/api&limit=5", ALL).await.json();
    assert_eq!(list["jobs"][0]["id"], id.as_str());
    assert_eq!(list["next_page_token"], "");

    let canceled = world.http("POST", &format!("/v1/jobs/{id}/cancel"), ALL, "", "").await.json();
    assert_eq!(canceled["state"], "canceled");
    assert!(canceled["reason"].as_str().unwrap().contains("all"), "names the token: {canceled}");
    let again = world.http("POST", &format!("/v1/jobs/{id}/cancel"), ALL, "", "").await;
    assert_eq!((again.status, again.code().as_str()), (409, "already_finished"));

    let decisions = world.get(&format!("/v1/decisions?job={id}"), ALL).await.json();
    assert!(decisions["decisions"].is_array());
    assert_eq!(world.get("/v1/jobs?state=canceled", ALL).await.json()["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(world.get("/v1/jobs?state=running&state=failed", ALL).await.json()["jobs"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn nothing_of_a_document_is_in_any_answer() {
    const SECRET: &str = "hunter2-hunter2";
    let world = Setup::guarded().start().await;
    let document = serde_json::json!({ "gitlab": {
        "id": 7, "token": SECRET, "allow_git_fetch": true,
        "job_info": { "id": 7, "name": "build", "stage": "test", "project_id": 3, "project_full_path": "acme/api" },
        "git_info": { "repo_url": format!("https://gitlab-ci-token:{SECRET}@gitlab.example/acme/api.git"), "ref": "main",
            "sha": "abc", "ref_type": "branch" },
        "variables": [
            { "key": "CI_PROJECT_PATH", "value": "acme/api", "public": true, "masked": false },
            { "key": "PASSWORD", "value": SECRET, "public": false, "masked": true }
        ],
        "steps": [{ "name": "script", "script": [format!("echo {SECRET}")] }]
    } });
    let answer = world.post("/v1/jobs", ALL, &document.to_string()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.json()["jobs"][0]["id"].as_str().unwrap().to_owned();
    let broken = world.post("/v1/jobs", ALL, &document.to_string().replace("\"id\":7", "\"id\":[7]")).await;
    let mut texts = vec![answer.body, broken.body];
    for path in ["/v1/jobs", "/v1/decisions", "/v1/queue", "/v1/runners", "/v1/controllers", "/metrics", "/readyz"] {
        texts.push(world.get(path, ALL).await.body);
    }
    texts.push(world.get(&format!("/v1/jobs/{id}"), ALL).await.body);
    for text in texts {
        for secret in [SECRET, ALL, super::support::RUNNER, super::support::CONTROLLER, "script"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

#[tokio::test]
async fn bad_documents_are_refused_with_all_their_faults_and_without_their_words() {
    let world = Setup::guarded().start().await;
    for (body, part) in [
        ("{", "documents:"),
        ("[]", "no job document"),
        ("{\"job\": {}, \"job\": {}}", "job"),
        ("{\"job\": {\"name\": \"secret-word\"}}", "project"),
        ("{\"project\": {\"path\": \"../secret-word\"}, \"job\": {}}", "path"),
        ("secret-word", "documents:1:1"),
        ("\u{0}", "documents"),
    ] {
        let answer = world.post("/v1/jobs", ALL, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid"), "{body}: {answer:?}");
        assert!(answer.json()["error"]["faults"][0].as_str().unwrap().contains(part), "{body}: {answer:?}");
        assert!(!answer.body.contains("secret-word"), "{answer:?}");
    }
    let two = world.post("/v1/jobs", ALL, "[{\"project\": {\"path\": 1}}, {\"project\": {\"path\": \"a//b\"}}]").await;
    assert!(two.json()["error"]["faults"].as_array().unwrap().len() >= 2, "{two:?}");
    assert_eq!(world.get("/v1/jobs", ALL).await.json()["jobs"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn only_documents_are_taken_as_documents() {
    let world = Setup::guarded().start().await;
    let status = async |kind: &str| world.http("POST", "/v1/jobs", ALL, kind, &document("a/b")).await;
    for kind in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""] {
        let answer = status(&format!("content-type: {kind}\r\n")).await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"), "{kind}");
    }
    for kind in ["content-type: application/yaml\r\n", "content-type: Application/JSON; charset=utf-8\r\n", ""] {
        assert_eq!(status(kind).await.status, 201, "{kind}");
    }
}

#[tokio::test]
async fn a_repeated_submission_is_harmless_under_a_key() {
    let world = Setup::guarded().start().await;
    let submit = async |key: &str, project: &str| {
        let headers = format!("content-type: application/json\r\n{key}");
        world.http("POST", "/v1/jobs", ALL, &headers, &document(project)).await
    };
    let key = "idempotency-key: build-17\r\n";
    let (first, second) = (submit(key, "a/b").await, submit(key, "a/b").await);
    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.json()["jobs"][0]["id"], second.json()["jobs"][0]["id"]);
    let other = submit(key, "a/c").await;
    assert_eq!((other.status, other.code().as_str()), (409, "idempotency_key_reused"));
    assert_eq!(submit(&format!("idempotency-key: {}\r\n", "k".repeat(256)), "a/b").await.status, 400);
    assert_eq!(submit(&format!("idempotency-key: {}\r\n", "k".repeat(255)), "a/b").await.status, 201);
    assert_eq!(submit("idempotency-key: \r\n", "a/b").await.status, 400);
    assert_eq!(submit(&format!("{key}{key}"), "a/b").await.status, 400);
}

#[tokio::test]
async fn what_is_not_there_or_not_asked_so_is_said_in_json() {
    let world = Setup::guarded().start().await;
    for (method, path, status, code) in [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/jobs/0123", 404, "not_found"),
        ("GET", "/v1/jobs/%2e%2e%2fetc", 404, "not_found"),
        ("GET", "/v1/decisions?job=0123", 404, "not_found"),
        ("DELETE", "/v1/jobs", 405, "method_not_allowed"),
        ("PUT", "/v1/jobs/x/cancel", 405, "method_not_allowed"),
        ("POST", "/api/v4/jobs/request", 501, "not_implemented"),
        ("GET", "/api/v4/runners", 501, "not_implemented"),
        ("GET", "/v1/jobs?stat=running", 400, "invalid"),
        ("GET", "/v1/jobs?state=runing", 400, "invalid"),
        ("GET", "/v1/jobs?limit=0", 400, "invalid"),
        ("GET", "/v1/jobs?limit=1001", 400, "invalid"),
        ("GET", "/v1/jobs?limit=x", 400, "invalid"),
        ("GET", "/v1/jobs?limit=1&limit=2", 400, "invalid"),
        ("GET", "/v1/jobs?project=../x", 400, "invalid"),
        ("GET", "/v1/jobs?page_token=%00", 400, "invalid"),
        ("GET", "/v1/jobs?state=%ff", 400, "invalid"),
        ("GET", "/v1/queue?x", 400, "invalid"),
        ("POST", "/v1/jobs?dry_run=true", 400, "invalid"),
    ] {
        let answer = world.http(method, path, ALL, "", "").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {path}");
    }
    let unknown = world.get("/v1/jobs?stat=running&x=1", ALL).await.json();
    assert_eq!(unknown["error"]["faults"][0], "unknown parameter `stat`; did you mean `state`?");
    assert_eq!(unknown["error"]["faults"][1], "unknown parameter `x`");
    let wrong = world.http("DELETE", "/v1/jobs", ALL, "", "").await;
    assert!(wrong.headers["allow"].contains("POST"), "{wrong:?}");
    // A stranger learns neither which paths there are, nor that GitLab is not served without a reason.
    assert_eq!(world.get("/v1/nothing", "").await.status, 401);
    assert_eq!(world.get("/api/v4/runners", "").await.status, 501);
}

#[tokio::test]
async fn a_full_queue_says_try_again_later() {
    let mut setup = Setup::guarded();
    setup.config.max_jobs = 1;
    let world = setup.start().await;
    world.submit(ALL, "a/b").await;
    let full = world.post("/v1/jobs", ALL, &document("a/b")).await;
    assert_eq!((full.status, full.code().as_str()), (429, "queue_full"));
    assert_eq!(full.headers["retry-after"], "5");
}

#[tokio::test]
async fn controllers_runners_and_the_queue_are_shown() {
    let world = Setup::guarded().start().await;
    let controllers = world.get("/v1/controllers", READER).await.json();
    assert_eq!(controllers["controllers"][0]["name"], "quota");
    assert_eq!(controllers["controllers"][0]["matched_jobs"], 3);
    let runners = world.get("/v1/runners", READER).await.json();
    assert_eq!((&runners["runners"][0]["name"], &runners["runners"][0]["state"]), (&"gpu-1".into(), &"offline".into()));
    assert!(world.get("/v1/queue", READER).await.json()["jobs"].is_object());
}

#[tokio::test]
async fn readiness_follows_its_conditions_and_names_absent_controllers() {
    let world = Setup::guarded().start().await;
    let ready = world.get("/readyz", "").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &true.into()));
    assert_eq!(ready.json()["absent_controllers"][0], "quota");
    world.readiness.set_store(false);
    let broken = world.get("/readyz", "").await;
    assert_eq!((broken.status, &broken.json()["store"]), (503, &false.into()));
    assert!(world.get("/metrics", "").await.body.contains("\njobgate_ready 0\n"));
    assert_eq!(world.get("/healthz", "").await.status, 200, "alive is not ready");
    world.readiness.set_store(true);
    assert_eq!(world.get("/readyz", "").await.status, 200);
}

#[tokio::test]
async fn metrics_are_counted_and_scraped() {
    let world = Setup::guarded().start().await;
    world.submit(ALL, "a/b").await;
    world.metrics.question("quota", "admitted", std::time::Duration::from_millis(3));
    world.metrics.admission("rejected", "policy", std::time::Duration::from_millis(3));
    world.metrics.late_answer("quota");
    world.metrics.store_error();
    world.metrics.export_error(2);
    let text = world.get("/metrics", "").await.body;
    for line in [
        "jobgate_questions_total{controller=\"quota\",outcome=\"admitted\"} 1",
        "jobgate_question_duration_seconds_bucket{le=\"0.005\",controller=\"quota\"} 1",
        "jobgate_question_duration_seconds_bucket{le=\"0.0025\",controller=\"quota\"} 0",
        "jobgate_admissions_total{decision=\"rejected\",cause=\"policy\"} 1",
        "jobgate_late_answers_total{controller=\"quota\"} 1",
        "jobgate_store_errors_total 1",
        "jobgate_export_errors_total 1",
        "jobgate_exports_lost_total 2",
        "jobgate_controller_attached{controller=\"quota\"} 0",
        "jobgate_policy{controller=\"quota\",version=\"v7\"} 1",
        "jobgate_runner_streams{runner=\"gpu-1\"} 0",
        "jobgate_connections 1",
        "jobgate_ready 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("jobgate_jobs{state="), "{text}");
}
