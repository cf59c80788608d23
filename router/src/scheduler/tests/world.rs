//! A scheduler, its clock, a store and what has left it: the language in which the tests speak.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use jobgate_sdk::{Controller, Verdict};

use super::{super::*, disk::Disk, recount::recount};
use crate::{
    chain::Entry,
    config::{
        ControllerConfig, ControllerKind, ControllerState, NoControllers, OnFailure, RunnerConfig, RunnerOwner, Secret,
    },
    glob::ProjectGlob,
    handle::{HeldLease, JobResult, QueueSignal, RunnerAction, RunnerEvent, RunnerHello, TaintKind, Waits},
    path::Scope,
};

pub(super) const TTL: Duration = Duration::from_secs(600);

pub(super) fn entry(name: &str, scope: &str, version: &str) -> Entry {
    let controller = |_: jobgate_sdk::AdmissionRequest| async { Verdict::admit() };
    let controller: Arc<dyn Controller> = Arc::new(controller);
    Entry {
        config: Arc::new(ControllerConfig {
            name: name.into(),
            scope: scope.parse::<Scope>().unwrap(),
            state: ControllerState::Enabled,
            kind: ControllerKind::Policy(Vec::new()),
            timeout: Duration::from_secs(2),
            on_failure: OnFailure::Reject,
            expose: Default::default(),
        }),
        controller,
        reads_runner: false,
        versions: [version.into()].into(),
        matched: Arc::default(),
    }
}

pub(super) fn chains(entries: Vec<Entry>) -> Chains {
    Chains::new(
        entries,
        crate::chain::Rules { no_controllers: NoControllers::Admit, admission_timeout: Duration::from_secs(10) },
    )
}

pub(super) fn runner(name: &str, tags: &[&str], owner: RunnerOwner, protected: bool) -> Arc<RunnerConfig> {
    Arc::new(RunnerConfig {
        name: name.into(),
        token: Secret::new("0123456789abcdef"),
        owner,
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        run_untagged: tags.is_empty(),
        protected,
        priority: 0,
        group: None,
    })
}

pub(super) fn any_runner(name: &str) -> Arc<RunnerConfig> {
    runner(name, &[], RunnerOwner::Instance, false)
}

/// A runner that takes any job, of this priority.
pub(super) fn ranked(name: &str, priority: i32) -> Arc<RunnerConfig> {
    Arc::new(RunnerConfig { priority, ..RunnerConfig::clone(&any_runner(name)) })
}

/// A runner that takes any job, in this runner group.
pub(super) fn member(name: &str, group: &str) -> Arc<RunnerConfig> {
    Arc::new(RunnerConfig { group: Some(group.into()), ..RunnerConfig::clone(&any_runner(name)) })
}

/// Rules with these runners, and with a leader in each of their groups.
pub(super) fn rules(runners: &[&Arc<RunnerConfig>]) -> Rules {
    let mut names: Vec<_> = runners.iter().filter_map(|runner| runner.group.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let groups = names.into_iter().map(|name| RunnerGroupConfig { name, single_leader: true });
    Rules {
        runners: runners.iter().map(|runner| Arc::clone(runner)).collect(),
        groups: groups.collect(),
        fairness: Vec::new().into(),
        hold: Duration::from_secs(30),
    }
}

pub(super) fn weights(of: &[(&str, u32)]) -> Arc<[WeightRule]> {
    let rule = |(glob, weight): &(&str, u32)| WeightRule {
        projects: vec![ProjectGlob::parse(glob).unwrap()],
        weight: *weight,
    };
    of.iter().map(rule).collect()
}

pub(super) fn success() -> JobResult {
    JobResult { state: JobState::Success, exit_code: Some(0), reason: String::new() }
}

/// A scheduler, its clock, a store that keeps what is committed, and what has left so far.
pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) now: Duration,
    /// How much the calendar is ahead of where it began.
    pub(super) ahead: SignedDuration,
    pub(super) rules: Rules,
    pub(super) asked: Vec<(JobId, Arc<str>)>,
    pub(super) orders: Vec<(Session, RunnerOrder)>,
    pub(super) assigned: Vec<(Session, JobId, Lease)>,
    /// The leadership each of them was given under.
    pub(super) fences: Vec<Option<u64>>,
    pub(super) signals: Vec<(Session, QueueSignal, Duration)>,
    pub(super) disk: Disk,
    /// Whether each step is written to the store, and everything is recounted after it.
    pub(super) careful: bool,
    pub(super) next: u32,
}

