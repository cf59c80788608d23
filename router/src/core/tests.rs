//! The task that owns the state, with a store and controllers that can be told to fail.

mod handouts;
mod store;
mod submitting;

use std::{
    future::Future,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use jobgate_sdk::{AdmissionRequest, Controller, FailureCause, Verdict};
use serde_json::json;

use super::{asking::ADMISSIONS, commit::MOST_HELD, *};
use crate::{
    chain::{Entry, Rules},
    config::{ControllerConfig, ControllerKind, ControllerState, NoControllers, OnFailure, RunnerOwner, Secret},
    decision::{Cause, Ruling},
    handle::{HeldLease, IdempotencyKey, JobResult, RunnerEvent, RunnerHello},
    job::{JobId, JobState, NewJob},
    store::{Batch, StoreError},
    testing::{job_of, new_job},
};

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), work).await.expect("the test hangs")
}

/// Remembers what was committed; can be told to fail.
#[derive(Clone, Default)]
struct Disk {
    full: Arc<AtomicBool>,
    states: Arc<Mutex<Vec<(JobId, JobState)>>>,
    decisions: Arc<Mutex<Vec<Arc<Decision>>>>,
    settings: Arc<Mutex<std::collections::BTreeMap<String, Vec<u8>>>>,
}

impl Store for Disk {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<crate::store::DocumentRef>, StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::new("no space left on device"));
        }
        self.states.lock().unwrap().extend(batch.records.iter().map(|record| (record.id.clone(), record.state)));
        self.decisions.lock().unwrap().extend(batch.decisions.iter().cloned());
        for (key, value) in &batch.settings {
            let mut settings = self.settings.lock().unwrap();
            match value {
                Some(value) => drop(settings.insert(key.clone(), value.clone())),
                None => drop(settings.remove(key)),
            }
        }
        Ok(Vec::new())
    }
}

struct Deaf;

