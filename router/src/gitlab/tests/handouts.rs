//! Random histories of hand-outs, with restarts between any two steps, against what must hold of each job.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::super::{
    handout::{GitLabJob, HandOut, Report, Stage},
    handouts::{CONFIRMED_AFTER_RESTART, CONFIRMED_WITHIN, Due, HEARD_FOR, HandOuts, Shown},
};
use crate::{config::Secret, scheduler::Now};

const JOBS: i64 = 12;

fn handout(job: GitLabJob) -> HandOut {
    HandOut {
        job,
        gitlab: "gitlab.example".into(),
        token: Secret::new(format!("glcbt-{job}")),
        project: "acme/api".into(),
        runner: "r".into(),
        failure_reason: "runner_system_failure".into(),
        stage: Stage::Asking,
        since: jiff::Timestamp::UNIX_EPOCH,
    }
}

/// What is known of a job from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Model {
    #[default]
    Unknown,
    Asking,
    /// Until then, and if it is heard of until the other.
    Delivering(std::time::Duration, std::time::Duration),
    Failing,
    /// Its runner has it, or GitLab knows that it is over.
    Gone,
}

/// The machine, and a disk beside it.
struct World {
    machine: HandOuts,
    disk: BTreeMap<String, Vec<u8>>,
    shown: BTreeMap<GitLabJob, Shown>,
    finishing: BTreeSet<GitLabJob>,
    model: BTreeMap<GitLabJob, Model>,
    tick: std::time::Duration,
}

impl World {
    fn now(&self) -> Now {
        Now { tick: self.tick, wall: jiff::Timestamp::UNIX_EPOCH }
    }

    /// Writes what changed, and lets it take effect.
    fn commit(&mut self) {
        let (settings, due) = self.machine.take();
        for (key, value) in settings {
            match value {
                Some(value) => drop(self.disk.insert(key, value)),
                None => drop(self.disk.remove(&key)),
            }
        }
        for due in due {
            match due {
                Due::Show(job, Some(shown)) => drop(self.shown.insert(job, shown)),
                Due::Show(job, None) => drop(self.shown.remove(&job)),
                Due::Finish(handout) => {
                    assert!(matches!(handout.stage, Stage::Failing(_)), "{handout:?}");
                    assert!(self.finishing.insert(handout.job), "GitLab is told of {} twice at once", handout.job);
                }
            }
        }
    }

    fn restart(&mut self) {
        self.machine = HandOuts::default();
        self.shown.clear();
        self.finishing.clear();
        let now = self.now();
        self.machine.restore(&self.disk, "gitlab.example", [7; 16], now).unwrap();
        for model in self.model.values_mut() {
            *model = match *model {
                Model::Asking => Model::Failing,
                Model::Delivering(..) => Model::Delivering(self.tick + CONFIRMED_AFTER_RESTART, self.tick + HEARD_FOR),
                other => other,
            };
        }
        self.commit();
    }

    fn check(&self) {
        for (job, model) in &self.model {
            let shown = match model {
                Model::Delivering(..) => Some(Shown::Delivering(Secret::new(format!("glcbt-{job}")))),
                Model::Failing => Some(Shown::Failing),
                _ => None,
            };
            assert_eq!(self.shown.get(job), shown.as_ref(), "{job}");
            assert_eq!(self.finishing.contains(job), *model == Model::Failing, "{job} {model:?}");
            let is_kept = self.disk.contains_key(&format!("gitlab/job/{job}"));
            assert_eq!(is_kept, !matches!(model, Model::Unknown | Model::Gone), "{job} {model:?}");
        }
        let count = |wanted: fn(&Model) -> bool| self.model.values().filter(|model| wanted(model)).count();
        let counts = [
            count(|model| *model == Model::Asking),
            count(|model| matches!(model, Model::Delivering(..))),
            count(|model| *model == Model::Failing),
        ];
        assert_eq!(self.machine.counts(), counts);
    }
}

