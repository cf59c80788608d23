//! All hand-outs: a state machine without I/O or clock, owned by the task that owns the state. Commands and `now` go in; rows
//! to write, and what is to be done once they are written, come out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    handout::{GitLabJob, HandOut, Report, Stage},
    trace,
};
use crate::{config::Secret, scheduler::Now};

/// A runner that has not said within this time that it has the job does not have it.
pub(crate) const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);
/// The same after a restart. A runner that has said so already, to a router that died before it was written, speaks again only
/// when its interval is over, which GitLab sets to 60 s at times (facts 4.2).
pub(crate) const CONFIRMED_AFTER_RESTART: Duration = Duration::from_secs(120);
/// A runner whose word GitLab does not answer has started the job all the same (facts 4.1). It is waited for so long.
pub(crate) const HEARD_FOR: Duration = Duration::from_secs(600);
/// Hand-outs are settings of the store, under this and their number.
const KEY: &str = "gitlab/job/";
/// The salt of the short hashes that runners without a name are known by.
const SALT: &str = "gitlab/salt";

/// What is to be done once the step is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Others see the hand-out so from now on; `None`: it is gone.
    Show(GitLabJob, Option<Shown>),
    /// GitLab is to be told that the job is over.
    Finish(Box<HandOut>),
}

/// What others see of a hand-out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Given to its runner, which has not said yet that it has it. Who has this token is that runner.
    Delivering(Secret),
    /// No runner may go on with it.
    Failing,
}

#[derive(Default)]
pub(crate) struct HandOuts {
    table: BTreeMap<GitLabJob, HandOut>,
    /// How many are at each stage.
    counts: [usize; 3],
    /// When those that are being delivered must have been confirmed; by time, and by job.
    deadlines: BTreeSet<(Duration, GitLabJob)>,
    deadline_of: BTreeMap<GitLabJob, Duration>,
    /// Until when at most those are waited for that were heard of.
    limit_of: BTreeMap<GitLabJob, Duration>,
    changes: BTreeMap<String, Option<Vec<u8>>>,
    due: Vec<Due>,
}

impl HandOuts {
    /// Takes up what was kept of the jobs of `gitlab`, and gives the salt: `fresh` becomes it where there was none. Jobs that were
    /// being asked about are over: nobody waits for them any more. Those of another GitLab are left to it.
    ///
    /// # Errors
    ///
    /// The key of what cannot be read.
    pub(crate) fn restore(
        &mut self,
        settings: &BTreeMap<String, Vec<u8>>,
        gitlab: &str,
        fresh: [u8; 16],
        now: Now,
    ) -> Result<[u8; 16], String> {
        for (key, value) in settings.range(KEY.to_owned()..).take_while(|(key, _)| key.starts_with(KEY)) {
            let handout: HandOut = serde_json::from_slice(value).map_err(|_| key.clone())?;
            let job = handout.job;
            if *handout.gitlab != *gitlab {
                tracing::warn!(job = job.0, gitlab = %handout.gitlab, "a job of another GitLab was on its way; it is left to that one");
                self.changes.insert(key.clone(), None);
                continue;
            }
            match handout.stage {
                Stage::Asking => {
                    let report = handout.failed(trace::restarted());
                    self.hold(handout);
                    self.fail(job, report, now);
                }
                Stage::Delivering => {
                    // Whether its runner has it only the runner knows; it has the whole time to say so.
                    self.expect_word(job, now.tick + CONFIRMED_AFTER_RESTART, now);
                    self.due.push(Due::Show(job, Some(Shown::Delivering(handout.token.clone()))));
                    self.hold(handout);
                }
                Stage::Failing(_) => {
                    self.due.push(Due::Show(job, Some(Shown::Failing)));
                    self.due.push(Due::Finish(Box::new(handout.clone())));
                    self.hold(handout);
                }
            }
        }
        match settings.get(SALT) {
            Some(salt) => salt.as_slice().try_into().map_err(|_| SALT.to_owned()),
            None => {
                self.changes.insert(SALT.to_owned(), Some(fresh.to_vec()));
                Ok(fresh)
            }
        }
    }

    /// GitLab's answer has come, and its chain will be asked for some time.
    pub(crate) fn took(&mut self, handout: HandOut, now: Now) {
        // What was decided about it meanwhile stands.
        if !self.table.contains_key(&handout.job) {
            self.put(HandOut { stage: Stage::Asking, ..handout }, now);
        }
    }

    /// Its chain admitted it; its runner gets it when this is written. False when it is known to be over: that stands.
    pub(crate) fn deliver(&mut self, handout: HandOut, now: Now) -> bool {
        let job = handout.job;
        if self.table.get(&job).is_some_and(|known| matches!(known.stage, Stage::Failing(_))) {
            return false;
        }
        self.expect_word(job, now.tick + CONFIRMED_WITHIN, now);
        self.due.push(Due::Show(job, Some(Shown::Delivering(handout.token.clone()))));
        self.put(HandOut { stage: Stage::Delivering, ..handout }, now);
        true
    }

