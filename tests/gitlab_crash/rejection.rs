//! A jobgate that is killed at each step on which GitLab is told that a job was rejected.

use crate::{
    gitlab::{Answer, Endpoint, Gate, GitLab, JobBuilder, Outage, Outcome, Status},
    jobgate::{HandOuts, Jobgate, NAMES, world},
};

const NONE: HandOuts = HandOuts { asking: 0, delivering: 0, failing: 0 };
const FAILING: HandOuts = HandOuts { failing: 1, ..NONE };

/// Where a call stands when jobgate is killed.
#[derive(Clone, Copy, Debug)]
enum Held {
    /// GitLab has not done it, and will not: its client is gone.
    Before,
    /// GitLab has done it, and the answer does not come.
    After,
}

/// The job fails once, with its whole reason in its log, once.
async fn fails_once(gitlab: &GitLab, jobgate: &mut Jobgate) {
    let ended = gitlab.ended(17).await;
    assert_eq!((ended.status, ended.failure_reason.as_deref()), (Status::Failed, Some("job_router_failure")));
    assert_eq!(
        (ended.updates.as_slice(), ended.assignments.len()),
        (["running".to_owned(), "failed".to_owned()].as_slice(), 1)
    );
    let log = ended.trace_text();
    for part in [
        "This job was rejected by policy. No runner has started it.",
        "Rejected by names (instance)",
        "forbidden is a name that nobody may use",
        "What to do:",
        "Decision ",
    ] {
        assert_eq!(log.matches(part).count(), 1, "`{part}` in {log}");
    }
    // Whole to its end, with nothing behind that.
    assert!(log.lines().last().unwrap().starts_with("Decision "), "{log}");
    over(gitlab, jobgate).await;
}

/// Nothing is left of it, now and after another restart, and nobody gets it.
async fn over(gitlab: &GitLab, jobgate: &mut Jobgate) {
    jobgate.until(NONE).await;
    let calls = gitlab.count(Endpoint::Update);
    jobgate.restart();
    assert_eq!(jobgate.handouts().await, NONE);
    assert!(jobgate.runner().poll().await.is_empty());
    let decisions = jobgate.decisions(17).await;
    assert_eq!((decisions.len(), &decisions[0]["decision"]), (1, &"rejected".into()), "{decisions:?}");
    assert_eq!((gitlab.count(Endpoint::Update), gitlab.breaches()), (calls, 0));
}

/// Rejected, and killed in the nth call of a kind.
async fn killed_in(endpoint: Endpoint, nth: usize, held: Held) {
    let (gitlab, mut jobgate) = world(NAMES).await;
    gitlab.enqueue(JobBuilder::new(17).name("forbidden").build());
    let gate = Gate::new();
    let stop = match held {
        Held::Before => Answer::Delay(gate.clone()),
        Held::After => Answer::DelayDelivery(gate.clone()),
    };
    gitlab.script(endpoint, std::iter::repeat_n(Answer::Normal, nth - 1).chain([stop]));
    assert!(jobgate.runner().poll().await.is_empty());
    gate.reached(1).await;
    jobgate.kill();
    let call = gitlab.answered(endpoint, nth).await;
    assert_eq!(call.outcome, Some(Outcome::Gone), "{endpoint:?} {nth} {held:?}");
    jobgate.start();
    fails_once(&gitlab, &mut jobgate).await;
    jobgate.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_the_job_is_taken_up_the_rejection_is_finished() {
    killed_in(Endpoint::Update, 1, Held::Before).await;
    killed_in(Endpoint::Update, 1, Held::After).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_the_log_is_written_the_reason_is_in_it_once() {
    killed_in(Endpoint::Trace, 1, Held::Before).await;
    killed_in(Endpoint::Trace, 1, Held::After).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_the_end_is_told_it_is_told() {
    killed_in(Endpoint::Update, 2, Held::Before).await;
    killed_in(Endpoint::Update, 2, Held::After).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_gitlab_is_down_the_rejection_is_finished_when_it_is_back() {
    for endpoint in [Endpoint::Update, Endpoint::Trace] {
        let (gitlab, mut jobgate) = world(NAMES).await;
        gitlab.enqueue(JobBuilder::new(17).name("forbidden").build());
        gitlab.script(endpoint, std::iter::repeat_n(Answer::Status(503), 10));
        assert!(jobgate.runner().poll().await.is_empty());
        assert_eq!(gitlab.answered(endpoint, 1).await.outcome, Some(Outcome::Status(503)));
        jobgate.kill();
        jobgate.start();
        // It tries at once after a restart, and again; then nobody listens at all.
        gitlab.answered(endpoint, 3).await;
        gitlab.outage(Outage::Refuse).await;
        jobgate.restart();
        assert_eq!(jobgate.handouts().await, FAILING);
        jobgate.restart();
        gitlab.quiet();
        gitlab.outage(Outage::Over).await;
        fails_once(&gitlab, &mut jobgate).await;
        jobgate.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canceled_while_jobgate_is_dead_a_rejected_job_stays_canceled() {
    for nth in [1, 2] {
        let (gitlab, mut jobgate) = world(NAMES).await;
        gitlab.enqueue(JobBuilder::new(17).name("forbidden").build());
        let gate = Gate::new();
        gitlab.script(
            Endpoint::Update,
            std::iter::repeat_n(Answer::Normal, nth - 1).chain([Answer::Delay(gate.clone())]),
        );
        assert!(jobgate.runner().poll().await.is_empty());
        gate.reached(1).await;
        jobgate.kill();
        gitlab.answered(Endpoint::Update, nth).await;
        assert!(gitlab.cancel(17));
        jobgate.start();
        // GitLab says that it is over, and that is the end of it.
        gitlab.job_until(17, |job| job.refused == 1).await;
        over(&gitlab, &mut jobgate).await;
        let job = gitlab.job(17);
        assert_eq!((job.status, job.failure_reason), (Status::Canceled, None));
        jobgate.stop();
    }
}

/// Found beside the kills: attempts that never got as far as the log were counted against it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_before_the_log_does_not_cost_the_log() {
    let (gitlab, mut jobgate) = world(NAMES).await;
    gitlab.enqueue(JobBuilder::new(17).name("forbidden").build());
    let at_once = || Answer::StatusWith(503, vec![("retry-after", "0".to_owned())]);
    gitlab.script(Endpoint::Update, std::iter::repeat_with(at_once).take(8));
    gitlab.script(Endpoint::Trace, [at_once()]);
    assert!(jobgate.runner().poll().await.is_empty());
    fails_once(&gitlab, &mut jobgate).await;
    jobgate.stop();
}
