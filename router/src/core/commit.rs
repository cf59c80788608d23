//! The end of a step: what it changed is committed, and then takes effect.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;

use super::{Core, Ruled};
use crate::{
    gitlab::{Due, GitLabJob},
    handle::{Reply, RunnerOrder, Session},
    scheduler::{Assignment, Content, Effect, NewDocument, Now, Slot},
    store::{Batch, DocumentRef},
};

/// Pause before a failed commit is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Orders kept for one runner's stream while the store cannot write.
pub(super) const MOST_HELD: usize = 4096;

/// What this step has to write, and what leaves once it is written.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    /// Jobs whose rows are to be written.
    rows: Vec<Slot>,
    /// New jobs, in the order of the batch's documents.
    new: Vec<Slot>,
    /// Effects of earlier steps that could not be committed.
    held: Vec<Effect>,
    /// How many of them each runner's stream waits for.
    held_orders: HashMap<Session, usize>,
    effects: Vec<Effect>,
    /// What is due of hand-outs.
    pub(super) due: Vec<Due>,
    /// Jobs of GitLab that are given to their runners once that is written.
    pub(super) deliveries: Vec<(GitLabJob, Reply<Ruled>)>,
    pub(super) replies: Vec<Box<dyn FnOnce() + Send>>,
}

impl Core {
    /// Commits what the step changed, and lets it take effect. What cannot be committed waits, and takes no effect.
    pub(super) fn settle(&mut self, now: Now) {
        loop {
            self.collect(now);
            if self.pending.is_empty() {
                break;
            }
            if !self.commit(now) {
                return self.hold(now);
            }
            let Pending { batch, held, effects, due, deliveries, replies, .. } = std::mem::take(&mut self.pending);
            // Before the answers: a runner that has its job is recognised by what it says next.
            for due in due {
                if let Some(desk) = &self.desk {
                    desk.perform(due);
                }
            }
            // Before the answers: who asks for a job and follows it then knows which changes its answer contains.
            for record in batch.records {
                // Nobody watching is fine.
                let _ = self.changes.send(record);
            }
            for reply in replies {
                reply();
            }
            for (_, reply) in deliveries {
                // Who does not wait any more finds that out when it would give the job on.
                let _ = reply.send(Ok(Ruled::Deliver));
            }
            for decision in &batch.decisions {
                (self.export)(decision);
            }
            // An effect may fail and change the state again: another round.
            for effect in held.into_iter().chain(effects) {
                self.perform(effect, now);
            }
            self.scheduler.resume(now);
        }
        self.ask_next();
    }

    fn collect(&mut self, now: Now) {
        loop {
            let outcome = self.scheduler.take_outcome(now);
            for record in outcome.changed.iter().filter(|record| record.state.is_final()) {
                self.history.ended(&record.id, record.state);
            }
            let pending = &mut self.pending;
            pending.batch.records.extend(outcome.changed);
            pending.rows.extend(outcome.rows);
            for NewDocument { slot, job, document } in outcome.new {
                pending.new.push(slot);
                pending.batch.documents.push((job, document));
            }
            pending.batch.settings.extend(outcome.settings);
            let mut went_on = false;
            for effect in outcome.effects {
                match effect {
                    Effect::Ask { job, admission } if self.decide_at_once(&job, &admission, now) => went_on = true,
                    effect => self.pending.effects.push(effect),
                }
            }
            if !went_on {
                break;
            }
        }
        self.collect_handouts();
    }

    /// What becomes of a step that cannot be committed. No assignment is kept for later: its lease would run out, and its
    /// decision grow old, before it leaves. What tells runners that the router lives, or that their stream is over, does not
    /// wait: runners that hear nothing kill their jobs.
    fn hold(&mut self, now: Now) {
        self.scheduler.pause();
        for effect in std::mem::take(&mut self.pending.effects) {
            match effect {
                Effect::Assign(_, assignment) => self.scheduler.take_back(&assignment.job, assignment.lease, now),
                Effect::Order(_, RunnerOrder::Heartbeat | RunnerOrder::Drain) | Effect::End(..) => {
                    self.perform(effect, now);
                }
                // It would be old when it leaves; another one comes.
                Effect::Order(_, RunnerOrder::Queue(_)) => {}
                Effect::Order(session, _) if !self.may_hold(session) => {
                    tracing::warn!("a runner has too many answers to wait for; it is detached");
                    self.outboxes.remove(&session);
                    self.scheduler.detach(session, now);
                }
                effect => self.pending.held.push(effect),
            }
        }
        self.withdraw_deliveries(now);
        self.collect(now);
    }

