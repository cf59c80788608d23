//! Tokens, and requests of jobs.

use std::time::Duration;

use serde_json::json;

use crate::{
    TOKEN, code,
    gitlab::{Answer, Endpoint, Gate, JobBuilder, Outage, Outcome, Status},
    gitlab_runner::{Code, FakeRunner, Heard, Polled},
    started,
};

#[tokio::test]
async fn tokens() {
    let (gitlab, runner) = started().await;
    assert_eq!(runner.verify().await.unwrap(), (200, json!({"id": 1, "token": TOKEN, "token_expires_at": null})));
    assert_eq!(gitlab.verified(TOKEN), 1);
    let stranger = FakeRunner::new(gitlab.url(), "glrt-other");
    assert_eq!(stranger.verify().await.unwrap().0, 403);
    for _ in 0..3 {
        assert!(stranger.healthy());
        assert!(matches!(stranger.poll().await, Polled::Unhealthy(Code::Http(403))));
    }
    assert!(!stranger.healthy());
    assert_eq!(runner.discover().await, Some((501, None)));
    gitlab.enqueue_for(Some("glrt-other"), JobBuilder::new(1).build());
    assert!(runner.poll().await.is_empty());
    gitlab.runner("glrt-other");
    assert_eq!(stranger.poll().await.job().id, 1);
}

#[tokio::test]
async fn a_request_is_held_until_the_queue_changes() {
    let (gitlab, runner) = started().await;
    assert!(runner.poll().await.is_empty());
    assert_eq!(runner.last_update(), Some(gitlab.last_update(TOKEN)));
    let (polled, ()) = tokio::join!(runner.poll(), async {
        gitlab.holding(1).await;
        gitlab.enqueue(JobBuilder::new(1).build());
    });
    assert_eq!(polled.job().id, 1);
    // The value changed when the job was taken, and is told with the next 204 only.
    assert!(runner.poll().await.is_empty());
    gitlab.set(|settings| settings.hold = Duration::ZERO);
    assert!(runner.poll().await.is_empty());
}

#[tokio::test]
async fn who_goes_away_while_held_gets_no_job() {
    let (gitlab, runner) = started().await;
    assert!(runner.poll().await.is_empty());
    tokio::select! {
        _ = runner.poll() => panic!("nothing came"),
        () = gitlab.holding(1) => {}
    }
    gitlab.holding(0).await;
    assert_eq!(gitlab.answered(Endpoint::Request, 2).await.outcome, Some(Outcome::Gone));
    gitlab.enqueue(JobBuilder::new(1).build());
    assert_eq!((gitlab.job(1).status, gitlab.queued()), (Status::Queued, 1));
}

#[tokio::test]
async fn awkward_answers_to_a_request() {
    let (gitlab, runner) = started().await;
    for status in [409, 422, 400, 404] {
        gitlab.answers([Answer::Status(status)]);
        assert_eq!(code(&runner.poll().await), Code::Http(status));
    }
    gitlab.answers([Answer::Garbage, Answer::BreakBefore]);
    assert_eq!(code(&runner.poll().await), Code::NoJob);
    assert_eq!(code(&runner.poll().await), Code::Transport);

    // Repeated under one id; the fifth answer counts.
    gitlab.forget_calls();
    let wait = Answer::StatusWith(429, vec![("retry-after", "7".to_owned())]);
    gitlab.answers([wait, Answer::Status(503), Answer::Status(500), Answer::Status(502), Answer::Status(504)]);
    assert_eq!(code(&runner.poll().await), Code::Http(504));
    assert_eq!(runner.pauses()[..2], [Duration::from_secs(7), Duration::from_millis(200)]);
    let ids: Vec<_> =
        gitlab.calls(Endpoint::Request).iter().map(|call| call.header("x-request-id").unwrap().to_owned()).collect();
    assert_eq!((ids.len(), ids.iter().all(|id| *id == ids[0])), (5, true));

    for (id, answer) in [(1, Answer::BreakOff), (2, Answer::BreakHalfway), (3, Answer::ContentType("text/html"))] {
        gitlab.enqueue(JobBuilder::new(id).build());
        gitlab.answers([answer]);
        assert!(matches!(runner.poll().await, Polled::Failed(Code::Transport | Code::NoJob)));
        // Assigned all the same, and so lost.
        assert_eq!(gitlab.job(id).status, Status::Running);
        assert_eq!(gitlab.queued(), 0);
    }
    gitlab.enqueue(JobBuilder::new(4).build());
    gitlab.answers([Answer::Lost(503)]);
    assert!(runner.poll().await.is_empty(), "the repetition gets no second job");
    assert_eq!(gitlab.job(4).assignments.len(), 1);
}

#[tokio::test]
async fn gates_and_what_happens_in_mid_air() {
    let (gitlab, runner) = started().await;
    let gate = Gate::new();
    gitlab.answers([Answer::Delay(gate.clone())]);
    let (polled, ()) = tokio::join!(runner.poll(), async {
        gate.reached(1).await;
        gitlab.enqueue(JobBuilder::new(1).build());
        assert_eq!(gitlab.job(1).status, Status::Queued);
        gate.open();
    });
    assert_eq!(polled.job().id, 1);

    let gate = Gate::new();
    gitlab.answers([Answer::DelayDelivery(gate.clone())]);
    gitlab.enqueue(JobBuilder::new(2).build());
    let (polled, ()) = tokio::join!(runner.poll(), async {
        gate.reached(1).await;
        assert!(gitlab.cancel(2));
        gate.open();
    });
    assert_eq!(runner.accept(&mut polled.job()).await, Heard::Abort);

    gitlab.answers([Answer::Hang]);
    tokio::select! {
        _ = runner.poll() => panic!("it was answered"),
        _ = gitlab.nth(Endpoint::Request, 3) => {}
    }
    assert_eq!(gitlab.answered(Endpoint::Request, 3).await.outcome, Some(Outcome::Gone));
}

#[tokio::test]
async fn outages() {
    let (gitlab, runner) = started().await;
    assert!(runner.poll().await.is_empty());
    gitlab.outage(Outage::Status(503)).await;
    assert_eq!(code(&runner.poll().await), Code::Http(503));
    // Held ones are cut, too.
    gitlab.outage(Outage::Over).await;
    let (held, ()) = tokio::join!(runner.poll(), async {
        gitlab.holding(1).await;
        gitlab.outage(Outage::Refuse).await;
    });
    assert_eq!(code(&held), Code::Transport);
    assert_eq!(code(&runner.poll().await), Code::Transport);
    gitlab.outage(Outage::Over).await;
    gitlab.enqueue(JobBuilder::new(1).build());
    assert_eq!(runner.poll().await.job().id, 1);
}
