//! What is asked of GitLab for a runner, and what it is answered.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    gitlab::{Answer, Endpoint, Gate, JobBuilder, Outage},
    gitlab_runner::{Code, FakeRunner, Heard, Polled, Way},
    site::{Setup, TOKEN, World, poll_body, soon},
};

/// As runners number their calls: 32 hexadecimal digits, never the same.
const CALL: &str = "5f0c9a3d1b7e42d68c90ab12cd34ef56";

#[tokio::test]
async fn row_12_a_job_has_the_right_content_type_whatever_gitlab_says() {
    let world = World::new().await;
    for (id, kind) in [(1, "text/html"), (2, "application/octet-stream"), (3, "")] {
        world.gitlab.answers([Answer::ContentType(kind)]);
        let document = JobBuilder::new(id).build();
        world.gitlab.enqueue(document.clone());
        // With another one the runner would drop the job, and say nothing.
        let job = world.runner().poll().await.job();
        assert_eq!(job.bytes, document.bytes);
        let kinds: Vec<_> = job.headers.get_all("content-type").iter().collect();
        assert_eq!(kinds, ["application/json"]);
    }
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_14_unknown_options_of_executors_are_the_runners_business() {
    let world = World::new().await;
    let options = json!({ "docker": { "platform": "amd64", "zz": 1 }, "zz": { "a": null } });
    let image = json!({ "name": "alpine:3.22", "executor_opts": options, "ports": [] });
    let document = JobBuilder::new(17).set("/image", image).build();
    world.gitlab.enqueue(document.clone());
    assert_eq!(world.runner().poll().await.job().bytes, document.bytes);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_15_only_a_token_that_gitlab_refuses_is_answered_403() {
    let world = World::new().await;
    let stranger = FakeRunner::new(world.jobgate.url(""), "glrt-stranger");
    assert!(matches!(stranger.poll().await, Polled::Unhealthy(Code::Http(403))));
    let runner = world.runner();
    let mut statuses = vec![400, 401, 404, 409, 410, 418, 422, 300, 302, 200];
    statuses.extend([500, 501, 502, 503, 504, 520]);
    for status in statuses {
        for endpoint in [Endpoint::Verify, Endpoint::Request] {
            // The first is asked for a token that is not known yet.
            world.gitlab.script(endpoint, (0..5).map(|_| Answer::Status(status)));
        }
        let token = format!("glrt-{status}");
        world.gitlab.runner(&token);
        let polled = FakeRunner::new(world.jobgate.url(""), &token).poll().await;
        assert!(!matches!(polled, Polled::Unhealthy(_)), "{status} to verify: {polled:?}");
        let polled = runner.poll().await;
        assert!(!matches!(polled, Polled::Unhealthy(_)), "{status} to a poll: {polled:?}");
        world.gitlab.quiet();
    }
    world.gitlab.outage(Outage::Refuse).await;
    assert!(matches!(runner.poll().await, Polled::Failed(Code::Http(503))));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_20_a_call_that_is_repeated_gets_the_same_job_and_no_second_one() {
    let world = World::new().await;
    world.gitlab.enqueue(JobBuilder::new(1).build());
    world.gitlab.enqueue(JobBuilder::new(2).build());
    let first = world.poll_as(CALL).await.bytes().await.unwrap();
    // Its answer was lost between us and the runner, which asks again within the same call.
    let again = world.poll_as(CALL).await;
    assert_eq!((again.status().as_u16(), again.headers()["content-type"].to_str().unwrap()), (201, "application/json"));
    assert_eq!(again.bytes().await.unwrap(), first);
    assert_eq!(world.gitlab.count(Endpoint::Request), 1);
    // Another manager with the same token is somebody else.
    let other = world.call("POST", "/api/v4/jobs/request").header("x-request-id", CALL);
    let mut body = poll_body();
    body["system_id"] = "s_ba9876543210".into();
    let other: Value = other.json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!(other["id"], 2);
    // Once the runner has said that it has the job, that is over.
    let runner = world.runner();
    let mut job = crate::site::picked(&JobBuilder::new(1).build());
    assert_eq!(runner.accept(&mut job).await, Heard::GoOn);
    assert_eq!(world.poll_as(CALL).await.status(), 204);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_20_a_call_that_is_repeated_while_its_first_one_waits_leaves_no_job_behind() {
    let world = World::new().await;
    world.gitlab.enqueue(JobBuilder::new(1).build());
    let gate = Gate::new();
    world.gitlab.answers([Answer::DelayDelivery(gate.clone())]);
    tokio::select! {
        answer = world.poll_as(CALL) => panic!("it waits: {answer:?}"),
        () = gate.reached(1) => {}
    }
    assert_eq!(world.poll_as(CALL).await.status(), 204);
    gate.open();
    assert_eq!(world.gitlab.ended(1).await.failure_reason.as_deref(), Some("runner_system_failure"));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_20_a_call_that_is_repeated_when_its_chain_has_changed_gets_nothing_of_the_job() {
    let world = World::new().await;
    world.gitlab.enqueue(JobBuilder::new(1).build());
    assert_eq!(world.poll_as(CALL).await.status(), 201);
    let strict = crate::site::POLICY.replace("forbidden", "unit").replace("name: names", "name: strict");
    world.site.file("strict.yaml", &strict);
    world.reload(&Setup::new().controller("name: strict, scope: instance, policy: strict.yaml")).await;
    assert_eq!(world.poll_as(CALL).await.status(), 204);
    let ended = world.gitlab.ended(1).await;
    assert_eq!(ended.failure_reason.as_deref(), Some("runner_system_failure"));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_26_what_scripts_are_told_of_gitlab_stays() {
    let world = World::new().await;
    let url = "https://gitlab.acme.example/api/v4";
    world.gitlab.enqueue(JobBuilder::new(17).variable("CI_API_V4_URL", url).build());
    let job = world.runner().poll().await.job().document();
    let variables = job["variables"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["key"] == "CI_API_V4_URL" && variable["value"] == url));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_27_what_a_runner_says_of_itself_reaches_gitlab_whole() {
    let world = Setup::over_grpc().await;
    let info = json!({
        "name": "gitlab-runner", "version": "19.4.0", "revision": "d79f3e7b", "platform": "linux", "architecture": "amd64",
        "executor": "docker", "shell": "bash", "labels": { "region": "eu", "rack": "7" }, "config": { "gpus": "all" },
        "features": { "cancel_gracefully": true, "two_phase_job_commit": true, "image": false, "zz_new": true }, "zz_new": [1.50, null],
    });
    let body = json!({
        "zz": "\u{1f600}", "token": TOKEN, "system_id": "s_0123456789ab", "info": info, "last_update": "stale",
        "session": { "url": "https://10.0.0.7:8093", "certificate": "PEM", "authorization": "s3cret" },
    });
    // With white space, which a second writer would write otherwise.
    let text = serde_json::to_string_pretty(&body).unwrap();
    let call = world.call("POST", "/api/v4/jobs/request").header("runner-token", TOKEN).body(text.clone());
    assert_eq!(call.send().await.unwrap().status(), 204);
    let asked = world.gitlab.nth(Endpoint::Request, 1).await;
    assert_eq!(asked.body, text);
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(world.gitlab.nth(Endpoint::Verify, 1).await.json()["info"], info);

    let runner = world.runner().way(Way::Router).session(body["session"].clone());
    assert!(runner.poll().await.is_empty());
    let asked = world.gitlab.nth(Endpoint::Request, 2).await.json();
    assert_eq!(asked["info"]["features"].as_object().unwrap().len(), 31);
    assert_eq!(asked["session"], body["session"]);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_28_gitlab_is_told_the_runners_address_and_not_what_others_say_it_is() {
    let world = Setup::over_grpc().await;
    let call = world.call("POST", "/api/v4/jobs/request").header("x-forwarded-for", "8.8.8.8");
    let call =
        call.header("x-forwarded-for", "1.1.1.1").header("x-real-ip", "8.8.8.8").header("forwarded", "for=8.8.8.8");
    assert_eq!(call.json(&poll_body()).send().await.unwrap().status(), 204);
    assert!(world.runner().way(Way::Router).poll().await.is_empty());
    let calls = world.gitlab.all_calls();
    assert_eq!(calls.len(), 3);
    // Also with the question whose token it is: GitLab keeps the address of whatever comes first.
    for call in calls {
        let told: Vec<_> = call.headers.get_all("x-forwarded-for").iter().collect();
        assert_eq!(told, ["127.0.0.1"], "{:?}", call.endpoint);
        assert_eq!((call.header("x-real-ip"), call.header("forwarded")), (None, None));
    }
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_29_long_tokens_of_jobs_and_runners_go_through() {
    let world = World::new().await;
    let long = format!("glrt-{}", "x".repeat(14_000));
    world.gitlab.runner(&long);
    let jwt = format!("eyJ.{}", "y".repeat(12_000));
    for (id, name) in [(1, "unit"), (2, "forbidden")] {
        let mut document = JobBuilder::new(id).name(name).set("/token", jwt.clone()).build();
        document.token.clone_from(&jwt);
        world.gitlab.enqueue(document);
    }
    let runner = FakeRunner::new(world.jobgate.url(""), &long);
    let mut job = runner.poll().await.job();
    assert_eq!(runner.whole(&mut job).await, Some(200));
    assert!(runner.poll().await.is_empty());
    assert_eq!(world.gitlab.ended(2).await.failure_reason.as_deref(), Some("job_router_failure"));
    let within = tokio::time::Instant::now();
    soon("the end", world.jobgate.stop()).await;
    assert!(within.elapsed() < Duration::from_secs(10), "nothing is left open");
}