    /// Counts an order that waits for the store; `false` when there are too many of its stream.
    fn may_hold(&mut self, session: Session) -> bool {
        let held = self.pending.held_orders.entry(session).or_default();
        *held += 1;
        *held <= MOST_HELD
    }

    fn commit(&mut self, now: Now) -> bool {
        if self.retry_at.is_some_and(|retry| now.tick < retry) {
            return false;
        }
        if !self.pending.has_to_write() {
            // What leaves now may rest on what is not written yet.
            return *self.store_ok.borrow();
        }
        if self.archive.is_some() {
            let rows = self.pending.rows.iter().filter_map(|slot| self.scheduler.row(*slot, now));
            self.pending.batch.rows = rows.collect();
        }
        match self.store.commit(&self.pending.batch) {
            Ok(documents) => {
                self.retry_at = None;
                if !self.store_ok.send_replace(true) {
                    tracing::info!("the store can write again");
                }
                for (slot, at) in self.pending.new.iter().zip(documents) {
                    self.scheduler.stored(*slot, at);
                }
                self.scheduler.written(&self.pending.rows);
                true
            }
            Err(error) => {
                self.retry_at = Some(now.tick + STORE_RETRY);
                if self.store_ok.send_replace(false) {
                    tracing::error!(%error, "nothing is delivered until the store can write");
                }
                false
            }
        }
    }

    fn perform(&mut self, effect: Effect, now: Now) {
        match effect {
            Effect::Ask { job, admission } => self.ask(job, admission, None),
            Effect::AskAboutRunner { job, admission, runner } => self.ask(job, admission, Some(runner)),
            Effect::Assign(session, assignment) => self.deliver(session, *assignment, now),
            Effect::Order(session, order) => self.order(session, order, now),
            Effect::End(session, error) => {
                if let Some(outbox) = self.outboxes.remove(&session) {
                    // If it does not even read this, the end of the channel tells it.
                    let _ = outbox.try_send(RunnerOrder::End(error));
                }
            }
        }
    }

    fn deliver(&mut self, session: Session, assignment: Assignment, now: Now) {
        let Assignment { job, lease, content, timeout_seconds, fence } = assignment;
        match self.document(content) {
            Ok(document) => {
                self.order(session, RunnerOrder::Assign { job, lease, document, timeout_seconds, fence }, now);
            }
            Err(error) => {
                tracing::error!(%job, %error, "a job cannot be given to its runner");
                let reason = format!("its document cannot be read back: {error}");
                self.scheduler.undeliverable(&job, lease, reason, now);
            }
        }
    }

    fn document(&self, content: Content) -> Result<Bytes, crate::store::StoreError> {
        let read = |at: DocumentRef| self.archive.as_ref().map(|archive| archive.document(at));
        let gone = || crate::store::StoreError::new("it is not kept");
        match content {
            Content::Held(held) => Ok(held.document.clone()),
            Content::Stored(at) => read(at).unwrap_or_else(|| Err(gone())),
            Content::Gone => Err(gone()),
        }
    }

    fn order(&mut self, session: Session, order: RunnerOrder, now: Now) {
        let Some(outbox) = self.outboxes.get(&session) else { return };
        // A signal that does not fit is one among many.
        let may_miss = matches!(order, RunnerOrder::Queue(_));
        if let Err(error) = outbox.try_send(order)
            && !may_miss
        {
            // One whose stream is closed is gone already, and its connection says so.
            if let TrySendError::Full(_) = error {
                let runner = self.scheduler.name_of(session);
                tracing::warn!(runner, "this runner does not read its stream; it is detached");
            }
            self.outboxes.remove(&session);
            self.scheduler.detach(session, now);
        }
    }
}

impl Pending {
    fn has_to_write(&self) -> bool {
        !self.batch.is_empty() || !self.rows.is_empty()
    }

    fn is_empty(&self) -> bool {
        !self.has_to_write()
            && self.held.is_empty()
            && self.effects.is_empty()
            && self.due.is_empty()
            && self.replies.is_empty()
    }
}
