//! A rejection is made known to GitLab, whatever GitLab does meanwhile.

use crate::{
    gitlab::{Answer, Endpoint, Gate, JobBuilder, Outage, Settings, Status},
    gitlab_runner::{Heard, Polled},
    refusals::at_once,
    site::{Setup, World},
};

const FINISHED_BY_US: &str = "finished_total{by=\"jobgate\"}";
const FINISHED_BY_GITLAB: &str = "finished_total{by=\"gitlab\"}";

/// A poll that has its job rejected.
async fn rejected(world: &World, job: JobBuilder) -> String {
    let document = job.name("forbidden").build();
    world.gitlab.enqueue(document.clone());
    assert!(world.runner().poll().await.is_empty());
    document.token
}

#[tokio::test]
async fn it_is_taken_up_explained_and_ended_in_this_order_with_the_jobs_own_token() {
    let world = at_once().start().await;
    let document = JobBuilder::new(17).name("forbidden").all_secrets().build();
    world.gitlab.enqueue(document.clone());
    assert!(world.runner().poll().await.is_empty());
    let ended = world.gitlab.ended(17).await;
    let calls = world.gitlab.all_calls();
    let about: Vec<_> = calls.iter().filter(|call| call.path_and_query.contains("/jobs/17")).collect();
    let kinds: Vec<_> = about.iter().map(|call| call.endpoint).collect();
    assert_eq!(kinds, [Endpoint::Update, Endpoint::Trace, Endpoint::Update]);
    for call in &about {
        assert_eq!(call.header("job-token"), Some(document.token.as_str()));
        assert!(call.header("user-agent").is_some_and(|agent| agent.starts_with("jobgate/")));
    }
    assert_eq!(about[0].json(), serde_json::json!({ "token": document.token, "state": "running" }));
    assert_eq!(about[1].header("content-type"), Some("text/plain"));
    let range = format!("0-{}", ended.trace.len() - 1);
    assert_eq!(about[1].header("content-range"), Some(range.as_str()));
    // Nothing else: a checksum could put the end off, an exit code could make a warning of it.
    let end = serde_json::json!({ "token": document.token, "state": "failed", "failure_reason": "job_router_failure" });
    assert_eq!(about[2].json(), end);
    assert!(ended.trace_text().ends_with('\n'));
    for secret in &document.secrets {
        assert!(!ended.trace_text().contains(secret));
    }
    world.metric_is(FINISHED_BY_US, 1).await;
    world.jobgate.stop().await;
}