impl World {
    pub(super) fn new(chains: Chains) -> Self {
        Self::with(chains, Rules::default())
    }

    pub(super) fn with(chains: Chains, rules: Rules) -> Self {
        Self::limited(chains, rules, 1000)
    }

    pub(super) fn limited(chains: Chains, rules: Rules, max_jobs: usize) -> Self {
        let limits = Limits { max_jobs, max_finished: 100, admission_ttl: TTL };
        Self {
            scheduler: Scheduler::new(chains, limits, rules.clone()),
            now: Duration::from_secs(100_000),
            ahead: SignedDuration::ZERO,
            rules,
            asked: Vec::new(),
            orders: Vec::new(),
            assigned: Vec::new(),
            fences: Vec::new(),
            signals: Vec::new(),
            disk: Disk::default(),
            careful: true,
            next: 0,
        }
    }

    /// One in which decisions serve for days.
    pub(super) fn patient(chains: Chains) -> Self {
        let mut world = Self::new(chains);
        world.scheduler.limits.admission_ttl = TTL * 1000;
        world
    }

    pub(super) fn now(&self) -> Now {
        let wall = Timestamp::UNIX_EPOCH + SignedDuration::try_from(self.now).unwrap() + self.ahead;
        Now { tick: self.now, wall }
    }

    pub(super) fn settle(&mut self) {
        let now = self.now();
        let outcome = self.scheduler.take_outcome(now);
        if self.careful {
            self.disk.commit(&mut self.scheduler, &outcome.rows, &outcome.new, &outcome.settings, now);
        }
        self.scheduler.written(&outcome.rows);
        for effect in outcome.effects {
            match effect {
                Effect::Assign(session, assignment) => {
                    self.assigned.push((session, assignment.job, assignment.lease));
                    self.fences.push(assignment.fence);
                }
                Effect::Ask { job, admission } | Effect::AskAboutRunner { job, admission, .. } => {
                    self.asked.push((job, admission));
                }
                Effect::Order(session, RunnerOrder::Queue(signal)) => self.signals.push((session, signal, self.now)),
                Effect::Order(session, order) => self.orders.push((session, order)),
                Effect::End(session, error) => self.orders.push((session, RunnerOrder::End(error))),
            }
        }
        if self.careful {
            recount(&self.scheduler, now.tick).unwrap();
        }
    }

    /// The router crashes, and begins again from what was committed.
    pub(super) fn restart(&mut self) {
        let chains = self.scheduler.chains().clone();
        self.restart_with(chains, TTL);
    }

    pub(super) fn restart_with(&mut self, chains: Chains, ttl: Duration) {
        let limits = Limits { admission_ttl: ttl, ..self.scheduler.limits };
        self.scheduler = Scheduler::new(chains, limits, self.rules.clone());
        let now = self.now();
        self.scheduler.restore(self.disk.read(), now).unwrap();
        self.scheduler.begin(now);
        self.settle();
    }

    pub(super) fn submit(&mut self, change: impl FnOnce(&mut NewJob)) -> JobId {
        self.next += 1;
        let mut job = crate::testing::new_job(&format!("job{:04}", self.next), "acme/payments/api");
        change(&mut job);
        let id = job.id.clone();
        self.scheduler.submit(vec![job], self.now()).unwrap();
        self.settle();
        id
    }

