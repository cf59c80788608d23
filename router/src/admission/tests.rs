//! The chain of section 4 of the design, line by line. Time is paused: nothing here waits for real.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use jobgate_sdk::Controller;

use super::*;
use crate::{
    chain::{Chains, Part, Rules},
    config::{ControllerConfig, Dial},
    testing::new_job,
};

/// Controllers and what they were asked, in order.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

struct Deaf;

impl Observer for Deaf {
    fn answered(&self, _: &Arc<str>, _: &'static str, _: Option<FailureCause>, _: Duration) {}
}

struct Bench {
    entries: Vec<Entry>,
    asked: Asked,
    rules: Rules,
}

fn bench() -> Bench {
    let rules = Rules { no_controllers: NoControllers::Admit, admission_timeout: Duration::from_secs(10) };
    Bench { entries: Vec::new(), asked: Asked::default(), rules }
}

impl Bench {
    /// Adds a controller that answers so after so long.
    fn with(self, name: &str, scope: &str, after_ms: u64, verdict: Verdict) -> Self {
        let asked = self.asked.clone();
        let name_of = name.to_owned();
        self.with_code(name, scope, move |_: AdmissionRequest| {
            asked.0.lock().unwrap().push(name_of.clone());
            let verdict = verdict.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                verdict
            }
        })
    }

    fn with_code(mut self, name: &str, scope: &str, controller: impl Controller) -> Self {
        let config = ControllerConfig {
            name: name.into(),
            scope: scope.parse().unwrap(),
            state: ControllerState::Enabled,
            kind: ControllerKind::Policy(Vec::new()),
            timeout: Duration::from_secs(2),
            on_failure: OnFailure::Reject,
            expose: Default::default(),
        };
        self.entries.push(Entry {
            config: Arc::new(config),
            controller: Arc::new(controller),
            reads_runner: false,
            versions: BTreeSet::new(),
            matched: Arc::default(),
        });
        self
    }

    /// Changes the configuration of the controller added last.
    fn but(mut self, change: impl FnOnce(&mut ControllerConfig)) -> Self {
        change(Arc::make_mut(&mut self.entries.last_mut().unwrap().config));
        self
    }

    fn dialled(self, on_failure: OnFailure) -> Self {
        self.but(|config| {
            let dial = Dial {
                urls: vec!["http://127.0.0.1:1".into()],
                ca: None,
                identity: None,
                server_name: None,
                token: None,
            };
            config.kind = ControllerKind::Dialled(dial);
            config.on_failure = on_failure;
        })
    }

    async fn admit(&self, project: &str) -> (Conclusion, Decision) {
        self.admit_with(project, mpsc::channel(8).0).await
    }

    async fn admit_with(&self, project: &str, late: mpsc::Sender<LateVerdict>) -> (Conclusion, Decision) {
        let job = new_job("job1", project);
        let chains = Chains::new(self.entries.clone(), self.rules);
        let chain = chains.chain(&job.project, Part::Arrival, chains.version(&job.project, Part::Arrival));
        let admission = Admission {
            id: "job1-1".into(),
            job: job.id.clone(),
            project: project.into(),
            view: job.view.unwrap(),
            runner: None,
            chain,
            observer: Arc::new(Deaf),
            late,
        };
        admission.run().await
    }
}

fn outcomes(decision: &Decision) -> Vec<(&str, &str)> {
    decision.verdicts.iter().map(|verdict| (&*verdict.controller, verdict.outcome)).collect()
}

