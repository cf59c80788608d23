//! Admissions beside the task that owns the state.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use jobgate_sdk::Runner;
use tokio::sync::mpsc;

use super::{Core, Event};
use crate::{
    admission::{Admission, Conclusion},
    chain::{ChainVersion, Part},
    decision::Decision,
    document::{MAX_DOCUMENT_BYTES, read_documents},
    job::{JobId, NewJob},
    scheduler::{Content, Decided, Now},
    store::{Archive, DocumentRef},
    view::{View, ViewRejection},
};

/// Admissions that may be open at once.
pub(super) const ADMISSIONS: usize = 1024;
/// An admission that takes longer makes room for another one: slow controllers hold up their own jobs only.
const PATIENCE: Duration = Duration::from_millis(500);

/// An admission that has not begun.
pub(super) struct Question {
    job: JobId,
    admission: Arc<str>,
    runner: Option<Arc<Runner>>,
}

/// Everything an admission needs, without the job's view.
struct Asked {
    id: JobId,
    admission: Arc<str>,
    project: Arc<str>,
    runner: Option<Arc<Runner>>,
    chain: crate::chain::Chain,
}

impl Core {
    /// Has an admission begin when there is room.
    pub(super) fn ask(&mut self, job: JobId, admission: Arc<str>, runner: Option<Arc<Runner>>) {
        self.questions.push_back(Question { job, admission, runner });
    }

    /// Begins as many admissions as there is room for.
    pub(super) fn ask_next(&mut self) {
        while self.room > 0
            && let Some(question) = self.questions.pop_front()
        {
            if !self.draining.load(Ordering::Relaxed) {
                self.begin(question);
            }
        }
    }

    /// Decides about a job that no controller is asked about: there is nothing to wait for, so that its submission, its
    /// decision and, where a slot is free, its assignment are one commit. False when somebody is asked.
    pub(super) fn decide_at_once(&mut self, id: &JobId, admission: &Arc<str>, now: Now) -> bool {
        if self.draining.load(Ordering::Relaxed) {
            return false;
        }
        let Some(job) = self.scheduler.job(id).filter(|_| self.scheduler.awaits(id, admission)) else { return false };
        let Content::Held(held) = job.content() else { return false };
        let Ok(view) = &held.view else { return false };
        if self.scheduler.chains().asks_on_arrival(job.project()) {
            return false;
        }
        let chain = self.scheduler.chain(job.project(), Part::Arrival);
        let (version, project) = (chain.version.clone(), job.project().as_str().into());
        let asked = Asked { id: id.clone(), admission: admission.clone(), project, runner: None, chain };
        let run = asked.admission(view.clone(), self.observer.clone(), mpsc::channel(1).0).run();
        // Without anybody to ask it does not wait for anything.
        let Some((conclusion, decision)) = run.now_or_never() else { return false };
        let decided = decided(id.clone(), admission.clone(), conclusion, version, &decision);
        self.decided(decided, decision, now);
        true
    }

