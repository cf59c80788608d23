//! A job's life after its delivery, all of it through jobgate.

use bytes::Bytes;
use serde_json::json;

use crate::{
    gitlab::{Answer, Endpoint, JobBuilder, Outage, Settings, Status},
    gitlab_runner::{Heard, Picked},
    site::{Setup, TOKEN, World, picked},
};

/// A job that its runner has taken up.
async fn running(world: &World, id: u64) -> Picked {
    world.gitlab.enqueue(JobBuilder::new(id).build());
    let runner = world.runner();
    let mut job = runner.poll().await.job();
    assert_eq!(runner.accept(&mut job).await, Heard::GoOn);
    job
}

fn put(world: &World, job: &Picked, state: &str) -> reqwest::RequestBuilder {
    let call = world.call("PUT", &format!("/api/v4/jobs/{}", job.id));
    call.json(&json!({ "token": job.token, "state": state }))
}

fn patch(world: &World, job: &Picked, range: &str, text: &'static str) -> reqwest::RequestBuilder {
    let call = world.call("PATCH", &format!("/api/v4/jobs/{}/trace?debug_trace=false", job.id));
    call.header("job-token", &job.token).header("content-type", "text/plain").header("content-range", range).body(text)
}

fn said<'a>(response: &'a reqwest::Response, header: &str) -> Option<&'a str> {
    response.headers().get(header).and_then(|value| value.to_str().ok())
}