    /// Answers the newest open admission of a job.
    pub(super) fn decide(&mut self, job: &JobId, conclusion: Conclusion, runner: Option<&str>) {
        let (_, admission) = self.asked.iter().rev().find(|(asked, _)| asked == job).unwrap().clone();
        let part = runner.map_or(Part::Arrival, Part::Runner);
        let project = self.scheduler.job(job).unwrap().record.project.clone();
        let version = self.scheduler.chains().version(&project, part);
        self.decide_as(job, admission, conclusion, version);
    }

    pub(super) fn decide_as(
        &mut self,
        job: &JobId,
        admission: Arc<str>,
        conclusion: Conclusion,
        version: ChainVersion,
    ) {
        let cause = match conclusion {
            Conclusion::Admitted => None,
            Conclusion::Rejected => Some(Cause::Policy),
            Conclusion::Wait => Some(Cause::Failure),
        };
        let decided = Decided { job: job.clone(), admission, conclusion, version, cause, reason: "because".into() };
        let now = self.now();
        self.scheduler.decided(decided, now);
        self.settle();
    }

    pub(super) fn admitted(&mut self) -> JobId {
        self.admitted_as(|_| {})
    }

    pub(super) fn admitted_as(&mut self, change: impl FnOnce(&mut NewJob)) -> JobId {
        let job = self.submit(change);
        self.decide(&job, Conclusion::Admitted, None);
        job
    }

    pub(super) fn attach(&mut self, runner: &Arc<RunnerConfig>, capacity: u32, leases: Vec<HeldLease>) -> Session {
        self.attach_as(runner, "host", capacity, leases)
    }

    /// Attaches a system that tells its id as its version.
    pub(super) fn attach_as(
        &mut self,
        runner: &Arc<RunnerConfig>,
        system: &str,
        capacity: u32,
        leases: Vec<HeldLease>,
    ) -> Session {
        let hello = hello(runner, system, capacity, leases);
        self.greet(&hello)
    }

    pub(super) fn greet(&mut self, hello: &RunnerHello) -> Session {
        let now = self.now();
        let session = self.scheduler.attach(hello, now).unwrap();
        self.settle();
        session
    }

    /// Attaches a runner all of whose slots are free.
    pub(super) fn ready(&mut self, runner: &Arc<RunnerConfig>, slots: u32) -> Session {
        let session = self.attach(runner, slots, vec![]);
        self.says(session, RunnerEvent::Credit(slots));
        session
    }

    pub(super) fn detach(&mut self, session: Session) {
        let now = self.now();
        self.scheduler.detach(session, now);
        self.settle();
    }

    pub(super) fn says(&mut self, session: Session, event: RunnerEvent) {
        let now = self.now();
        self.scheduler.event(session, event, now);
        self.settle();
    }

    /// A runner starts and finishes a job it was given.
    pub(super) fn runs(&mut self, session: Session, job: &JobId) {
        let lease = self.lease(job);
        self.says(session, RunnerEvent::Started(job.clone(), lease));
        self.says(session, RunnerEvent::Finished(job.clone(), lease, success()));
    }

    pub(super) fn after(&mut self, seconds: u64) {
        self.after_ms(seconds * 1000);
    }

    pub(super) fn after_ms(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        let now = self.now();
        self.scheduler.tick(now);
        self.settle();
    }

    /// Time passes while a runner is there, with its slots taken by others.
    pub(super) fn hold_out(&mut self, session: Session, seconds: u64) {
        for _ in 0..seconds / 10 {
            self.after(10);
            self.says(session, RunnerEvent::Heartbeat(vec![]));
        }
    }

    /// Time passes while these runners are heard, with what they hold.
    pub(super) fn alive(&mut self, sessions: &[Session], seconds: u64) {
        let mut left = seconds;
        while left > 0 {
            let step = left.min(if self.careful { 5 } else { 10 });
            self.after(step);
            left -= step;
            for session in sessions {
                let held = self.held(*session);
                self.says(*session, RunnerEvent::Heartbeat(held));
            }
        }
    }