    /// Begins an admission in a task of its own.
    fn begin(&mut self, question: Question) {
        let Question { job: id, admission, runner } = question;
        // A job that was finished meanwhile is not asked about.
        let Some(job) = self.scheduler.job(&id).filter(|_| self.scheduler.awaits(&id, &admission)) else { return };
        let Some(events) = self.events.upgrade() else { return };
        let asks_about_runner = runner.is_some();
        let part = runner.as_ref().map_or(Part::Arrival, |runner| Part::Runner(&runner.name));
        let chain = self.scheduler.chain(job.project(), part);
        chain.count(job.admissions == 1 || asks_about_runner);
        let project: Arc<str> = job.project().as_str().into();
        let asked = Asked { id, admission, project, runner, chain };
        let content = job.content();
        let (observer, archive) = (self.observer.clone(), self.archive.clone());
        let (draining, open) = (self.draining.clone(), self.open.token());
        self.room -= 1;
        self.runtime.spawn(async move {
            let mut room = true;
            // What waited until now is not begun while the router shuts down.
            if draining.load(Ordering::Relaxed) {
                return;
            }
            let (late, mut late_verdicts) = mpsc::channel(16);
            let version = asked.chain.version.clone();
            let (job, admission) = (asked.id.clone(), asked.admission.clone());
            let broken = asked.broken();
            let run = async {
                match view_of(content, archive, asked.id.clone()).await {
                    Ok(view) => asked.admission(view, observer, late).run().await,
                    Err(unviewed) => {
                        let decision = asked.unasked(unviewed);
                        observer.decided(&decision, Duration::ZERO);
                        (Conclusion::Rejected, decision)
                    }
                }
            };
            let mut run = pin!(AssertUnwindSafe(run).catch_unwind());
            let soon = tokio::time::timeout(PATIENCE, &mut run).await;
            let ended = match soon {
                Ok(ended) => ended,
                Err(_) => {
                    room = false;
                    let _ = events.send(Event::Room).await;
                    run.await
                }
            };
            // Every admission ends, whatever breaks in it.
            let (conclusion, decision) = ended.unwrap_or((Conclusion::Rejected, broken));
            let decided = decided(job, admission, conclusion, version, &decision);
            // A closed inbox means that the router is gone.
            let _ = events.send(Event::Decided(decided, Box::new(decision), room)).await;
            drop(open);
            while let Some(verdict) = late_verdicts.recv().await {
                let _ = events.send(Event::Late(verdict)).await;
            }
        });
    }
}

fn decided(
    job: JobId,
    admission: Arc<str>,
    conclusion: Conclusion,
    version: ChainVersion,
    decision: &Decision,
) -> Decided {
    Decided { job, admission, conclusion, version, cause: decision.cause, reason: decision.reason.clone() }
}

/// Why a job's controllers are not told of it.
enum Unviewed {
    /// It contradicts itself.
    Contradicts(ViewRejection),
    /// Its document cannot be read back.
    Unreadable(String),
}

/// The view of a job, made from its document again if it is not at hand.
async fn view_of(content: Content, archive: Option<Arc<dyn Archive>>, id: JobId) -> Result<Arc<View>, Unviewed> {
    match (content, archive) {
        (Content::Held(held), _) => held.view.clone().map_err(Unviewed::Contradicts),
        (Content::Stored(at), Some(archive)) => {
            let read = tokio::task::spawn_blocking(move || read_back(&*archive, at, &id)).await;
            read.unwrap_or_else(|_| Err(Unviewed::Unreadable("reading it broke down".to_owned())))
        }
        (Content::Stored(_) | Content::Gone, _) => Err(Unviewed::Unreadable("it is not kept".to_owned())),
    }
}

fn read_back(archive: &dyn Archive, at: DocumentRef, id: &JobId) -> Result<Arc<View>, Unviewed> {
    let document = archive.document(at).map_err(|error| Unviewed::Unreadable(error.to_string()))?;
    // Faults may quote what is in it; it had none when it was submitted.
    let read = read_documents(&document, "document", MAX_DOCUMENT_BYTES).ok().filter(|read| read.len() == 1);
    let Some(read) = read else { return Err(Unviewed::Unreadable("it does not read as it did".to_owned())) };
    NewJob::new(id.clone(), &read[0]).view.map_err(Unviewed::Contradicts)
}

impl Asked {
    fn admission(
        self,
        view: Arc<View>,
        observer: Arc<dyn crate::admission::Observer>,
        late: mpsc::Sender<crate::admission::LateVerdict>,
    ) -> Admission {
        let Self { id, admission, project, runner, chain } = self;
        Admission { id: admission, job: id, project, view, runner, chain, observer, late }
    }

    fn broken(&self) -> Decision {
        let runner = self.runner.as_ref().map(|runner| Arc::from(runner.name.as_str()));
        Decision::broken(&self.id, &self.admission, &self.project, runner, &self.chain.version)
    }

    fn unasked(&self, unviewed: Unviewed) -> Decision {
        match unviewed {
            Unviewed::Contradicts(rejection) => {
                let version = &self.chain.version;
                Decision::without_questions(&self.id, &self.admission, &self.project, version, &rejection)
            }
            Unviewed::Unreadable(why) => {
                let reason = format!("not admitted because its document cannot be read back: {why}");
                Decision { reason, ..self.broken() }
            }
        }
    }
}