#[tokio::test(start_paused = true)]
async fn levels_are_asked_from_the_instance_down_and_only_those_that_cover_the_job() {
    let bench = bench()
        .with("project", "project:acme/payments/api", 0, Verdict::admit())
        .with("other", "project:acme/payments/web", 0, Verdict::admit())
        .with("sub", "group:acme/payments", 0, Verdict::admit())
        .with("evil", "group:acme-evil", 0, Verdict::admit())
        .with("root", "group:ACME", 0, Verdict::admit())
        .with("instance", "instance", 0, Verdict::admit())
        .with("runner", "runner:r", 0, Verdict::admit())
        .with("off", "instance", 0, Verdict::reject("no"))
        .but(|config| config.state = ControllerState::Disabled);
    let (conclusion, decision) = bench.admit("acme/payments/api").await;
    assert!(matches!(conclusion, Conclusion::Admitted));
    assert_eq!(bench.asked.names(), ["instance", "root", "sub", "project"]);
    assert_eq!(decision.verdicts[1].level.as_ref(), "group:ACME");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_ends_it_before_the_next_level_and_shows_the_first_in_order() {
    let bench = bench()
        .with("slow", "instance", 100, Verdict::reject("slow but first").rule("r1"))
        .with("fast", "instance", 1, Verdict::reject("fast"))
        .with("fine", "instance", 1, Verdict::admit())
        .with("project", "project:acme/payments/api", 0, Verdict::admit());
    let (conclusion, decision) = bench.admit("acme/payments/api").await;
    assert!(matches!(conclusion, Conclusion::Rejected));
    assert_eq!(decision.cause, Some(Cause::Policy));
    assert_eq!(decision.reason, "rejected by slow (instance), rule r1: slow but first");
    assert_eq!(outcomes(&decision), [("slow", "rejected"), ("fast", "rejected"), ("fine", "admitted")]);
    assert!(!bench.asked.names().contains(&"project".to_owned()), "it never sees what the instance refused");
}

#[tokio::test(start_paused = true)]
async fn a_level_is_asked_all_at_once() {
    let bench = bench()
        .with("a", "instance", 1000, Verdict::admit())
        .with("b", "instance", 1000, Verdict::admit())
        .with("c", "instance", 1000, Verdict::admit());
    let started = Instant::now();
    bench.admit("acme/x").await;
    assert_eq!(started.elapsed().as_millis(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_never_delays_or_changes_a_decision_and_is_recorded_late() {
    let dry = |config: &mut ControllerConfig| config.state = ControllerState::DryRun;
    let bench = bench()
        .with("slow", "instance", 1500, Verdict::reject("would refuse"))
        .but(dry)
        .with("quick", "instance", 0, Verdict::reject("would refuse"))
        .but(dry)
        .with("binding", "instance", 10, Verdict::admit());
    let (late, mut verdicts) = mpsc::channel(8);
    let started = Instant::now();
    let (conclusion, decision) = bench.admit_with("acme/x", late).await;
    assert!(matches!(conclusion, Conclusion::Admitted));
    assert_eq!(started.elapsed().as_millis(), 10);
    assert_eq!(outcomes(&decision), [("quick", "rejected"), ("binding", "admitted")]);
    assert!(!decision.verdicts[0].enforced);
    let verdict = verdicts.recv().await.unwrap();
    assert_eq!((&*verdict.verdict.controller, verdict.verdict.outcome), ("slow", "rejected"));
    assert!(!verdict.verdict.enforced && &*verdict.admission == "job1-1");
    assert!(verdicts.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn silence_panics_and_failures_are_recorded_as_themselves_and_reject() {
    let failing = bench()
        .with("silent", "instance", 60_000, Verdict::admit())
        .with_code("panicking", "instance", |_: AdmissionRequest| async { panic!("on purpose") })
        .with("failing", "instance", 0, Verdict::fail("divided by zero"));
    let started = Instant::now();
    let (conclusion, decision) = failing.admit("acme/x").await;
    assert!(matches!(conclusion, Conclusion::Rejected));
    assert_eq!(started.elapsed().as_secs(), 2, "its own timeout");
    assert_eq!(decision.cause, Some(Cause::Failure));
    let failures: Vec<_> = decision.verdicts.iter().map(|verdict| verdict.failure).collect();
    assert_eq!(failures, [Some("silent"), Some("panic"), Some("error")]);
    assert!(decision.reason.starts_with("not admitted because silent (instance) gave no answer (silent)"));
}

#[tokio::test(start_paused = true)]
async fn on_failure_wait_waits_unless_somebody_rejects() {
    let wait = |config: &mut ControllerConfig| config.on_failure = OnFailure::Wait;
    let waiting = bench().with("down", "instance", 0, Verdict::fail("down")).but(wait);
    let (conclusion, decision) = waiting.admit("acme/x").await;
    assert!(matches!(conclusion, Conclusion::Wait));
    assert!(decision.will_retry && decision.cause == Some(Cause::Failure));
    let rejected = waiting.with("no", "instance", 0, Verdict::reject("no"));
    let (conclusion, decision) = rejected.admit("acme/x").await;
    assert!(matches!(conclusion, Conclusion::Rejected));
    assert_eq!(decision.cause, Some(Cause::Policy));
}

#[tokio::test(start_paused = true)]
async fn on_failure_admit_excuses_absence_and_nothing_else() {
    let causes = [
        (FailureCause::Unreachable, true),
        (FailureCause::NotAttached, true),
        (FailureCause::Silent, true),
        (FailureCause::Error, false),
        (FailureCause::Panic, false),
        (FailureCause::Malformed, false),
        (FailureCause::Oversize, false),
        (FailureCause::NoTimeLeft, false),
    ];
    for (cause, excused) in causes {
        let failing = bench().with("c", "instance", 0, Verdict::failed(cause, "x")).dialled(OnFailure::Admit);
        let (conclusion, decision) = failing.admit("acme/x").await;
        assert_eq!(matches!(conclusion, Conclusion::Admitted), excused, "{cause:?}");
        assert_eq!(decision.verdicts[0].outcome, "failed", "recorded as itself");
        assert_eq!(decision.verdicts[0].enforced, !excused);
    }
    let policy = bench()
        .with("c", "instance", 0, Verdict::failed(FailureCause::Silent, "x"))
        .but(|config| config.on_failure = OnFailure::Admit);
    assert!(matches!(policy.admit("acme/x").await.0, Conclusion::Rejected), "never for a policy in this process");
}

#[tokio::test(start_paused = true)]
async fn the_chain_as_a_whole_has_a_time_and_a_level_without_any_fails_with_that_reason() {
    let long = |config: &mut ControllerConfig| config.timeout = Duration::from_secs(8);
    let slow = bench()
        .with("first", "instance", 7_000, Verdict::admit())
        .but(long)
        .with("second", "group:acme", 7_000, Verdict::admit())
        .but(long)
        .dialled(OnFailure::Admit)
        .but(long);
    let started = Instant::now();
    let (conclusion, decision) = slow.admit("acme/x").await;
    assert_eq!(started.elapsed().as_secs(), 10);
    assert!(matches!(conclusion, Conclusion::Rejected), "no time left is never excused");
    assert_eq!(decision.verdicts[1].failure, Some("no_time_left"));
}

#[tokio::test(start_paused = true)]
async fn a_question_carries_the_time_it_has_left() {
    let seen: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let saw = seen.clone();
    let bench = bench()
        .with("first", "instance", 1_900, Verdict::admit())
        .with_code("second", "group:acme", move |request: AdmissionRequest| {
            saw.lock().unwrap().push(request.time_left());
            async { Verdict::admit() }
        })
        .but(|config| config.timeout = Duration::from_secs(9));
    bench.admit("acme/x").await;
    assert_eq!(*seen.lock().unwrap(), [Duration::from_millis(8_100)]);
}

#[tokio::test(start_paused = true)]
async fn nobody_asked_is_said_and_may_reject() {
    let mut none = bench().with("elsewhere", "group:other", 0, Verdict::admit());
    let (conclusion, decision) = none.admit("acme/x").await;
    assert!(matches!(conclusion, Conclusion::Admitted));
    assert_eq!(decision.reason, "nobody was asked: no controller applies");
    none.rules.no_controllers = NoControllers::Reject;
    assert!(matches!(none.admit("acme/x").await.0, Conclusion::Rejected));
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_dropped_stops_the_controller() {
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped: Arc<AtomicUsize> = Arc::default();
    let counter = dropped.clone();
    let bench = bench().with_code("hangs", "instance", move |_: AdmissionRequest| {
        let guard = Guard(counter.clone());
        async move {
            let _guard = guard;
            std::future::pending::<Verdict>().await
        }
    });
    bench.admit("acme/x").await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}

#[test]
fn the_version_of_a_chain_names_all_that_decides_it() {
    let base = || bench().with("a", "instance", 0, Verdict::admit()).with("b", "group:acme", 0, Verdict::admit());
    let version = |bench: Bench| {
        let chains = Chains::new(bench.entries, bench.rules);
        chains.version(&"acme/x".parse().unwrap(), Part::Arrival).as_str().to_owned()
    };
    let same = version(base());
    assert_eq!(same, version(base()));
    // It is kept on the disk: another text of the same chain has every waiting job asked about again.
    assert_eq!(same, "6fa4a09b7699af344213770f");
    assert_eq!(
        same,
        version(base().with("off", "instance", 0, Verdict::admit()).but(|c| c.state = ControllerState::Disabled))
    );
    assert_eq!(same, version(base().with("far", "group:other", 0, Verdict::admit())), "it does not apply to this job");
    let others = [
        version(base().but(|config| config.name = "c".into())),
        version(base().but(|config| config.state = ControllerState::DryRun)),
        version(base().but(|config| config.timeout = Duration::from_secs(3))),
        version(base().but(|config| config.on_failure = OnFailure::Wait)),
        version(base().but(|config| config.scope = "group:ACME".parse::<crate::path::Scope>().unwrap())),
        version(base().with("more", "instance", 0, Verdict::admit())),
        {
            let mut changed = base();
            changed.entries[0].versions = ["v2".into()].into();
            version(changed)
        },
    ];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(*other, same, "change {index}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_goes_on_while_later_levels_are_asked() {
    let bench = bench()
        .with_code("dry", "instance", |_: AdmissionRequest| async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Verdict::admit()
        })
        .but(|config| config.state = ControllerState::DryRun)
        .with("first", "instance", 0, Verdict::admit())
        .with("slow", "group:acme", 1900, Verdict::admit())
        .with("slower", "project:acme/api", 1900, Verdict::admit());
    let (late, mut verdicts) = mpsc::channel(8);
    let (conclusion, _) = bench.admit_with("acme/api", late).await;
    assert!(matches!(conclusion, Conclusion::Admitted));
    let verdict = verdicts.recv().await.unwrap().verdict;
    assert_eq!((verdict.outcome, verdict.duration_us / 1000), ("admitted", 1500), "{verdict:?}");
}

/// Written without `async_trait`: the panic comes before there is a future.
struct Abrupt;

impl Controller for Abrupt {
    fn admit<'a, 'r, 'f>(&'a self, _: &'r AdmissionRequest) -> BoxFuture<'f, Verdict>
    where
        'a: 'f,
        'r: 'f,
        Self: 'f,
    {
        panic!("the admin password is hunter2")
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_before_the_first_await_is_a_failure_and_says_nothing_of_itself() {
    let (conclusion, decision) = bench().with_code("abrupt", "instance", Abrupt).admit("acme/api").await;
    assert!(matches!(conclusion, Conclusion::Rejected));
    assert_eq!(decision.verdicts[0].failure, Some("panic"));
    assert!(!format!("{decision:?}").contains("hunter2"));
}

#[tokio::test(start_paused = true)]
async fn time_that_the_admission_took_away_is_not_the_controllers_silence() {
    for cause in [FailureCause::Silent, FailureCause::Unreachable] {
        let mut bench = bench()
            .with("slow", "instance", 500, Verdict::admit())
            .with_code("remote", "group:acme", move |request: AdmissionRequest| async move {
                // As a client of gRPC does, which knows the limit too.
                tokio::time::sleep(request.time_left()).await;
                Verdict::failed(cause, "timeout expired")
            })
            .dialled(OnFailure::Admit);
        bench.rules.admission_timeout = Duration::from_secs(1);
        let (conclusion, decision) = bench.admit("acme/api").await;
        assert!(matches!(conclusion, Conclusion::Rejected), "{cause:?}");
        assert_eq!(decision.verdicts[1].failure, Some("no_time_left"));
    }
}