impl Observer for Deaf {
    fn answered(&self, _: &Arc<str>, _: &'static str, _: Option<FailureCause>, _: Duration) {}
}

fn entry(name: &str, state: ControllerState, on_failure: OnFailure, controller: impl Controller) -> Entry {
    let config = ControllerConfig {
        name: name.into(),
        scope: "instance".parse().unwrap(),
        state,
        kind: ControllerKind::Linked,
        timeout: Duration::from_secs(2),
        on_failure,
        expose: Default::default(),
    };
    Entry {
        config: config.into(),
        controller: Arc::new(controller),
        reads_runner: false,
        versions: Default::default(),
        matched: Arc::default(),
    }
}

fn enabled(name: &str, controller: impl Controller) -> Entry {
    entry(name, ControllerState::Enabled, OnFailure::Reject, controller)
}

fn admit_all() -> Entry {
    enabled("all", |_: AdmissionRequest| async { Verdict::admit() })
}

fn chains(entries: Vec<Entry>) -> Chains {
    Chains::new(entries, Rules { no_controllers: NoControllers::Admit, admission_timeout: Duration::from_secs(10) })
}

/// The calendar, as far as paused time has gone.
fn paused_clock() -> Clock {
    let began = Instant::now();
    Box::new(move || Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(began.elapsed()).unwrap())
}

fn start_with(entries: Vec<Entry>, disk: &Disk) -> Running {
    start(parts(entries, disk)).unwrap()
}

fn parts(entries: Vec<Entry>, disk: &Disk) -> Parts {
    Parts {
        chains: chains(entries),
        settings: Settings::default(),
        restored: Restored::default(),
        own_thread: false,
        clock: paused_clock(),
        runners: Runners::Any,
        limits: Limits { max_jobs: 100, max_finished: 100, admission_ttl: Duration::from_secs(600) },
        store: Box::new(disk.clone()),
        observer: Arc::new(Deaf),
        handouts: None,
        export: Box::new(|_| {}),
    }
}

fn hello(name: &str, capacity: u32) -> RunnerHello {
    let config = RunnerConfig {
        name: name.into(),
        token: Secret::new("x"),
        owner: RunnerOwner::Instance,
        tags: Vec::new(),
        run_untagged: true,
        protected: false,
        priority: 0,
        group: None,
    };
    RunnerHello {
        runner: Arc::new(config),
        system_id: "host".into(),
        version: None,
        platform: None,
        executor: None,
        capacity,
        leases: Vec::new(),
        taints: Vec::new(),
    }
}

/// Waits until a job is in one of these states.
async fn until(handle: &Handle, id: &JobId, wanted: &[JobState]) -> Arc<JobRecord> {
    let mut changes = handle.changes();
    within(async {
        loop {
            let record = handle.job(id).await.unwrap();
            if wanted.contains(&record.state) {
                return record;
            }
            changes.recv().await.unwrap();
        }
    })
    .await
}

async fn submit(handle: &Handle, jobs: Vec<NewJob>) -> Vec<JobId> {
    let submitted = handle.submit(jobs, None).await.unwrap();
    submitted.into_iter().map(|(id, _)| id).collect()
}

/// What a runner is told next, signals aside.
async fn next(orders: &mut mpsc::Receiver<RunnerOrder>) -> Option<RunnerOrder> {
    loop {
        match within(orders.recv()).await {
            Some(RunnerOrder::Queue(_)) => {}
            order => return order,
        }
    }
}

/// Whether a runner was told nothing, signals aside.
fn is_quiet(orders: &mut mpsc::Receiver<RunnerOrder>) -> bool {
    std::iter::from_fn(|| orders.try_recv().ok()).all(|order| matches!(order, RunnerOrder::Queue(_)))
}

async fn assigned(orders: &mut mpsc::Receiver<RunnerOrder>) -> (JobId, crate::job::Lease) {
    match next(orders).await {
        Some(RunnerOrder::Assign { job, lease, .. }) => (job, lease),
        other => panic!("expected an assignment, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_document_contradicts_itself_is_rejected_and_nobody_is_asked() {
    let asked: Arc<AtomicBool> = Arc::default();
    let seen = asked.clone();
    let watching = enabled("w", move |_: AdmissionRequest| {
        seen.store(true, Ordering::SeqCst);
        async { Verdict::admit() }
    });
    let router = start_with(vec![watching], &Disk::default());
    let variable = |value| json!({ "key": "CI_PIPELINE_SOURCE", "value": value, "public": true, "masked": false });
    let forged = job_of(
        "forged",
        json!({ "gitlab": {
            "id": 7, "token": "glcbt-x",
            "job_info": { "name": "build", "stage": "test", "project_id": 1, "project_full_path": "acme/api" },
            "git_info": { "repo_url": "https://gitlab.example.com/acme/api.git", "ref": "main", "sha": "a", "ref_type": "branch" },
            "variables": [variable("push"), variable("schedule")],
        }}),
    );
    let id = submit(&router.handle, vec![forged]).await.remove(0);
    let record = until(&router.handle, &id, &[JobState::Rejected]).await;
    assert!(record.reason.contains("CI_PIPELINE_SOURCE"), "{}", record.reason);
    assert!(!asked.load(Ordering::SeqCst));
    let decisions = router.handle.decisions(Some(id), 10).await.unwrap();
    assert_eq!(decisions[0].cause, Some(Cause::Policy));
}

#[tokio::test(start_paused = true)]
async fn a_late_dry_run_verdict_is_appended_to_its_decision() {
    let slow = entry("dry", ControllerState::DryRun, OnFailure::Reject, |_: AdmissionRequest| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Verdict::reject("would refuse")
    });
    let disk = Disk::default();
    let router = start_with(vec![slow, admit_all()], &disk);
    let id = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    until(&router.handle, &id, &[JobState::Admitted]).await;
    assert_eq!(router.handle.decisions(Some(id.clone()), 1).await.unwrap()[0].verdicts.len(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let decision = router.handle.decisions(Some(id), 1).await.unwrap().remove(0);
    assert_eq!(decision.verdicts.len(), 2);
    assert_eq!((&*decision.verdicts[1].controller, decision.verdicts[1].enforced), ("dry", false));
    assert_eq!(disk.decisions.lock().unwrap().last().unwrap().verdicts.len(), 2, "and is durable");
}

#[tokio::test(start_paused = true)]
async fn one_bad_controller_harms_its_own_jobs_only() {
    let picky = enabled("picky", |request: AdmissionRequest| async move {
        match request.job().name.as_deref() {
            Some("panic") => panic!("on purpose"),
            Some("hang") => std::future::pending().await,
            _ => Verdict::admit(),
        }
    });
    let router = start_with(vec![picky], &Disk::default());
    let named =
        |id: &str, name: &str| job_of(id, json!({ "job": { "name": name }, "project": { "path": "acme/api" } }));
    let ids = submit(&router.handle, vec![named("1", "panic"), named("2", "hang"), named("3", "fine")]).await;
    until(&router.handle, &ids[2], &[JobState::Admitted]).await;
    for id in &ids[..2] {
        let record = until(&router.handle, id, &[JobState::Rejected]).await;
        assert!(record.reason.starts_with("not admitted because picky (instance) gave no answer"), "{}", record.reason);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_version_makes_old_decisions_serve_nothing() {
    let strict: Arc<AtomicBool> = Arc::default();
    let now_strict = strict.clone();
    let policy = enabled("p", move |_: AdmissionRequest| {
        let strict = now_strict.load(Ordering::SeqCst);
        async move { if strict { Verdict::reject("not any more") } else { Verdict::admit() } }
    });
    let router = start_with(vec![policy], &Disk::default());
    let id = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    until(&router.handle, &id, &[JobState::Admitted]).await;
    strict.store(true, Ordering::SeqCst);
    let versions = ["v2".into()].into();
    router.events.send(Event::Versions { controller: "p".into(), versions, reads_runner: None }).await.ok().unwrap();
    // The event and the credit come by different ways: an answer shows that the first one was taken.
    router.handle.queue().await.unwrap();
    let (session, mut orders) = router.handle.attach(hello("r", 1)).await.unwrap();
    router.handle.runner(session, RunnerEvent::Credit(1)).await.unwrap();
    until(&router.handle, &id, &[JobState::Rejected]).await;
    assert!(is_quiet(&mut orders));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_reads_the_runner_is_asked_when_one_is_chosen() {
    let mut reading = enabled("reads", |request: AdmissionRequest| async move {
        match request.runner().map(|runner| runner.name.as_str()) {
            Some("good") => Verdict::admit(),
            Some(_) => Verdict::reject("not on this runner"),
            None => Verdict::fail("asked before a runner was chosen"),
        }
    });
    reading.reads_runner = true;
    let router = start_with(vec![reading], &Disk::default());
    let id = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    until(&router.handle, &id, &[JobState::Admitted]).await;
    let (bad, mut bad_orders) = router.handle.attach(hello("bad", 1)).await.unwrap();
    router.handle.runner(bad, RunnerEvent::Credit(1)).await.unwrap();
    let (good, mut good_orders) = router.handle.attach(hello("good", 1)).await.unwrap();
    router.handle.runner(good, RunnerEvent::Credit(1)).await.unwrap();
    assert_eq!(assigned(&mut good_orders).await.0, id);
    assert!(is_quiet(&mut bad_orders));
    let decisions = router.handle.decisions(Some(id), 10).await.unwrap();
    assert!(decisions.iter().any(|decision| decision.runner.as_deref() == Some("good")));
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_reads_nothing_is_detached_and_its_jobs_go_elsewhere() {
    let router = start_with(vec![], &Disk::default());
    let (deaf, orders) = router.handle.attach(hello("deaf", 1)).await.unwrap();
    for _ in 0..200 {
        router.handle.runner(deaf, RunnerEvent::Heartbeat(Vec::new())).await.unwrap();
    }
    router.handle.queue().await.unwrap();
    assert!(router.handle.runners().await.unwrap().is_empty(), "detached");
    drop(orders);
}

#[tokio::test(start_paused = true)]
async fn draining_asks_and_assigns_nothing_new() {
    let router = start_with(vec![admit_all()], &Disk::default());
    let (session, mut orders) = router.handle.attach(hello("r", 1)).await.unwrap();
    router.handle.runner(session, RunnerEvent::Credit(1)).await.unwrap();
    router.handle.drain().await.unwrap();
    assert!(matches!(next(&mut orders).await, Some(RunnerOrder::Drain)));
    let id = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(router.handle.job(&id).await.unwrap().state, JobState::Routing);
    assert!(is_quiet(&mut orders));
}

#[tokio::test(start_paused = true)]
async fn a_runner_whose_token_was_taken_away_before_its_hello_does_not_attach() {
    let router = start_with(vec![admit_all()], &Disk::default());
    let known = hello("known", 1).runner;
    let event = Event::Reconfigured {
        chains: chains(vec![admit_all()]),
        runners: Runners::Configured(vec![known]),
        settings: Settings::default(),
        names: Names::default(),
        admission_ttl: Duration::from_secs(600),
    };
    router.events.send(event).await.ok().unwrap();
    router.handle.queue().await.unwrap();
    assert_eq!(router.handle.attach(hello("revoked", 1)).await.unwrap_err(), CoreError::RunnerChanged);
    router.handle.attach(hello("known", 1)).await.unwrap();
}

/// What it answers does not matter: it breaks when the router stops waiting.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose");
    }
}

#[tokio::test(start_paused = true)]
async fn an_admission_that_breaks_down_ends_with_a_decision() {
    let bomb = enabled("bomb", |_: AdmissionRequest| async {
        let _bomb = Bomb;
        std::future::pending().await
    });
    let router = start_with(vec![bomb], &Disk::default());
    let id = submit(&router.handle, vec![new_job("j1", "acme/api")]).await.remove(0);
    until(&router.handle, &id, &[JobState::Rejected]).await;
    let decision = router.handle.decisions(Some(id), 1).await.unwrap().remove(0);
    assert_eq!((decision.decision, decision.cause), (Ruling::Rejected, Some(Cause::Failure)));
    assert!(!decision.reason.contains("on purpose"), "{}", decision.reason);
}

#[tokio::test(start_paused = true)]
async fn a_project_whose_controller_hangs_holds_up_no_other() {
    let mut hanging = enabled("hangs", |_: AdmissionRequest| std::future::pending());
    Arc::make_mut(&mut hanging.config).scope = "project:acme/slow".parse().unwrap();
    let router = start(Parts {
        chains: chains(vec![hanging]),
        settings: Settings::default(),
        restored: Restored::default(),
        own_thread: false,
        clock: paused_clock(),
        runners: Runners::Any,
        limits: Limits { max_jobs: 5000, max_finished: 100, admission_ttl: Duration::from_secs(600) },
        store: Box::new(Disk::default()),
        observer: Arc::new(Deaf),
        handouts: None,
        export: Box::new(|_| {}),
    })
    .unwrap();
    let slow = (0..2 * ADMISSIONS).map(|n| new_job(&format!("slow{n}"), "acme/slow")).collect();
    let slow = submit(&router.handle, slow).await;
    let fine = submit(&router.handle, vec![new_job("fine", "acme/fine")]).await.remove(0);
    until(&router.handle, &fine, &[JobState::Admitted]).await;
    assert_eq!(router.handle.job(&slow[0]).await.unwrap().state, JobState::Routing, "nobody waited for it");
}
