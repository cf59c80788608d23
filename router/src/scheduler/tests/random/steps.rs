//! What can happen.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{super::*, disk::Disk, *},
    cast::{Dice, Policy, RUNNERS, cast, job, templates},
    commit::{Pending, Until},
    model::{Answer, Doing, Facts, Kept, Model, ModelJob, System},
};
use crate::handle::{RunnerAction, RunnerEvent, TaintKind};

/// Most jobs that live at once.
const MOST: usize = 40;

pub(super) type Level = (fingerprint::Fingerprint, i32);

/// A router in the making, the world around it, and the model.
pub(super) struct History {
    pub(super) dice: Dice,
    pub(super) scheduler: Scheduler,
    pub(super) model: Model,
    pub(super) tick: Duration,
    /// How far the calendar is ahead.
    pub(super) ahead: SignedDuration,
    pub(super) disk: Disk,
    pub(super) pending: Pending,
    /// The store cannot write; the router knows; it gives out nothing.
    pub(super) down: bool,
    pub(super) refusing: bool,
    pub(super) paused: bool,
    pub(super) drained: bool,
    pub(super) policy: Policy,
    pub(super) chains: Chains,
    pub(super) hold: Duration,
    pub(super) single_leader: bool,
    pub(super) variants: [bool; RUNNERS],
    pub(super) configured: [bool; RUNNERS],
    pub(super) weights: Arc<[WeightRule]>,
    /// Since when levels have been full.
    pub(super) levels: HashMap<Level, Duration>,
    /// Leases that systems were given, and whether they started them.
    pub(super) leases: BTreeMap<System, Vec<(JobId, Lease, bool)>>,
    pub(super) seen_effects: usize,
    pub(super) seen_changes: usize,
    pub(super) templates: Vec<NewJob>,
    pub(super) submitted: usize,
    pub(super) made: usize,
    pub(super) log: VecDeque<String>,
}

impl History {
    pub(super) fn new() -> Self {
        let policy = Policy::any(&mut Dice::new(0));
        let limits = Limits { max_jobs: 60, max_finished: 30, admission_ttl: Duration::from_secs(120) };
        let (chains, tick) = (policy.chains(), Duration::from_secs(400 * 24 * 3600));
        let model = Model {
            jobs: BTreeMap::new(),
            streams: BTreeMap::new(),
            questions: Vec::new(),
            admissions: HashSet::new(),
            now: Kept::default(),
            kept: Kept::default(),
            highest_lease: 0,
            kept_lease: 0,
            looked: tick,
            booted: tick,
        };
        let mut history = Self {
            dice: Dice::new(0),
            scheduler: Scheduler::new(chains.clone(), limits, Rules::default()),
            model,
            tick,
            ahead: SignedDuration::from_secs(1_000_000_000),
            disk: Disk::default(),
            pending: Pending::default(),
            down: false,
            refusing: false,
            paused: false,
            drained: false,
            policy,
            chains: chains.clone(),
            hold: Duration::from_secs(30),
            single_leader: true,
            variants: [false; RUNNERS],
            configured: [true; RUNNERS],
            weights: weights(&[("acme/**", 2)]),
            levels: HashMap::new(),
            leases: BTreeMap::new(),
            seen_effects: 0,
            seen_changes: 0,
            templates: templates(),
            submitted: 0,
            made: 0,
            log: VecDeque::new(),
        };
        history.scheduler = Scheduler::new(chains, limits, history.rules());
        history
    }

    pub(super) fn now(&self) -> Now {
        let wall = Timestamp::UNIX_EPOCH + SignedDuration::try_from(self.tick).unwrap() + self.ahead;
        Now { tick: self.tick, wall }
    }

    pub(super) fn rules(&self) -> Rules {
        let runners = (0..RUNNERS).filter(|n| self.configured[*n]).map(|n| cast(n, self.variants[n]));
        Rules {
            runners: runners.collect(),
            groups: vec![RunnerGroupConfig { name: "g".into(), single_leader: self.single_leader }],
            fairness: self.weights.clone(),
            hold: self.hold,
        }
    }

    pub(super) fn note(&mut self, what: String) {
        if self.log.len() >= 2000 {
            self.log.pop_front();
        }
        self.log.push_back(what);
    }