    /// No runner will have it.
    pub(crate) fn reject(&mut self, handout: HandOut, report: Report, now: Now) {
        let job = handout.job;
        // What is on its way to GitLab already stays as it is.
        if !self.table.get(&job).is_some_and(|known| matches!(known.stage, Stage::Failing(_))) {
            self.hold(handout);
            self.fail(job, report, now);
        }
    }

    /// Its runner has it: GitLab and the runner go on without us.
    pub(crate) fn confirmed(&mut self, job: GitLabJob) {
        if self.table.get(&job).is_some_and(|known| known.stage == Stage::Delivering) {
            self.remove(job);
        }
    }

    /// Its runner speaks of it, and GitLab has not taken that yet: the runner has it, and is given more time.
    pub(crate) fn heard(&mut self, job: GitLabJob, now: Now) {
        if let Some(limit) = self.limit_of.get(&job).copied() {
            let deadline = (now.tick + CONFIRMED_WITHIN).min(limit);
            if self.deadline_of.get(&job).is_some_and(|before| *before < deadline) {
                self.set_deadline(job, deadline);
            }
        }
    }

    /// It came back from its way to the runner: nobody took it.
    pub(crate) fn returned(&mut self, job: GitLabJob, now: Now) {
        self.give_up(job, trace::runner_gone(), now);
    }

    /// It is not given to its runner: that could not be written in time.
    pub(crate) fn withdraw(&mut self, job: GitLabJob, now: Now) {
        self.give_up(job, trace::unwritten(), now);
    }

    /// GitLab knows that it is over.
    pub(crate) fn finished(&mut self, job: GitLabJob) {
        // Also one that was never written as failing, since nothing could be written.
        if self.table.get(&job).is_some_and(|known| known.stage != Stage::Delivering) {
            self.remove(job);
        }
    }

    /// What others see of all of them.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (GitLabJob, Shown)> {
        self.table.values().filter_map(|handout| match handout.stage {
            Stage::Asking => None,
            Stage::Delivering => Some((handout.job, Shown::Delivering(handout.token.clone()))),
            Stage::Failing(_) => Some((handout.job, Shown::Failing)),
        })
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, now: Now) {
        while let Some((_, job)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now.tick) {
            self.forget_deadline(job);
            tracing::warn!(job = job.0, "a runner did not say in time that it has its job: the job is given up");
            self.give_up(job, trace::unconfirmed(), now);
        }
    }

    /// When time brings something next.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// How many are being asked about, being delivered, and failing.
    pub(crate) fn counts(&self) -> [usize; 3] {
        self.counts
    }

    /// What changed since the last time: rows to write, and what is due once they are written.
    pub(crate) fn take(&mut self) -> (BTreeMap<String, Option<Vec<u8>>>, Vec<Due>) {
        (std::mem::take(&mut self.changes), std::mem::take(&mut self.due))
    }

    fn give_up(&mut self, job: GitLabJob, trace: String, now: Now) {
        let delivering = self.table.get(&job).filter(|known| known.stage == Stage::Delivering);
        if let Some(report) = delivering.map(|handout| handout.failed(trace)) {
            self.fail(job, report, now);
        }
    }

    fn fail(&mut self, job: GitLabJob, report: Report, now: Now) {
        self.forget_deadline(job);
        let Some(handout) = self.table.get(&job).cloned() else { return };
        let handout = HandOut { stage: Stage::Failing(report), since: now.wall, ..handout };
        self.due.push(Due::Show(job, Some(Shown::Failing)));
        self.due.push(Due::Finish(Box::new(handout.clone())));
        self.write(&handout);
        self.hold(handout);
    }

    fn hold(&mut self, handout: HandOut) {
        self.counts[handout.stage.place()] += 1;
        if let Some(before) = self.table.insert(handout.job, handout) {
            self.counts[before.stage.place()] -= 1;
        }
    }

    fn put(&mut self, handout: HandOut, now: Now) {
        let handout = HandOut { since: now.wall, ..handout };
        self.write(&handout);
        self.hold(handout);
    }

    fn write(&mut self, handout: &HandOut) {
        // Texts and numbers can always be written as JSON.
        let row = serde_json::to_vec(handout).unwrap_or_default();
        self.changes.insert(key(handout.job), Some(row));
    }

    fn remove(&mut self, job: GitLabJob) {
        self.forget_deadline(job);
        if let Some(before) = self.table.remove(&job) {
            self.counts[before.stage.place()] -= 1;
        }
        self.due.push(Due::Show(job, None));
        self.changes.insert(key(job), None);
    }

    fn expect_word(&mut self, job: GitLabJob, deadline: Duration, now: Now) {
        self.set_deadline(job, deadline);
        self.limit_of.insert(job, now.tick + HEARD_FOR);
    }

    fn set_deadline(&mut self, job: GitLabJob, deadline: Duration) {
        if let Some(before) = self.deadline_of.insert(job, deadline) {
            self.deadlines.remove(&(before, job));
        }
        self.deadlines.insert((deadline, job));
    }

    fn forget_deadline(&mut self, job: GitLabJob) {
        self.limit_of.remove(&job);
        if let Some(deadline) = self.deadline_of.remove(&job) {
            self.deadlines.remove(&(deadline, job));
        }
    }
}

fn key(job: GitLabJob) -> String {
    format!("{KEY}{job}")
}