#[tokio::test]
async fn with_two_phases_it_is_the_same() {
    let setup = at_once();
    let gitlab = Settings { two_phase: true, ..setup.gitlab.clone() };
    let world = Setup { gitlab, ..setup }.start().await;
    rejected(&world, JobBuilder::new(17)).await;
    let ended = world.gitlab.ended(17).await;
    assert_eq!((ended.status, ended.failure_reason.as_deref()), (Status::Failed, Some("job_router_failure")));
    assert_eq!(ended.updates, ["running", "failed"]);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_job_that_is_canceled_in_mid_air_is_over() {
    let steps: [(Endpoint, usize); 3] = [(Endpoint::Update, 0), (Endpoint::Trace, 0), (Endpoint::Update, 1)];
    for (endpoint, before) in steps {
        let world = at_once().start().await;
        let gate = Gate::new();
        let script = (0..before).map(|_| Answer::Normal).chain([Answer::Delay(gate.clone())]);
        world.gitlab.script(endpoint, script);
        rejected(&world, JobBuilder::new(17)).await;
        gate.reached(1).await;
        world.gitlab.cancel(17);
        gate.open();
        world.metric_is(FINISHED_BY_GITLAB, 1).await;
        world.metric_is("handouts{stage=\"failing\"}", 0).await;
        let job = world.gitlab.job(17);
        assert_eq!((job.status, job.refused), (Status::Canceled, 1), "one word after {endpoint:?} {before}");
        world.jobgate.stop().await;
    }
}

#[tokio::test]
async fn a_log_is_gone_on_with_where_gitlab_says_that_it_is() {
    let world = at_once().start().await;
    let gate = Gate::new();
    world.gitlab.script(Endpoint::Update, [Answer::Delay(gate.clone())]);
    let token = rejected(&world, JobBuilder::new(17)).await;
    gate.reached(1).await;
    // An attempt before this one was cut off in the middle.
    let begun = "\x1b[31;1mThis job";
    let direct = reqwest::Client::builder().no_proxy().build().unwrap();
    let call = direct.patch(format!("{}/api/v4/jobs/17/trace", world.gitlab.url())).header("job-token", token);
    let call = call.header("content-range", format!("0-{}", begun.len() - 1)).body(begun);
    assert_eq!(call.send().await.unwrap().status(), 202);
    gate.open();
    let ended = world.gitlab.ended(17).await;
    assert!(ended.trace_text().starts_with("\x1b[31;1mThis job was rejected by policy."), "{}", ended.trace_text());
    let ranges: Vec<_> = world
        .gitlab
        .calls(Endpoint::Trace)
        .iter()
        .map(|call| call.header("content-range").unwrap().to_owned())
        .collect();
    let last = ended.trace.len() - 1;
    assert_eq!(ranges[1..], [format!("0-{last}"), format!("{}-{last}", begun.len())]);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn an_end_that_is_not_taken_at_once_is_said_again() {
    let world = at_once().start().await;
    world.gitlab.script(Endpoint::Update, [Answer::Normal, Answer::Status(202)]);
    rejected(&world, JobBuilder::new(17)).await;
    let ended = world.gitlab.ended(17).await;
    assert_eq!(
        (ended.updates.as_slice(), ended.keep_alives),
        (["running".to_owned(), "failed".to_owned()].as_slice(), 1)
    );
    // The log of the attempt before is not written twice.
    assert_eq!(ended.trace_text().matches("rejected by policy").count(), 1);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn gitlabs_trouble_only_puts_it_off() {
    let troubles = [
        (Endpoint::Update, vec![Answer::Status(500), Answer::Status(429)]),
        (Endpoint::Trace, vec![Answer::Status(503)]),
        (Endpoint::Trace, vec![Answer::BreakOff]),
        (Endpoint::Update, vec![Answer::Normal, Answer::Lost(502)]),
        (Endpoint::Update, vec![Answer::Normal, Answer::BreakBefore]),
    ];
    for (endpoint, answers) in troubles {
        let world = at_once().start().await;
        world.gitlab.script(endpoint, answers);
        rejected(&world, JobBuilder::new(17)).await;
        let ended = world.gitlab.ended(17).await;
        assert_eq!(ended.failure_reason.as_deref(), Some("job_router_failure"), "{endpoint:?}");
        assert_eq!(ended.trace_text().matches("rejected by policy").count(), 1, "{endpoint:?}");
        world.metric_is("handouts{stage=\"failing\"}", 0).await;
        world.jobgate.stop().await;
    }
}

#[tokio::test]
async fn a_log_that_gitlab_does_not_take_does_not_keep_the_job() {
    let world = at_once().start().await;
    world.gitlab.script(Endpoint::Trace, [Answer::Status(413)]);
    rejected(&world, JobBuilder::new(17)).await;
    let ended = world.gitlab.ended(17).await;
    assert_eq!((ended.failure_reason.as_deref(), ended.trace.len()), (Some("job_router_failure"), 0));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn an_outage_that_begins_while_the_chain_is_asked_only_puts_it_off() {
    let gate = Gate::new();
    let asked = gate.clone();
    let controller = move |_: jobgate_sdk::AdmissionRequest| {
        let gate = asked.clone();
        async move {
            gate.come().await;
            jobgate_sdk::Verdict::admit()
        }
    };
    let world = at_once().start_with(|router| router.controller("slow", "instance".parse().unwrap(), controller)).await;
    world.gitlab.enqueue(JobBuilder::new(17).name("forbidden").build());
    let breaks = async {
        gate.reached(1).await;
        world.gitlab.outage(Outage::Refuse).await;
        gate.open();
    };
    let (polled, ()) = tokio::join!(world.poll_as("call"), breaks);
    // There may be other jobs: it asked again.
    assert_eq!(polled.status(), 503);
    world.gitlab.outage(Outage::Over).await;
    assert_eq!(world.gitlab.ended(17).await.updates, ["running", "failed"]);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn the_reason_is_the_first_that_this_gitlab_knows() {
    let configured = "  failure_reasons: { policy: [ci_quota_exceeded, script_failure], failure: [api_failure] }\n";
    let cases = [
        ("", vec![], "job_router_failure"),
        ("", vec!["job_router_failure"], "runner_unsupported"),
        ("", vec!["job_router_failure", "runner_unsupported"], "script_failure"),
        (configured, vec![], "ci_quota_exceeded"),
        (configured, vec!["ci_quota_exceeded"], "script_failure"),
    ];
    for (section, missing, wanted) in cases {
        let world = at_once().section(section).start().await;
        rejected(&world, JobBuilder::new(17).without_reasons(&missing)).await;
        assert_eq!(world.gitlab.ended(17).await.sent_reason.as_deref(), Some(wanted), "without {missing:?}");
        // One that says nothing of reasons knows the oldest.
        rejected(&world, JobBuilder::new(18).set("/features", serde_json::json!({}))).await;
        assert_eq!(world.gitlab.ended(18).await.sent_reason.as_deref(), Some("script_failure"));
        world.jobgate.stop().await;
    }
}

#[tokio::test]
async fn a_controller_that_does_not_answer_is_nobodys_fault_and_a_retry_may_heal_it() {
    let configured = "  failure_reasons: { failure: [api_failure] }\n";
    for (section, wanted) in [("", "runner_system_failure"), (configured, "api_failure")] {
        let setup = at_once().file("absent.token", "s3cret-0123456789abcdef").section(section);
        let setup =
            setup.controller("name: absent, scope: instance, attach: { token_file: absent.token }, on_failure: wait");
        let world = setup.start().await;
        world.gitlab.enqueue(JobBuilder::new(17).build());
        assert!(world.runner().poll().await.is_empty());
        let ended = world.gitlab.ended(17).await;
        assert_eq!((ended.status, ended.sent_reason.as_deref()), (Status::Failed, Some(wanted)));
        let log = ended.trace_text();
        for part in ["could not be decided", "No answer from absent (instance)", "retry it"] {
            assert!(log.contains(part), "{log}");
        }
        let decision = world.decisions(17).await.remove(0);
        assert_eq!((&decision["decision"], &decision["cause"]), (&"rejected".into(), &"failure".into()));
        world.jobgate.stop().await;
    }
}

#[tokio::test]
async fn the_runners_word_confirms_a_delivery_and_gitlabs_trouble_does_not() {
    const DELIVERING: &str = "handouts{stage=\"delivering\"}";
    let world = at_once().start().await;
    let runner = world.runner();
    for (id, by_trace) in [(17, false), (18, true)] {
        world.gitlab.enqueue(JobBuilder::new(id).build());
        let Polled::Job(mut job) = runner.poll().await else { panic!("no job") };
        let endpoint = if by_trace { Endpoint::Trace } else { Endpoint::Update };
        world.gitlab.script(endpoint, (0..5).map(|_| Answer::Status(500)));
        for delivering in [1, 0] {
            let heard = if by_trace { runner.print(&mut job, b"a\n").await } else { runner.accept(&mut job).await };
            assert_eq!(heard, Heard::GoOn);
            if delivering == 1 {
                // Only a word that GitLab took, by the job's own token, is the runner's.
                let forged = world.call("PUT", &format!("/api/v4/jobs/{id}"));
                let forged = forged.json(&serde_json::json!({ "token": "glcbt-forged", "state": "running" }));
                assert_eq!(forged.send().await.unwrap().status(), 403);
            }
            world.metric_is(DELIVERING, delivering).await;
        }
        assert_eq!(world.gitlab.job(id).status, Status::Running, "nobody but its runner has said anything");
    }
    world.jobgate.stop().await;
}
