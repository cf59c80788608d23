//! Hand-outs of GitLab in the steps of the task.

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::{
    chain::Part,
    gitlab::{Basis, GitLabJob, HandOut, Outstanding, Report, RunnerKey, Salt, Shown, Stage},
    path::ProjectPath,
};

struct Front {
    running: Running,
    outstanding: Outstanding,
    finish: UnboundedReceiver<HandOut>,
}

fn start_front(entries: Vec<Entry>, disk: &Disk) -> Front {
    let (finish, finished) = unbounded_channel();
    let outstanding = Outstanding::default();
    let handouts = HandOutParts {
        gitlab: "gitlab.example".into(),
        names: Names::default(),
        outstanding: outstanding.clone(),
        finish,
        counted: Box::new(|_| {}),
    };
    let parts = Parts { handouts: Some(handouts), ..parts(entries, disk) };
    Front { running: start(parts).unwrap(), outstanding, finish: finished }
}

fn project() -> ProjectPath {
    "acme/api".parse().unwrap()
}

/// A decision about job 7, made under the chain as it is.
fn judged(front: &Front, report: Option<Report>) -> Judged {
    let standing = front.running.standing.borrow();
    let runner = RunnerKey { id: Some(1), token: Salt::new([0; 16]).key("glrt-1") };
    let name = standing.names.name(runner).unwrap();
    let version = standing.chains.version(&project(), Part::Whole(&name));
    let ruling = if report.is_some() { Ruling::Rejected } else { Ruling::Admitted };
    Judged {
        handout: HandOut {
            job: GitLabJob(7),
            gitlab: "gitlab.example".into(),
            token: Secret::new("glcbt-7"),
            project: "acme/api".into(),
            runner: name.clone(),
            failure_reason: "runner_system_failure".into(),
            stage: Stage::Asking,
            since: Timestamp::UNIX_EPOCH,
        },
        decision: Decision {
            admission_id: "a".into(),
            job_id: GitLabJob(7).id(),
            project: "acme/api".into(),
            runner: Some(name.clone()),
            decision: ruling,
            cause: report.as_ref().map(|_| Cause::Policy),
            reason: String::new(),
            will_retry: false,
            chain_version: version.as_str().into(),
            time: Timestamp::UNIX_EPOCH,
            verdicts: Vec::new(),
        },
        report,
        basis: Some(Basis { project: project(), runner, name, version: version.as_str().into() }),
        asked: Instant::now(),
    }
}