    /// One thing happens, and everything is checked.
    pub(super) fn step(&mut self, choice: u64) -> Result<(), String> {
        self.dice = Dice::new(choice);
        self.made += 1;
        let group = self.scheduler.runner_groups.iter().find(|group| &*group.name == "g");
        let led = self.single_leader;
        let before = group.and_then(|group| group.leader.clone()).filter(|_| led);
        let booted = self.model.booted;
        match self.dice.below(200) {
            0..28 => self.submit(),
            28..68 => self.verdict(),
            68..80 => self.attach(),
            80..82 => self.detach(),
            82..104 => self.credit(),
            104..136 => self.honest(),
            136..144 => self.lie(),
            144..160 => self.heartbeats(),
            160..178 => self.passes(3_000),
            178..181 => self.passes(60_000),
            181 => self.rare(),
            182..184 => self.cancel(),
            184..190 => self.operate(),
            190..193 => self.reload(),
            193..195 => self.reconfigure(),
            195..197 => self.outage(),
            197 => self.dies(),
            _ => self.drains(),
        }?;
        self.works()?;
        if led && booted == self.model.booted {
            self.leads(before.as_ref())?;
        }
        if self.dice.percent(70) {
            self.settle(Until::End)?;
            self.works()?;
            if self.made.is_multiple_of(32) {
                self.everything()?;
            }
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<(), String> {
        let living = self.model.jobs.values().filter(|job| !job.now.state.is_final()).count();
        if living >= MOST || self.refusing {
            return Ok(());
        }
        self.submitted += 1;
        let (new, _) = job(&self.templates, self.submitted, &mut self.dice);
        self.note(format!("submit {} {} {:?} {}", new.id, new.project.as_str(), new.tags, new.protected));
        let now = self.now();
        let facts = Facts { state: JobState::Routing, version: None, at: None, decided: now.wall, held: None };
        self.model.jobs.insert(new.id.clone(), ModelJob { new: new.clone(), now: facts, kept: None });
        self.scheduler.submit(vec![new], now).map_err(|error| error.to_string())?;
        self.observe(&Doing::Other)
    }

    fn verdict(&mut self) -> Result<(), String> {
        if self.model.questions.is_empty() {
            return Ok(());
        }
        let which = self.dice.below(self.model.questions.len());
        let question = self.model.questions[which].clone();
        let open = self.scheduler.awaits(&question.job, &question.admission);
        if self.dice.percent(90) {
            self.model.questions.remove(which);
        }
        let (answer, cause) = match self.dice.below(20) {
            0 | 1 => (Answer::Rejected, Some(Cause::Policy)),
            2 => (Answer::Rejected, Some(Cause::Failure)),
            3 => (Answer::Wait, Some(Cause::Failure)),
            _ => (Answer::Admitted, None),
        };
        self.note(format!("{} about {:?}: {answer:?}, open: {open}", question.admission, question.about));
        let conclusion = match answer {
            Answer::Admitted => Conclusion::Admitted,
            Answer::Rejected => Conclusion::Rejected,
            Answer::Wait => Conclusion::Wait,
        };
        let version = question.version.clone();
        let decided = Decided {
            job: question.job.clone(),
            admission: question.admission.clone(),
            conclusion,
            version: version.clone(),
            cause,
            reason: "because".to_owned(),
        };
        let now = self.now();
        self.scheduler.decided(decided, now);
        if self.scheduler.awaits(&question.job, &question.admission) {
            return Err(format!("{} is answered, and still open", question.admission));
        }
        self.observe(&Doing::Verdict { job: question.job, about: question.about, answer, open, version })
    }

    fn passes(&mut self, most: usize) -> Result<(), String> {
        // All of a step happens at one time.
        self.settle(Until::End)?;
        self.tick += Duration::from_millis(self.dice.below(most) as u64);
        self.note(format!("it is {:?}", self.tick));
        let now = self.now();
        self.scheduler.tick(now);
        self.observe(&Doing::Time)?;
        self.model.looked = self.tick;
        let (tick, awaited) = (self.tick, self.model.questions.len() > 80);
        if awaited {
            let scheduler = &self.scheduler;
            self.model.questions.retain(|question| scheduler.awaits(&question.job, &question.admission));
        }
        self.model.streams.retain(|_, stream| !stream.over || stream.heard + Duration::from_secs(60) > tick);
        Ok(())
    }

    pub(super) fn set_clock(&mut self) {
        let seconds = i64::try_from(self.dice.below(20_000)).unwrap() - 10_000;
        self.ahead += SignedDuration::from_secs(seconds);
        self.note(format!("the clock is set by {seconds} s"));
    }

    fn rare(&mut self) -> Result<(), String> {
        match self.dice.below(8) {
            0 => self.passes(3 * 3_600_000),
            1 => self.passes(26 * 3_600_000),
            2 => {
                self.note("the router drains".to_owned());
                self.scheduler.drain();
                self.drained = true;
                self.observe(&Doing::Other)
            }
            _ => {
                self.set_clock();
                Ok(())
            }
        }
    }

    fn cancel(&mut self) -> Result<(), String> {
        let jobs: Vec<_> =
            self.model.jobs.iter().filter(|(_, job)| !job.now.state.is_final()).map(|(id, _)| id.clone()).collect();
        let Some(job) = self.dice.pick(&jobs).filter(|_| !self.refusing) else { return Ok(()) };
        self.note(format!("cancel {job}"));
        let now = self.now();
        let state = self.scheduler.cancel(&job, "x".to_owned(), now).map(|record| record.state);
        if state != Ok(JobState::Canceled) {
            return Err(format!("{job} is not canceled: {state:?}"));
        }
        self.observe(&Doing::Cancel(job))
    }

    fn operate(&mut self) -> Result<(), String> {
        if self.refusing {
            return Ok(());
        }
        let runner = cast(if self.dice.percent(50) { 5 + self.dice.below(3) } else { self.dice.below(RUNNERS) }, false);
        let name = runner.name.to_string();
        let system = self.dice.percent(30).then(|| "x".to_owned());
        let kind = if self.dice.percent(50) { TaintKind::Jobs } else { TaintKind::Leadership };
        let action = match self.dice.below(9) {
            0 | 1 => {
                RunnerAction::Taint { runner: name, system: system.clone(), kind, reason: "x".into(), by: "op".into() }
            }
            2..6 => RunnerAction::Untaint { runner: name, system: system.clone(), kind: None },
            6 => RunnerAction::Pin { group: "g".into(), runner: name, by: "op".into() },
            7 => RunnerAction::Unpin { group: "g".into() },
            _ => RunnerAction::Drain { runner: name, system: system.clone() },
        };
        self.note(format!("{action:?}"));
        let now = self.now();
        if self.scheduler.operate(action.clone(), now).is_err() {
            return self.observe(&Doing::Other);
        }
        let system: Option<Arc<str>> = system.map(Into::into);
        let kept = &mut self.model.now;
        match action {
            RunnerAction::Taint { .. } => drop(kept.taints.insert((runner.name.clone(), kind, system))),
            RunnerAction::Untaint { .. } => {
                kept.taints.retain(|(of, _, one)| *of != runner.name || system.is_some() && *one != system);
            }
            RunnerAction::Pin { .. } => drop(kept.pins.insert("g".to_owned(), runner.name.clone())),
            RunnerAction::Unpin { .. } => drop(kept.pins.remove("g")),
            RunnerAction::Drain { .. } => {
                for stream in self.model.streams.values_mut() {
                    let meant = system.as_ref().is_none_or(|system| *system == stream.system);
                    stream.draining |= stream.runner.name == runner.name && meant;
                }
            }
        }
        self.observe(&Doing::Other)
    }

    fn reload(&mut self) -> Result<(), String> {
        self.policy = Policy::any(&mut self.dice);
        self.chains = self.policy.chains();
        self.note(format!("{:?}", self.policy));
        let now = self.now();
        self.scheduler.set_chains(self.chains.clone(), now);
        self.observe(&Doing::Other)
    }

    fn reconfigure(&mut self) -> Result<(), String> {
        let number = self.dice.below(RUNNERS);
        match self.dice.below(8) {
            0 => self.variants[number] ^= true,
            1 => self.configured[number] = false,
            2 | 3 => self.configured[number] = true,
            4 => self.single_leader ^= self.dice.percent(40),
            5 => self.weights = weights(&[("acme/**", 1 + u32::try_from(self.dice.below(4)).unwrap())]),
            _ => self.hold = Duration::from_secs(self.dice.pick(&[0, 5, 30, 60]).unwrap()),
        }
        let rules = self.rules();
        self.note(format!("rules: {} runners, {:?}, led: {}", rules.runners.len(), self.hold, self.single_leader));
        for stream in self.model.streams.values_mut() {
            stream.draining |= !rules.runners.contains(&stream.runner);
        }
        let (now, ttl) = (self.now(), self.scheduler.limits.admission_ttl);
        self.scheduler.reconfigure(self.chains.clone(), rules, ttl, false, now);
        self.observe(&Doing::Other)
    }

    fn outage(&mut self) -> Result<(), String> {
        self.down = !self.down && self.dice.percent(50);
        self.note(format!("the store is down: {}", self.down));
        Ok(())
    }

    fn dies(&mut self) -> Result<(), String> {
        self.note("the router dies".to_owned());
        self.crash()
    }

    fn drains(&mut self) -> Result<(), String> {
        let Some(session) = self.session(false).filter(|_| self.dice.percent(20)) else { return Ok(()) };
        self.says(session, RunnerEvent::Draining)
    }
}
