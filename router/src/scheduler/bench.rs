//! The state machine alone, for benchmarks: time is invented, and nothing is written or sent.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;

use super::{Decided, Effect, Limits, Now, Rules, Scheduler};
use crate::{
    ProjectGlob,
    admission::Conclusion,
    chain::{ChainVersion, Chains, Part},
    config::{NoControllers, RunnerConfig, RunnerOwner, Secret, WeightRule},
    document::{MAX_DOCUMENT_BYTES, read_documents},
    handle::{CoreError, JobResult, RunnerEvent, RunnerHello, Session},
    job::{JobId, JobState, Lease, NewJob},
};

/// What a [`Machine`] begins with.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Streams of runners, each with one slot.
    pub runners: usize,
    /// Capability groups they are spread over, by tag.
    pub groups: usize,
    /// Projects the jobs come from.
    pub projects: usize,
    /// Jobs that wait while all slots are taken.
    pub waiting: usize,
}

/// Jobs and commands that went through between two looks at what is to be done.
const STEP: usize = 8;
/// A cycle in the machine's own time.
const CYCLE: Duration = Duration::from_micros(20);
/// One job in so many may go to any group.
const ANYWHERE: usize = 7;
/// So many projects have such jobs: about as many lanes as these have must be there when few jobs wait, too.
const ANYWHERE_PROJECTS: usize = 10;
const ANY: &str = "any";

/// A scheduler whose runners all have a job, and with jobs that wait.
pub struct Machine {
    scheduler: Scheduler,
    tick: Duration,
    /// One for each project and group, and one for any group.
    templates: Vec<Vec<NewJob>>,
    version: ChainVersion,
    group_of: HashMap<Session, usize>,
    /// What is assigned, by group, the first first.
    running: Vec<VecDeque<(Session, JobId, Lease)>>,
    next: usize,
    cycle: usize,
    assigned: usize,
}

impl Machine {
    /// One of this shape.
    ///
    /// # Errors
    ///
    /// When the state machine refuses to take what it needs.
    pub fn new(shape: Shape) -> Result<Self, CoreError> {
        let Shape { runners, groups, projects, waiting } = shape;
        let configured: Vec<_> = (0..groups).map(|group| runner(&format!("g{group}"), &[ANY, &tag(group)])).collect();
        let rules = Rules { runners: configured.clone(), ..Rules::default() };
        let scheduler = scheduler(rules, 2 * (waiting + runners) + 1000);
        let project = |number: usize| format!("group-{}/project-{number}", number % 10);
        let template = |number: usize, tag: &str| template(&project(number), &[tag]);
        let mut templates = Vec::new();
        for number in 0..projects {
            let of_groups = (0..groups).map(|group| template(number, &tag(group)));
            templates.push(of_groups.chain([template(number, ANY)]).collect::<Option<_>>().ok_or_else(broken)?);
        }
        let mut machine = Self {
            version: version(&scheduler, &templates)?,
            scheduler,
            tick: Duration::from_secs(1000),
            templates,
            group_of: HashMap::new(),
            // Those with a runner.
            running: vec![VecDeque::new(); groups.min(runners)],
            next: 0,
            cycle: 0,
            assigned: 0,
        };
        for number in 0..runners {
            let group = number % machine.running.len();
            let hello = hello(&configured[group], number);
            let session = machine.scheduler.attach(&hello, machine.now())?;
            machine.group_of.insert(session, group);
            machine.scheduler.event(session, RunnerEvent::Credit(1), machine.now());
        }
        for number in 0..runners + waiting {
            // All slots are taken before anything waits.
            machine.submit(number % machine.running.len(), number >= runners)?;
            if number % STEP == 0 {
                machine.settle();
            }
        }
        machine.settle();
        Ok(machine)
    }