fn report() -> Option<Report> {
    Some(Report { failure_reason: "job_router_failure".into(), trace: "no".to_owned() })
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_is_too_old_or_under_another_chain_delivers_nothing() {
    let front = start_front(vec![admit_all()], &Disk::default());
    let old = judged(&front, None);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(within(front.running.handle.judge(old)).await.unwrap(), Ruled::Stale);

    let before = judged(&front, None);
    let versions = BTreeSet::from([Arc::from("v2")]);
    let mut standing = front.running.standing.clone();
    standing.mark_unchanged();
    let event = Event::Versions { controller: "all".into(), versions, reads_runner: None };
    front.running.events.send(event).await.unwrap();
    within(standing.changed()).await.unwrap();
    assert_eq!(within(front.running.handle.judge(before)).await.unwrap(), Ruled::Stale);
    assert_eq!(front.outstanding.shown(GitLabJob(7)), None);
    assert_eq!(within(front.running.handle.judge(judged(&front, None))).await.unwrap(), Ruled::Deliver);
    assert_eq!(front.outstanding.shown(GitLabJob(7)), Some(Shown::Delivering(Secret::new("glcbt-7"))));
    // What was decided is recorded, whether it served or not.
    assert_eq!(front.running.handle.decisions(Some(GitLabJob(7).id()), 10).await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_decision_takes_effect_when_it_is_written_and_not_before() {
    let disk = Disk::default();
    let mut front = start_front(vec![admit_all()], &disk);
    // What a start has to write is written.
    front.running.handle.runners().await.unwrap();
    disk.full.store(true, Ordering::SeqCst);
    let (handle, rejected) = (front.running.handle.clone(), judged(&front, report()));
    let mut ruling = tokio::spawn(async move { handle.judge(rejected).await });
    let mut store_ok = front.running.store_ok.clone();
    within(store_ok.wait_for(|ok| !ok)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(30), &mut ruling).await.is_err());
    assert!(front.finish.try_recv().is_err(), "GitLab is told of nothing that is not written");
    assert_eq!(front.outstanding.shown(GitLabJob(7)), None);
    // Who comes while the store is known not to write is told at once.
    let refused = within(front.running.handle.judge(judged(&front, None))).await;
    assert_eq!(refused, Err(CoreError::StoreUnavailable));

    disk.full.store(false, Ordering::SeqCst);
    assert_eq!(within(ruling).await.unwrap(), Ok(Ruled::Reject));
    let finish = within(front.finish.recv()).await.unwrap();
    assert_eq!((finish.job, finish.stage), (GitLabJob(7), Stage::Failing(report().unwrap())));
    assert_eq!(front.outstanding.shown(GitLabJob(7)), Some(Shown::Failing));
    assert!(disk.settings.lock().unwrap().contains_key("gitlab/job/7"));
    within(front.running.handle.handout(HandOutCommand::Finished(GitLabJob(7)))).await;
    // A question after it: the step before is over then.
    front.running.handle.runners().await.unwrap();
    assert!(!disk.settings.lock().unwrap().contains_key("gitlab/job/7"));
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_says_nothing_for_60_s_does_not_keep_its_job() {
    let mut front = start_front(vec![admit_all()], &Disk::default());
    assert_eq!(within(front.running.handle.judge(judged(&front, None))).await.unwrap(), Ruled::Deliver);
    assert!(tokio::time::timeout(Duration::from_secs(59), front.finish.recv()).await.is_err());
    let given_up = tokio::time::timeout(Duration::from_secs(2), front.finish.recv()).await.unwrap().unwrap();
    assert!(matches!(given_up.stage, Stage::Failing(report) if *report.failure_reason == *"runner_system_failure"));

    // One that speaks keeps it.
    front.running.handle.handout(HandOutCommand::Finished(GitLabJob(7))).await;
    front.running.handle.runners().await.unwrap();
    assert_eq!(within(front.running.handle.judge(judged(&front, None))).await.unwrap(), Ruled::Deliver);
    front.running.handle.handout(HandOutCommand::Confirmed(GitLabJob(7))).await;
    assert!(tokio::time::timeout(Duration::from_secs(600), front.finish.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_is_given_to_nobody_afterwards() {
    let disk = Disk::default();
    let mut front = start_front(vec![admit_all()], &disk);
    front.running.handle.runners().await.unwrap();
    disk.full.store(true, Ordering::SeqCst);
    // At once, and not when the disk has room again: its chain may be another one by then.
    assert_eq!(within(front.running.handle.judge(judged(&front, None))).await, Err(CoreError::StoreUnavailable));
    assert_eq!(front.outstanding.shown(GitLabJob(7)), None);
    disk.full.store(false, Ordering::SeqCst);
    let finish = within(front.finish.recv()).await.unwrap();
    assert!(matches!(finish.stage, Stage::Failing(_)), "{finish:?}");
    assert_eq!(front.outstanding.shown(GitLabJob(7)), Some(Shown::Failing));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_given_while_gitlab_holds_the_poll_counts() {
    let front = start_front(vec![admit_all()], &Disk::default());
    let unnamed = judged(&front, None);
    let named = vec![crate::config::GitLabRunner { id: 1, name: "secure".into() }];
    let gitlab = crate::config::GitLabConfig {
        runners: named,
        ..crate::gitlab::tests::support::gitlab("http://gitlab.example")
    };
    let mut standing = front.running.standing.clone();
    standing.mark_unchanged();
    let event = Event::Reconfigured {
        chains: chains(vec![admit_all()]),
        runners: Runners::Any,
        settings: Settings::default(),
        names: Names::new(&gitlab),
        admission_ttl: Duration::from_secs(600),
    };
    front.running.events.send(event).await.unwrap();
    within(standing.changed()).await.unwrap();
    assert_eq!(within(front.running.handle.judge(unnamed)).await.unwrap(), Ruled::Stale);
    let named = judged(&front, None);
    assert_eq!(&*named.handout.runner, "secure");
    assert_eq!(within(front.running.handle.judge(named)).await.unwrap(), Ruled::Deliver);
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_is_heard_of_has_more_time_and_not_for_ever() {
    let mut front = start_front(vec![admit_all()], &Disk::default());
    assert_eq!(within(front.running.handle.judge(judged(&front, None))).await.unwrap(), Ruled::Deliver);
    for _ in 0..12 {
        assert!(tokio::time::timeout(Duration::from_secs(49), front.finish.recv()).await.is_err());
        front.running.handle.tell(HandOutCommand::Heard(GitLabJob(7)));
    }
    let given_up = tokio::time::timeout(Duration::from_secs(15), front.finish.recv()).await;
    assert_eq!(given_up.unwrap().unwrap().job, GitLabJob(7), "ten minutes after it was given out");
}

#[tokio::test(start_paused = true)]
async fn what_was_said_before_the_end_is_written() {
    let disk = Disk::default();
    let front = start_front(vec![admit_all()], &disk);
    assert_eq!(within(front.running.handle.judge(judged(&front, None))).await.unwrap(), Ruled::Deliver);
    assert!(disk.settings.lock().unwrap().contains_key("gitlab/job/7"));
    front.running.handle.tell(HandOutCommand::Confirmed(GitLabJob(7)));
    front.running.end.cancel();
    within(front.running.task).await.unwrap();
    assert!(!disk.settings.lock().unwrap().contains_key("gitlab/job/7"));
}
