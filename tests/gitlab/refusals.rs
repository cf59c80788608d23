//! GitLab's awkward answers to a poll. Where nothing else is said, each is met over REST.

use std::time::Duration;

use crate::{
    gitlab::{Answer, Endpoint, JobBuilder, Outage, Settings, Status},
    gitlab_runner::{Code, FakeRunner, Polled, Way},
    site::{Setup, TOKEN, soon},
};

/// Nothing is held: each answer is about now.
pub fn at_once() -> Setup {
    Setup { gitlab: Settings { hold: Duration::ZERO, ..Settings::default() }, ..Setup::new() }
}

fn retry_after(response: &reqwest::Response) -> Option<u64> {
    response.headers().get("retry-after")?.to_str().ok()?.parse().ok()
}

#[tokio::test]
async fn what_gitlab_refuses_is_relayed_in_its_own_words_and_only_403_is_about_the_token() {
    let world = at_once().start().await;
    let runner = world.runner();
    for (asked, status) in (2..).zip([400, 409, 410, 422]) {
        world.gitlab.answers([Answer::StatusWith(status, vec![("x-odd", "kept".to_owned())])]);
        let polled = world.poll_as("call").await;
        assert_eq!((polled.status().as_u16(), polled.headers()["x-odd"].to_str().unwrap()), (status, "kept"));
        assert!(polled.text().await.unwrap().contains(&format!("{status} from the fake")));
        world.gitlab.answers([Answer::Status(status)]);
        let polled = runner.poll().await;
        assert!(matches!(polled, Polled::Failed(Code::Http(told)) if told == status), "{polled:?}");
        assert_eq!(world.gitlab.count(Endpoint::Request), (asked - 1) * 2, "none is repeated");
    }
    assert_eq!(world.gitlab.verified(TOKEN), 1);
    world.gitlab.answers([Answer::Status(403)]);
    assert!(matches!(runner.poll().await, Polled::Unhealthy(Code::Http(403))));
    // GitLab had another opinion of the token before: it is asked again whose it is.
    assert!(runner.poll().await.is_empty());
    assert_eq!(world.gitlab.verified(TOKEN), 2);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn gitlabs_429_is_a_pause_for_this_token_and_no_other() {
    let world = at_once().start().await;
    world.gitlab.runner("glrt-other");
    let wait = || Answer::StatusWith(429, vec![("retry-after", "30".to_owned())]);
    world.gitlab.answers([wait()]);
    world.gitlab.enqueue(JobBuilder::new(17).build());
    let first = world.poll_as("call-1").await;
    assert_eq!((first.status().as_u16(), retry_after(&first)), (429, Some(30)));
    // The runner repeats the call four times; GitLab hears nothing of it.
    let runner = world.runner();
    assert!(matches!(runner.poll().await, Polled::Failed(Code::Http(429))));
    assert!(runner.pauses().iter().all(|pause| (1..=30).contains(&pause.as_secs())), "{:?}", runner.pauses());
    assert_eq!(runner.pauses().len(), 4);
    assert_eq!(world.gitlab.count(Endpoint::Request), 1);
    assert_eq!(FakeRunner::new(world.jobgate.url(""), "glrt-other").poll().await.job().id, 17);
    assert_eq!(world.metric("pauses_total").await, 1);
    assert_eq!(world.metric("answers_total{status=\"429\"}").await, 1);
    assert_eq!(world.metric("polls_total{face=\"rest\",answer=\"busy\"}").await, 6);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_pause_ends() {
    let world = at_once().start().await;
    world.gitlab.answers([Answer::StatusWith(429, vec![("retry-after", "1".to_owned())])]);
    world.gitlab.enqueue(JobBuilder::new(17).build());
    // It waits as long as it is told to, inside of the call.
    let runner = world.runner().waits();
    assert_eq!(soon("the poll after the pause", runner.poll()).await.job().id, 17);
    assert_eq!(world.gitlab.count(Endpoint::Request), 2);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn gitlabs_pause_may_come_with_the_question_whose_token_it_is() {
    let world = at_once().start().await;
    world.gitlab.script(Endpoint::Verify, [Answer::StatusWith(429, vec![("retry-after", "60".to_owned())])]);
    for _ in 0..2 {
        let polled = world.poll_as("call").await;
        assert_eq!(polled.status(), 429);
        assert!(retry_after(&polled).is_some_and(|seconds| (50..=60).contains(&seconds)));
    }
    assert_eq!((world.gitlab.count(Endpoint::Verify), world.gitlab.count(Endpoint::Request)), (1, 0));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn gitlabs_trouble_is_503_with_a_time_to_come_again() {
    let world = at_once().on_a_known_port().start().await;
    for status in [500, 502, 503, 504, 520, 301, 200] {
        world.gitlab.answers([Answer::Status(status)]);
        let polled = world.poll_as("call").await;
        assert_eq!((polled.status().as_u16(), retry_after(&polled)), (503, Some(5)), "{status}");
    }
    // GitLab knows better how long.
    world.gitlab.answers([Answer::StatusWith(503, vec![("retry-after", "17".to_owned())])]);
    let polled = world.poll_as("call").await;
    assert_eq!((polled.status().as_u16(), retry_after(&polled)), (503, Some(17)));
    world.gitlab.outage(Outage::Refuse).await;
    let polled = world.poll_as("call").await;
    assert_eq!((polled.status().as_u16(), retry_after(&polled)), (503, Some(5)));
    let polled = world.runner().way(Way::Router).poll().await;
    assert!(matches!(polled, Polled::Failed(Code::Grpc(tonic::Code::Unavailable))), "{polled:?}");
    assert_eq!(world.metric("lost_answers_total").await, 0, "no job can have been in any of these");
    world.jobgate.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_no_job_is_counted_and_its_token_pauses() {
    let world = at_once().start().await;
    world.gitlab.answers([Answer::Garbage]);
    world.gitlab.enqueue(JobBuilder::new(17).build());
    assert_eq!(world.poll_as("call").await.status(), 503);
    // The next one could not be read either, and each costs a job.
    let polled = world.poll_as("call").await;
    assert_eq!((polled.status().as_u16(), retry_after(&polled)), (429, Some(30)));
    assert_eq!(world.metric("lost_answers_total").await, 1);
    assert_eq!((world.gitlab.count(Endpoint::Request), world.gitlab.job(17).status), (1, Status::Queued));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_outage_and_counted_where_a_job_may_be_lost() {
    for (answer, assigned) in [(Answer::BreakBefore, 0), (Answer::BreakOff, 1), (Answer::BreakHalfway, 1)] {
        let world = at_once().start().await;
        world.gitlab.enqueue(JobBuilder::new(17).build());
        assert_eq!(world.gitlab.count(Endpoint::Request), 0);
        world.gitlab.answers([answer]);
        let polled = world.poll_as("call-1").await;
        assert_eq!((polled.status().as_u16(), retry_after(&polled)), (503, Some(5)));
        // Never asked a second time by us: that would take a second job.
        assert_eq!(world.gitlab.count(Endpoint::Request), 1);
        assert_eq!(world.gitlab.job(17).assignments.len(), assigned);
        // GitLab had the whole request: nobody but itself can tell whether there was a job.
        assert_eq!(world.metric("lost_answers_total").await, 1);
        world.jobgate.stop().await;
    }
}

#[tokio::test]
async fn a_token_that_gitlab_does_not_know_asks_for_nothing_and_is_soon_known_when_it_does() {
    let world = at_once().start().await;
    let stranger = FakeRunner::new(world.jobgate.url(""), "glrt-stranger");
    for _ in 0..3 {
        assert!(matches!(stranger.poll().await, Polled::Unhealthy(Code::Http(403))));
    }
    // Strangers do not use up what GitLab grants our address.
    assert_eq!((world.gitlab.count(Endpoint::Verify), world.gitlab.count(Endpoint::Request)), (1, 0));
    world.jobgate.stop().await;
}

#[tokio::test]
async fn without_an_answer_to_whose_a_token_is_no_job_is_taken() {
    let world = at_once().start().await;
    world.gitlab.enqueue(JobBuilder::new(17).build());
    for (n, answer) in
        [Answer::Status(500), Answer::Status(302), Answer::BreakOff, Answer::Status(400)].into_iter().enumerate()
    {
        world.gitlab.script(Endpoint::Verify, [answer]);
        // Everybody with a token waits for one answer about it, and none is asked for again at once.
        let token = format!("glrt-{n}");
        world.gitlab.runner(&token);
        let polled = FakeRunner::new(world.jobgate.url(""), &token).poll().await;
        assert!(matches!(polled, Polled::Failed(Code::Http(503))), "{polled:?}");
        assert_eq!(world.gitlab.count(Endpoint::Verify), n + 1);
    }
    assert_eq!(world.gitlab.job(17).status, Status::Queued);
    assert_eq!(world.runner().poll().await.job().id, 17);
    world.jobgate.stop().await;
}

#[tokio::test]
async fn a_gitlab_that_cannot_tell_whose_a_token_is_serves_runners_without_names_only() {
    for status in [404, 405, 501] {
        let named = at_once().start().await;
        named.gitlab.script(Endpoint::Verify, [Answer::Status(status)]);
        named.gitlab.enqueue(JobBuilder::new(17).build());
        // It might be `gpu-1`, which may have controllers of its own.
        let polled = named.poll_as("call").await;
        assert_eq!(polled.status(), 503);
        assert!(polled.text().await.unwrap().contains("controllers of their own"));
        assert_eq!(named.gitlab.count(Endpoint::Request), 0);
        named.jobgate.stop().await;

        let unnamed = Setup { unnamed: true, ..at_once() }.start().await;
        unnamed.gitlab.script(Endpoint::Verify, [Answer::Status(status)]);
        unnamed.gitlab.enqueue(JobBuilder::new(17).build());
        assert_eq!(unnamed.runner().poll().await.job().id, 17);
        let runner = unnamed.decisions(17).await[0]["runner"].as_str().unwrap().to_owned();
        let hash = runner.strip_prefix("gitlab-runner-token-").unwrap();
        assert!(hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{runner}");
        unnamed.jobgate.stop().await;
    }
}