    /// So many times: a job is submitted and admitted, another one ends, and its runner gets a third one.
    ///
    /// # Errors
    ///
    /// When the state machine refuses a job.
    pub fn cycles(&mut self, count: usize) -> Result<(), CoreError> {
        for _ in 0..count {
            self.cycle += 1;
            self.tick += CYCLE;
            let now = self.now();
            let group = self.cycle % self.running.len();
            self.submit(group, true)?;
            if let Some((session, job, lease)) = self.running[group].pop_front() {
                let result = JobResult { state: JobState::Success, exit_code: Some(0), reason: String::new() };
                for event in [
                    RunnerEvent::Started(job.clone(), lease),
                    RunnerEvent::Finished(job, lease, result),
                    RunnerEvent::Credit(1),
                ] {
                    self.scheduler.event(session, event, now);
                }
            }
            if self.cycle.is_multiple_of(STEP) {
                self.settle();
            }
        }
        self.settle();
        Ok(())
    }

    /// Jobs that wait for a runner.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.scheduler.lanes.iter().map(|(_, lane)| lane.count).sum()
    }

    /// Jobs assigned so far.
    #[must_use]
    pub fn assigned(&self) -> usize {
        self.assigned
    }

    fn submit(&mut self, group: usize, mixed: bool) -> Result<(), CoreError> {
        self.next += 1;
        let now = self.now();
        // A project's jobs ask for one tag, or for any: it is the projects that are many, not their kinds of jobs.
        let groups = self.running.len();
        let of_group = (self.templates.len() / groups).max(1);
        let anywhere = mixed && self.next.is_multiple_of(ANYWHERE);
        let project = match anywhere {
            true => self.next / ANYWHERE % ANYWHERE_PROJECTS,
            false => group + self.next / groups % of_group * groups,
        };
        let of_project = &self.templates[project % self.templates.len()];
        let of_group = if anywhere { of_project.last() } else { of_project.get(group) };
        let new = of_group.cloned().ok_or_else(broken)?;
        submit(&mut self.scheduler, new, self.next, &self.version, now)
    }

    fn settle(&mut self) {
        let now = self.now();
        self.scheduler.tick(now);
        let outcome = self.scheduler.take_outcome(now);
        self.scheduler.written(&outcome.rows);
        for effect in outcome.effects {
            if let Effect::Assign(session, assignment) = effect
                && let Some(group) = self.group_of.get(&session)
            {
                self.assigned += 1;
                self.running[*group].push_back((session, assignment.job, assignment.lease));
            }
        }
    }

    fn now(&self) -> Now {
        now(self.tick)
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

/// Has projects of these weights, each with more jobs than can run, share the slots of one instance runner: how many of so many
/// dispatches each of them got. All jobs take the same time.
///
/// # Errors
///
/// When the state machine refuses to take what it needs.
pub fn shares(weights: &[u32], slots: u32, dispatches: usize) -> Result<Vec<usize>, CoreError> {
    let projects: Vec<_> = (0..weights.len()).map(|number| format!("group/project-{number}")).collect();
    let fairness = projects.iter().zip(weights).map(|(project, weight)| {
        Some(WeightRule { projects: vec![ProjectGlob::parse(project).ok()?], weight: *weight })
    });
    let runner = runner("r", &[]);
    let fairness = fairness.collect::<Option<_>>().ok_or_else(broken)?;
    let rules = Rules { runners: vec![runner.clone()], fairness, ..Rules::default() };
    let mut scheduler = scheduler(rules, dispatches * (weights.len() + 1));
    let templates: Option<Vec<_>> = projects.iter().map(|project| template(project, &[])).collect();
    let templates = templates.ok_or_else(broken)?;
    let mut tick = Duration::from_secs(1000);
    let mut number = 0;
    for _ in 0..dispatches {
        for new in &templates {
            number += 1;
            let version = scheduler.chains().version(&new.project, Part::Arrival);
            submit(&mut scheduler, new.clone(), number, &version, now(tick))?;
        }
    }
    let session = scheduler.attach(&RunnerHello { capacity: slots, ..hello(&runner, 0) }, now(tick))?;
    scheduler.event(session, RunnerEvent::Credit(slots), now(tick));
    let mut got = vec![0; weights.len()];
    let mut running = VecDeque::new();
    while got.iter().sum::<usize>() < dispatches {
        tick += Duration::from_millis(1);
        let outcome = scheduler.take_outcome(now(tick));
        scheduler.written(&outcome.rows);
        for effect in outcome.effects {
            let Effect::Assign(_, assignment) = effect else { continue };
            let job = scheduler.job(&assignment.job).ok_or_else(broken)?;
            let project = projects.iter().position(|project| project == job.project().as_str()).ok_or_else(broken)?;
            if got.iter().sum::<usize>() < dispatches {
                got[project] += 1;
            }
            running.push_back((assignment.job, assignment.lease));
        }
        let Some((job, lease)) = running.pop_front() else { break };
        let result = JobResult { state: JobState::Success, exit_code: Some(0), reason: String::new() };
        for event in [
            RunnerEvent::Started(job.clone(), lease),
            RunnerEvent::Finished(job, lease, result),
            RunnerEvent::Credit(1),
        ] {
            scheduler.event(session, event, now(tick));
        }
    }
    Ok(got)
}

fn scheduler(rules: Rules, max_jobs: usize) -> Scheduler {
    let admission_timeout = Duration::from_secs(10);
    let chains =
        Chains::new(Vec::new(), crate::chain::Rules { no_controllers: NoControllers::Admit, admission_timeout });
    let limits = Limits { max_jobs, max_finished: 10_000, admission_ttl: Duration::from_secs(600) };
    Scheduler::new(chains, limits, rules)
}

/// Nobody is asked, so it is the same for all of them.
fn version(scheduler: &Scheduler, templates: &[Vec<NewJob>]) -> Result<ChainVersion, CoreError> {
    let any = templates.first().and_then(|of_project| of_project.first()).ok_or_else(broken)?;
    Ok(scheduler.chains().version(&any.project, Part::Arrival))
}

/// A job is submitted, and its chain admits it.
fn submit(
    scheduler: &mut Scheduler,
    mut new: NewJob,
    number: usize,
    version: &ChainVersion,
    now: Now,
) -> Result<(), CoreError> {
    let id = JobId::new(format!("{number:032x}"));
    new.id = id.clone();
    scheduler.submit(vec![new], now)?;
    let decided = Decided {
        admission: format!("{id}-1").into(),
        job: id,
        conclusion: Conclusion::Admitted,
        version: version.clone(),
        cause: None,
        reason: String::new(),
    };
    scheduler.decided(decided, now);
    Ok(())
}

fn template(project: &str, tags: &[&str]) -> Option<NewJob> {
    let job = serde_json::json!({ "job": { "name": "build", "tags": tags }, "project": { "path": project } });
    let bytes = Bytes::from(job.to_string());
    let documents = read_documents(&bytes, "bench", MAX_DOCUMENT_BYTES).ok()?;
    Some(NewJob::new(JobId::new(""), documents.first()?))
}

fn runner(name: &str, tags: &[&str]) -> Arc<RunnerConfig> {
    let mut tags: Vec<_> = tags.iter().map(|&tag| tag.to_owned()).collect();
    tags.sort_unstable();
    Arc::new(RunnerConfig {
        name: name.into(),
        token: Secret::new("0123456789abcdef"),
        owner: RunnerOwner::Instance,
        run_untagged: tags.is_empty(),
        tags,
        protected: false,
        priority: 0,
        group: None,
    })
}

fn hello(runner: &Arc<RunnerConfig>, number: usize) -> RunnerHello {
    RunnerHello {
        runner: runner.clone(),
        system_id: format!("s{number}"),
        version: None,
        platform: None,
        executor: None,
        capacity: 1,
        leases: Vec::new(),
        taints: Vec::new(),
    }
}

fn tag(group: usize) -> String {
    format!("tag-{group}")
}

fn now(tick: Duration) -> Now {
    Now { tick, wall: Timestamp::UNIX_EPOCH + tick }
}

fn broken() -> CoreError {
    CoreError::Protocol("the bench asks for what cannot be".to_owned())
}
