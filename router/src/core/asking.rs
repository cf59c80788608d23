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
    chain::Part,
    decision::Decision,
    job::JobId,
    scheduler::Decided,
};

/// An admission that takes longer makes room for another one: slow controllers hold up their own jobs only.
const PATIENCE: Duration = Duration::from_millis(500);

impl Core {
    /// Begins an admission in a task of its own.
    pub(super) fn ask(&self, id: &JobId, admission: Arc<str>, runner: Option<Arc<Runner>>) {
        if self.draining.load(Ordering::Relaxed) {
            return;
        }
        // A job that was finished meanwhile is not asked about.
        let Some(job) = self.scheduler.job(id).filter(|_| self.scheduler.awaits(id, &admission)) else { return };
        let Some(events) = self.events.upgrade() else { return };
        let asks_about_runner = runner.is_some();
        let part = runner.as_ref().map_or(Part::Arrival, |runner| Part::Runner(&runner.name));
        let chain = self.scheduler.chains().chain(&job.new.project, part);
        let version = chain.version.clone();
        let project: Arc<str> = job.new.project.as_str().into();
        let view = match &job.new.view {
            Ok(view) => view.clone(),
            Err(rejection) => {
                let decision = Decision::without_questions(id, &admission, &project, &version, rejection);
                let decided = Decided {
                    job: id.clone(),
                    admission,
                    conclusion: Conclusion::Rejected,
                    version,
                    cause: decision.cause,
                    reason: decision.reason.clone(),
                };
                tokio::spawn(async move { events.send(Event::Decided(decided, Box::new(decision))).await });
                return;
            }
        };
        chain.count(job.admissions == 1 || asks_about_runner);
        let (late, mut late_verdicts) = mpsc::channel(16);
        let asking = Admission {
            id: admission.clone(),
            job: id.clone(),
            project,
            view,
            runner,
            chain,
            observer: self.observer.clone(),
            late,
        };
        let broken = {
            let runner = asking.runner.as_ref().map(|runner| Arc::from(runner.name.as_str()));
            Decision::broken(id, &admission, &asking.project, runner, &version)
        };
        let (id, permits, draining) = (id.clone(), self.admissions.clone(), self.draining.clone());
        let open = self.open.token();
        tokio::spawn(async move {
            // The semaphore is never closed.
            let Ok(permit) = permits.acquire().await else { return };
            // What waited until now is not begun while the router shuts down.
            if draining.load(Ordering::Relaxed) {
                return;
            }
            let mut asked = pin!(AssertUnwindSafe(asking.run()).catch_unwind());
            let soon = tokio::time::timeout(PATIENCE, &mut asked).await;
            drop(permit);
            let asked = match soon {
                Ok(asked) => asked,
                Err(_) => asked.await,
            };
            // Every admission ends, whatever breaks in it.
            let (conclusion, decision) = asked.unwrap_or((Conclusion::Rejected, broken));
            let decided = Decided {
                job: id,
                admission,
                conclusion,
                version,
                cause: decision.cause,
                reason: decision.reason.clone(),
            };
            // A closed inbox means that the router is gone.
            let _ = events.send(Event::Decided(decided, Box::new(decision))).await;
            drop(open);
            while let Some(verdict) = late_verdicts.recv().await {
                let _ = events.send(Event::Late(verdict)).await;
            }
        });
    }
}