    /// The leases that an honest runner on this stream would say it holds.
    pub(super) fn held(&self, session: Session) -> Vec<HeldLease> {
        let of_session = |job: &&Job| job.grant().is_some_and(|grant| grant.session == Some(session));
        let held = self.scheduler.jobs.iter().filter(of_session).filter_map(|job| {
            let started = job.record.state == JobState::Running;
            Some(HeldLease { job: job.record.id.clone(), lease: job.record.lease?, started })
        });
        held.collect()
    }

    pub(super) fn set_chains(&mut self, chains: Chains) {
        let now = self.now();
        self.scheduler.set_chains(chains, now);
        self.settle();
    }

    /// A reload of the configuration that leaves chains as they are.
    pub(super) fn reconfigure(&mut self, rules: Rules) {
        self.rules = rules.clone();
        let (now, chains) = (self.now(), self.scheduler.chains().clone());
        self.scheduler.reconfigure(chains, rules, TTL, false, now);
        self.settle();
    }

    pub(super) fn operate(&mut self, action: RunnerAction) {
        let now = self.now();
        self.scheduler.operate(action, now).unwrap();
        self.settle();
    }

    pub(super) fn taint(&mut self, runner: &str, kind: TaintKind) {
        self.operate(RunnerAction::Taint {
            runner: runner.into(),
            system: None,
            kind,
            reason: "broken".into(),
            by: "op".into(),
        });
    }

    pub(super) fn untaint(&mut self, runner: &str) {
        self.operate(RunnerAction::Untaint { runner: runner.into(), system: None, kind: None });
    }

    pub(super) fn pin(&mut self, group: &str, runner: &str) {
        self.operate(RunnerAction::Pin { group: group.into(), runner: runner.into(), by: "op".into() });
    }

    pub(super) fn cancel(&mut self, job: &JobId) -> Result<Arc<JobRecord>, CoreError> {
        let now = self.now();
        let result = self.scheduler.cancel(job, "canceled by ci".into(), now);
        self.settle();
        result
    }

    pub(super) fn state(&self, job: &JobId) -> JobState {
        self.scheduler.job(job).unwrap().record.state
    }

    pub(super) fn reason(&self, job: &JobId) -> String {
        self.scheduler.job(job).unwrap().record.reason.clone()
    }

    pub(super) fn waits(&self, job: &JobId) -> Waits {
        self.scheduler.explain(job, self.now()).unwrap().waits.unwrap()
    }

    /// The latest lease of a job.
    pub(super) fn lease(&self, job: &JobId) -> Lease {
        self.scheduler.job(job).unwrap().record.lease.unwrap()
    }

    pub(super) fn assigned(&self) -> Vec<(Session, JobId, Lease)> {
        self.assigned.clone()
    }

    /// Jobs in the order in which they were given out.
    pub(super) fn given(&self) -> Vec<JobId> {
        self.assigned.iter().map(|(_, job, _)| job.clone()).collect()
    }

    /// The stream that got a job last.
    pub(super) fn given_to(&self, job: &JobId) -> Option<Session> {
        self.assigned.iter().rev().find(|(_, given, _)| given == job).map(|(session, ..)| *session)
    }

    /// The reasons for which a stream was told to stop a job.
    pub(super) fn stopped(&self, session: Session, job: &JobId) -> Vec<String> {
        let orders = self.orders.iter().filter_map(|(to, order)| match order {
            RunnerOrder::Cancel(id, _, reason) if *to == session && id == job => Some(reason.clone()),
            _ => None,
        });
        orders.collect()
    }
}

pub(super) fn hello(runner: &Arc<RunnerConfig>, system: &str, capacity: u32, leases: Vec<HeldLease>) -> RunnerHello {
    RunnerHello {
        runner: runner.clone(),
        system_id: system.into(),
        version: Some(system.into()),
        platform: None,
        executor: None,
        capacity,
        leases,
        taints: Vec::new(),
    }
}