#[test]
fn random_histories_of_hand_outs_end_each_job_once() {
    let seed = std::env::var("JOBGATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut world = World {
        machine: HandOuts::default(),
        disk: BTreeMap::new(),
        shown: BTreeMap::new(),
        finishing: BTreeSet::new(),
        model: BTreeMap::new(),
        tick: std::time::Duration::from_secs(1000),
    };
    world.restart();
    let report = || Report { failure_reason: "job_router_failure".into(), trace: "no".to_owned() };
    for step in 0..100_000 {
        let job = GitLabJob(dice.random_range(1..=JOBS));
        let before = world.model.get(&job).copied().unwrap_or_default();
        let now = world.now();
        let after = match dice.random_range(0..10) {
            0 => {
                world.machine.took(handout(job), now);
                if matches!(before, Model::Unknown | Model::Gone) { Model::Asking } else { before }
            }
            1 => {
                let delivers = world.machine.deliver(handout(job), now);
                assert_eq!(delivers, before != Model::Failing, "what is given up is delivered to nobody: {job}");
                if delivers { Model::Delivering(world.tick + CONFIRMED_WITHIN, world.tick + HEARD_FOR) } else { before }
            }
            2 => {
                world.machine.reject(handout(job), report(), now);
                Model::Failing
            }
            3 => {
                world.machine.confirmed(job);
                if matches!(before, Model::Delivering(..)) { Model::Gone } else { before }
            }
            4 => {
                world.machine.returned(job, now);
                if matches!(before, Model::Delivering(..)) { Model::Failing } else { before }
            }
            5 if world.finishing.remove(&job) => {
                world.machine.finished(job);
                Model::Gone
            }
            6 => {
                world.tick += std::time::Duration::from_secs(dice.random_range(0..30));
                let (now, tick) = (world.now(), world.tick);
                world.machine.tick(now);
                for model in world.model.values_mut() {
                    if matches!(*model, Model::Delivering(until, _) if until <= tick) {
                        *model = Model::Failing;
                    }
                }
                world.model.get(&job).copied().unwrap_or_default()
            }
            7 if dice.random_range(0..20) == 0 => {
                world.restart();
                world.model.get(&job).copied().unwrap_or_default()
            }
            8 => {
                world.machine.heard(job, now);
                match before {
                    Model::Delivering(until, limit) => {
                        Model::Delivering((world.tick + CONFIRMED_WITHIN).min(limit).max(until), limit)
                    }
                    other => other,
                }
            }
            9 => {
                world.machine.withdraw(job, now);
                if matches!(before, Model::Delivering(..)) { Model::Failing } else { before }
            }
            _ => before,
        };
        world.model.insert(job, after);
        world.commit();
        world.check();
        if step % 1000 == 0 {
            let first = world.model.values().filter_map(|model| match model {
                Model::Delivering(until, _) => Some(*until),
                _ => None,
            });
            assert_eq!(world.machine.next_deadline(), first.min(), "seed {seed}, step {step}");
        }
    }
}

#[test]
fn the_salt_stays_and_what_cannot_be_read_is_named() {
    let now = Now { tick: CONFIRMED_WITHIN, wall: jiff::Timestamp::UNIX_EPOCH };
    let mut machine = HandOuts::default();
    assert_eq!(machine.restore(&BTreeMap::new(), "", [1; 16], now), Ok([1; 16]));
    let (written, _) = machine.take();
    let disk: BTreeMap<_, _> = written.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    assert_eq!(HandOuts::default().restore(&disk, "", [2; 16], now), Ok([1; 16]), "the one that was kept");
    for key in ["gitlab/job/7", "gitlab/salt"] {
        let damaged = BTreeMap::from([(key.to_owned(), b"{".to_vec())]);
        assert_eq!(HandOuts::default().restore(&damaged, "", [2; 16], now), Err(key.to_owned()));
    }
}

#[test]
fn a_hand_out_does_not_print_its_token() {
    assert!(!format!("{:?}", handout(GitLabJob(7))).contains("glcbt"));
}

#[test]
fn what_another_gitlab_gave_is_left_to_it() {
    let now = Now { tick: CONFIRMED_WITHIN, wall: jiff::Timestamp::UNIX_EPOCH };
    let mut machine = HandOuts::default();
    assert!(machine.deliver(handout(GitLabJob(7)), now));
    let (written, _) = machine.take();
    let disk = written.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let mut elsewhere = HandOuts::default();
    elsewhere.restore(&disk, "other.example", [1; 16], now).unwrap();
    assert_eq!((elsewhere.counts(), elsewhere.shown().count()), ([0, 0, 0], 0));
    assert_eq!(elsewhere.take().0.get("gitlab/job/7"), Some(&None));
}
