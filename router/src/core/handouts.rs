//! Hand-outs of GitLab, in the steps of the task that owns the state.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Core;
use crate::{
    decision::Decision,
    gitlab::{Basis, Due, GitLabJob, HandOut, HandOuts, Names, Outstanding, Report, Standing},
    handle::{Command, CoreError, Reply},
    scheduler::Now,
    store::{Restored, StoreError},
};

/// What the task needs where it stands in front of a GitLab.
pub(crate) struct HandOutParts {
    /// Host and port of GitLab.
    pub(crate) gitlab: Arc<str>,
    /// What its runners are called.
    pub(crate) names: Names,
    /// What others see of hand-outs.
    pub(crate) outstanding: Outstanding,
    /// Where jobs go that GitLab is to be told of.
    pub(crate) finish: mpsc::UnboundedSender<HandOut>,
    /// Hears how many are being asked about, being delivered, and failing.
    pub(crate) counted: Box<dyn Fn([usize; 3]) + Send>,
}

/// Hand-outs, and where their effects go.
pub(super) struct Desk {
    table: HandOuts,
    parts: HandOutParts,
}

/// What happens to a hand-out.
#[derive(Debug)]
pub(crate) enum HandOutCommand {
    /// Its chain is being asked, and that takes a while.
    Took(HandOut),
    /// Its chain has decided.
    Decided(Box<Judged>, Reply<Ruled>),
    /// Its runner has it.
    Confirmed(GitLabJob),
    /// Its runner speaks of it, and GitLab has not taken that yet.
    Heard(GitLabJob),
    /// Nobody took it from us.
    Returned(GitLabJob),
    /// GitLab knows that it is over.
    Finished(GitLabJob),
}

/// A decision about a hand-out.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) handout: HandOut,
    pub(crate) decision: Decision,
    /// What GitLab is to be told; `None` where the job was admitted.
    pub(crate) report: Option<Report>,
    /// `None` where it cannot be read whose job it is, which is a rejection.
    pub(crate) basis: Option<Basis>,
    /// When the admission began.
    pub(crate) asked: tokio::time::Instant,
}

/// What becomes of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ruled {
    /// The job goes to its runner.
    Deliver,
    /// GitLab will be told that the job is over.
    Reject,
    /// The chain has changed, or the decision is too old: it must be asked again.
    Stale,
}

impl Desk {
    pub(super) fn new(parts: HandOutParts) -> Self {
        Self { table: HandOuts::default(), parts }
    }

    /// Takes up what was kept.
    pub(super) fn restore(&mut self, restored: &Restored, now: Now) -> Result<[u8; 16], StoreError> {
        let fresh = *uuid::Uuid::new_v4().as_bytes();
        let salt = self
            .table
            .restore(&restored.settings, &self.parts.gitlab, fresh, now)
            .map_err(|key| StoreError::new(format!("what was kept as `{key}` cannot be read")))?;
        // They are on the disk: nobody has to wait for a commit to see them, or to count them.
        for (job, shown) in self.table.shown() {
            self.parts.outstanding.show(job, Some(shown));
        }
        (self.parts.counted)(self.table.counts());
        Ok(salt)
    }

    pub(super) fn table(&self) -> &HandOuts {
        &self.table
    }

    pub(super) fn tick(&mut self, now: Now) {
        self.table.tick(now);
    }

    /// What is due once it is written.
    pub(super) fn perform(&self, due: Due) {
        match due {
            Due::Show(job, shown) => self.parts.outstanding.show(job, shown),
            // Nobody to finish it is left only when the process ends.
            Due::Finish(handout) => drop(self.parts.finish.send(*handout)),
        }
    }
}

impl Core {
    pub(super) fn handout(&mut self, command: HandOutCommand, now: Now) {
        let Some(desk) = &mut self.desk else { return };
        match command {
            HandOutCommand::Took(handout) => desk.table.took(handout, now),
            HandOutCommand::Decided(judged, reply) => {
                let job = judged.handout.job;
                match self.rule(*judged, now) {
                    // Kept apart: it does not wait for a store that cannot write, and is not as good afterwards.
                    Ruled::Deliver => self.pending.deliveries.push((job, reply)),
                    ruled => self.reply(reply, Ok(ruled)),
                }
            }
            HandOutCommand::Heard(job) => desk.table.heard(job, now),
            HandOutCommand::Confirmed(job) => desk.table.confirmed(job),
            HandOutCommand::Returned(job) => desk.table.returned(job, now),
            HandOutCommand::Finished(job) => desk.table.finished(job),
        }
    }

    /// Tests a decision in the very step that lets it take effect, as an assignment of the own queue is tested.
    fn rule(&mut self, judged: Judged, now: Now) -> Ruled {
        let Judged { handout, decision, report, basis, asked } = judged;
        let holds = basis.is_some_and(|basis| basis.holds(self.scheduler.chains(), &self.names));
        let is_fresh = holds && asked.elapsed() < self.scheduler.admission_ttl();
        let decision = self.history.record(decision);
        self.pending.batch.decisions.push(decision);
        let Some(desk) = &mut self.desk else { return Ruled::Reject };
        match report {
            // A rejection is as good as a later one would be: GitLab has no way to wait.
            Some(report) => {
                desk.table.reject(handout, report, now);
                Ruled::Reject
            }
            None if !is_fresh => {
                // It is asked again: with its decision its job is written too, so that a kill meanwhile does not leave it running.
                desk.table.took(handout, now);
                Ruled::Stale
            }
            None if desk.table.deliver(handout, now) => Ruled::Deliver,
            None => Ruled::Reject,
        }
    }

    /// Collects what changed of hand-outs.
    pub(super) fn collect_handouts(&mut self) {
        if let Some(desk) = &mut self.desk {
            let (settings, due) = desk.table.take();
            if !settings.is_empty() {
                (desk.parts.counted)(desk.table.counts());
            }
            self.pending.batch.settings.extend(settings);
            self.pending.due.extend(due);
        }
    }

    /// Lets others see chains and names as they are now.
    pub(super) fn show_standing(&self) {
        let chains = self.scheduler.chains().clone();
        self.standing.send_replace(Standing { chains, names: self.names.clone() });
    }

    /// Takes back what was to be given to runners and could not be written. Their callers are told, and tell GitLab.
    pub(super) fn withdraw_deliveries(&mut self, now: Now) {
        for (job, reply) in std::mem::take(&mut self.pending.deliveries) {
            if let Some(desk) = &mut self.desk {
                desk.table.withdraw(job, now);
            }
            // Who does not wait any more needs no answer.
            let _ = reply.send(Err(CoreError::StoreUnavailable));
        }
    }

    /// The task ends: what was said of hand-outs until now is written.
    pub(super) fn close_handouts(&mut self, commands: &mut mpsc::Receiver<Command>) {
        let now = self.now();
        while let Ok(command) = commands.try_recv() {
            if let Command::HandOut(command) = command {
                self.handout(command, now);
            }
        }
        self.settle(now);
    }
}

impl HandOutCommand {
    /// Answers a question with an error; gives back what is no question.
    pub(crate) fn refuse(self, error: CoreError) -> Option<Self> {
        match self {
            // Who does not wait any more needs no answer.
            Self::Decided(_, reply) => drop(reply.send(Err(error))),
            other => return Some(other),
        }
        None
    }
}