#[tokio::test]
async fn row_16_trouble_of_ours_never_ends_a_job_and_gitlabs_word_does() {
    let world = World::new().await;
    let mut job = running(&world, 17).await;
    for outage in [Outage::Refuse, Outage::Status(500)] {
        world.gitlab.outage(outage).await;
        for call in [put(&world, &job, "running"), patch(&world, &job, "0-1", "a\n")] {
            let response = call.send().await.unwrap();
            assert!(response.status().is_server_error(), "{outage:?}: {response:?}");
            assert_eq!(said(&response, "job-status"), None);
        }
        world.gitlab.outage(Outage::Over).await;
    }
    let runner = world.runner();
    assert_eq!(runner.print(&mut job, b"a\n").await, Heard::GoOn);
    let response = put(&world, &job, "running").send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), said(&response, "job-status")),
        (200, Some("running")),
        "GitLab's own word"
    );
    world.gitlab.cancel_gracefully(17);
    assert_eq!(runner.print(&mut job, b"b\n").await, Heard::Canceling);
    world.gitlab.cancel(17);
    assert_eq!(runner.keep_alive(&mut job).await, Heard::Abort);
    // Not there at all: 404 ends the job on PUT.
    let nobody = picked(&JobBuilder::new(99).build());
    assert_eq!(put(&world, &nobody, "running").send().await.unwrap().status(), 404);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_17_ranges_go_through_and_a_piece_sent_again_is_there_once() {
    let world = World::new().await;
    let mut job = running(&world, 17).await;
    let response = patch(&world, &job, "0-3", "abc\n").send().await.unwrap();
    assert_eq!((response.status().as_u16(), said(&response, "range")), (202, Some("0-4")));
    let response = patch(&world, &job, "9-12", "xyz\n").send().await.unwrap();
    assert_eq!((response.status().as_u16(), said(&response, "range")), (416, Some("0-4")));
    let asked = world.gitlab.nth(Endpoint::Trace, 2).await;
    assert_eq!((asked.header("content-range"), asked.header("content-length")), (Some("9-12"), Some("4")));
    // GitLab has it, and its answer is lost on the way: the runner repeats the call.
    job.trace.extend_from_slice(b"abc\n");
    job.sent = 4;
    world.gitlab.script(Endpoint::Trace, [Answer::Lost(502), Answer::BreakOff]);
    let runner = world.runner();
    assert_eq!(runner.print(&mut job, b"def\n").await, Heard::GoOn);
    assert_eq!(runner.finish(&mut job).await, Some(200));
    assert_eq!(world.gitlab.ended(17).await.trace_text(), "abc\ndef\n");
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_18_statuses_are_exactly_gitlabs() {
    let world = World::new().await;
    let runner = world.runner();
    assert_eq!(runner.verify().await.map(|(status, body)| (status, body["id"].clone())), Some((200, 1.into())));
    let job = running(&world, 17).await;
    assert_eq!(patch(&world, &job, "0-1", "a\n").send().await.unwrap().status(), 202);
    assert_eq!(runner.upload(&job, "a.zip", std::iter::once(Bytes::from_static(b"zip"))).await, Some(201));
    assert_eq!(put(&world, &job, "running").send().await.unwrap().status(), 200);
    assert_eq!(put(&world, &job, "odd").send().await.unwrap().status(), 400);
    assert_eq!(put(&world, &job, "success").send().await.unwrap().status(), 200);
    world.gitlab.script(Endpoint::Other, [Answer::Status(204)]);
    let left = world.call("DELETE", "/api/v4/runners/managers").json(&json!({ "token": TOKEN })).send().await.unwrap();
    assert_eq!((left.status().as_u16(), left.bytes().await.unwrap().len()), (204, 0));
    // The token is another one from here on; nobody here has to be told.
    let reset = world.call("POST", "/api/v4/runners/reset_authentication_token").json(&json!({ "token": TOKEN }));
    let reset = reset.send().await.unwrap();
    assert_eq!(reset.status(), 201);
    let reset: serde_json::Value = reset.json().await.unwrap();
    let renewed = crate::gitlab_runner::FakeRunner::new(world.jobgate.url(""), reset["token"].as_str().unwrap());
    world.gitlab.enqueue(JobBuilder::new(18).build());
    assert_eq!(renewed.poll().await.job().id, 18);
    assert_eq!(world.decisions(18).await[0]["runner"], "gpu-1", "the same runner under another token");
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_19_the_end_may_be_said_several_times() {
    let gitlab = Settings { live_trace: true, rewinds: 1, ..Settings::default() };
    let world = Setup { gitlab, ..Setup::new() }.start().await;
    let runner = world.runner();
    let mut job = running(&world, 17).await;
    assert_eq!(runner.run(&mut job).await, Heard::GoOn);
    // 412, then 202, then 200.
    assert_eq!(runner.finish(&mut job).await, Some(200));
    let ended = world.gitlab.ended(17).await;
    assert_eq!((ended.status, ended.trace == job.trace), (Status::Success, true));
    let updates = world.gitlab.calls(Endpoint::Update);
    assert_eq!(updates.iter().filter(|call| call.json()["state"] == "success").count(), 3);
    let again = put(&world, &job, "success").send().await.unwrap();
    assert_eq!((again.status().as_u16(), said(&again, "job-status")), (403, Some("success")));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_22_the_interval_is_gitlabs() {
    let world = World::new().await;
    let runner = world.runner();
    let mut job = running(&world, 17).await;
    for (sent, seen) in [(Some(30), Some(30)), (Some(0), Some(30)), (Some(86_400), Some(900)), (None, Some(900))] {
        world.gitlab.set(|settings| settings.trace_interval = sent);
        runner.print(&mut job, b"line\n").await;
        assert_eq!(job.interval, seen, "after {sent:?}");
    }
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_23_an_artifact_without_a_length_goes_through_whole() {
    let world = World::new().await;
    let runner = world.runner();
    let job = running(&world, 17).await;
    let pieces: Vec<_> = (0..64_u8).map(|piece| Bytes::from(vec![piece; 64 << 10])).collect();
    assert_eq!(runner.upload(&job, "large.zip", pieces.clone().into_iter()).await, Some(201));
    let upload = world.gitlab.job(17).uploads.remove(0);
    assert_eq!((upload.bytes, upload.filename.as_deref()), (4 << 20, Some("large.zip")));
    assert_eq!(upload.query, "artifact_format=zip&artifact_type=archive");
    assert_eq!(upload.headers.get("transfer-encoding").unwrap(), "chunked");
    world.gitlab.script(Endpoint::Upload, [Answer::Status(413), Answer::Status(403)]);
    for status in [413, 403] {
        assert_eq!(runner.upload(&job, "large.zip", pieces.clone().into_iter()).await, Some(status));
    }
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_32_bodies_and_content_types_go_on_as_they_are_or_are_not() {
    let world = World::new().await;
    let body = json!({ "token": TOKEN, "system_id": "s_0123456789ab" }).to_string();
    let calls = [
        ("DELETE", "/api/v4/runners/managers", Some(body.as_str()), Some("application/json")),
        ("DELETE", "/api/v4/runners", Some(body.as_str()), Some("application/json")),
        ("POST", "/api/v4/runners/17/reset_authentication_token", Some("null"), Some("application/json")),
        ("GET", "/api/v4/projects/1", None, None),
    ];
    for (method, path, body, kind) in calls {
        let mut call = world.call(method, path).header("private-token", "glpat-1");
        if let (Some(body), Some(kind)) = (body, kind) {
            call = call.header("content-type", kind).body(body.to_owned());
        }
        assert_eq!(call.send().await.unwrap().status(), 200, "{method} {path}");
        let seen = world.gitlab.all_calls().pop().unwrap();
        assert_eq!((seen.method.as_str(), seen.path_and_query.as_str()), (method, path));
        assert_eq!(seen.body, body.unwrap_or_default());
        assert_eq!((seen.header("content-type"), seen.header("private-token")), (kind, Some("glpat-1")));
        assert_eq!(seen.header("transfer-encoding"), None, "{method} {path}");
    }
    let discovery =
        world.call("GET", "/api/v4/runners/router/discovery").header("runner-token", TOKEN).send().await.unwrap();
    assert_eq!((discovery.status().as_u16(), said(&discovery, "content-type")), (200, Some("application/json")));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_33_a_jobs_token_may_be_in_the_header_or_in_the_body() {
    let world = World::new().await;
    let calls: [fn(&World, &Picked) -> reqwest::RequestBuilder; 2] = [
        |world, job| put(world, job, "running"),
        |world, job| {
            let call = world.call("PUT", &format!("/api/v4/jobs/{}", job.id)).header("job-token", &job.token);
            call.json(&json!({ "state": "running" }))
        },
    ];
    for (id, call) in (17..).zip(calls) {
        world.gitlab.enqueue(JobBuilder::new(id).build());
        let job = world.runner().poll().await.job();
        world.metric_is("handouts{stage=\"delivering\"}", 1).await;
        assert_eq!(call(&world, &job).send().await.unwrap().status(), 200);
        // It counts as the runner's word either way.
        world.metric_is("handouts{stage=\"delivering\"}", 0).await;
    }
    world.jobgate.stop().await;
}

#[tokio::test]
async fn row_35_calls_about_a_job_that_is_given_up_end_it_and_reach_nobody() {
    let world = World::new().await;
    let document = JobBuilder::new(17).name("forbidden").build();
    world.gitlab.enqueue(document.clone());
    // GitLab takes no word of it for now.
    world.gitlab.script(Endpoint::Update, [Answer::StatusWith(503, vec![("retry-after", "2".to_owned())])]);
    let runner = world.runner();
    assert!(runner.poll().await.is_empty());
    world.gitlab.answered(Endpoint::Update, 1).await;
    let job = picked(&document);
    let artifacts = world.call("POST", "/api/v4/jobs/17/artifacts").header("job-token", &job.token).body("zip");
    let encoded = world.call("PUT", "/api/v4//jobs/%31%37/").json(&json!({ "token": job.token, "state": "success" }));
    let calls = [
        put(&world, &job, "running"),
        put(&world, &job, "success"),
        patch(&world, &job, "0-1", "a\n"),
        artifacts,
        encoded,
    ];
    for call in calls {
        let response = call.send().await.unwrap();
        assert_eq!((response.status().as_u16(), said(&response, "job-status")), (403, Some("failed")));
    }
    assert_eq!(world.gitlab.all_calls().len(), 4, "a verification, the poll's two requests, and the update of ours");
    let ended = world.gitlab.ended(17).await;
    assert_eq!((ended.updates.as_slice(), ended.refused), (["running".to_owned(), "failed".to_owned()].as_slice(), 0));
    // Afterwards GitLab says so itself.
    world.metric_is("handouts{stage=\"failing\"}", 0).await;
    let response = put(&world, &job, "running").send().await.unwrap();
    assert_eq!((response.status().as_u16(), said(&response, "job-status")), (403, Some("failed")));
    assert_eq!(world.gitlab.job(17).refused, 1);
    world.jobgate.stop().await;
}
