//! One job going through its chain once.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use jobgate_sdk::{AdmissionRequest, FailureCause, Outcome, Question, Runner, Subject, Verdict};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    chain::{Chain, Entry, Level},
    config::{ControllerKind, ControllerState, NoControllers, OnFailure},
    decision::{Asked, Cause, Decision, Ruling, VerdictRecord},
    job::JobId,
    view::View,
};

/// What an admission is about.
pub(crate) struct Admission {
    pub(crate) id: Arc<str>,
    pub(crate) job: JobId,
    pub(crate) project: Arc<str>,
    pub(crate) view: Arc<View>,
    pub(crate) runner: Option<Arc<Runner>>,
    pub(crate) chain: Chain,
    pub(crate) observer: Arc<dyn Observer>,
    /// Where verdicts go that come after the decision.
    pub(crate) late: mpsc::Sender<LateVerdict>,
}

/// Hears of every answer and decision; for metrics.
pub(crate) trait Observer: Send + Sync {
    /// A controller was asked and answered so, after so long.
    fn answered(&self, controller: &Arc<str>, outcome: &'static str, failure: Option<FailureCause>, duration: Duration);

    /// An admission came to this decision, after so long.
    fn decided(&self, _decision: &Decision, _duration: Duration) {}
}

/// A dry-run verdict that came after its decision.
#[derive(Debug)]
pub(crate) struct LateVerdict {
    pub(crate) admission: Arc<str>,
    pub(crate) job: JobId,
    pub(crate) verdict: VerdictRecord,
}

/// What an admission comes to.
#[derive(Debug)]
pub(crate) enum Conclusion {
    Admitted,
    Rejected,
    /// A controller with `on_failure: wait` failed, and nobody rejected.
    Wait,
}

/// One answer, and whose.
struct Answer {
    entry: Arc<Entry>,
    index: usize,
    verdict: Verdict,
    duration: Duration,
    time: Timestamp,
}

type Asking = FuturesUnordered<BoxFuture<'static, Answer>>;

impl Admission {
    /// Asks level by level, and makes the decision.
    pub(crate) async fn run(self) -> (Conclusion, Decision) {
        let started = Instant::now();
        let asked_at = SystemTime::now();
        let mut verdicts = Vec::new();
        let mut ending = None;
        for level in &self.chain.levels {
            let (answers, unfinished) = self.ask(level, started, asked_at).await;
            // At once: what nobody polls does not get on, and would be recorded as silent.
            self.follow(unfinished);
            ending = ending.or(judge(&answers));
            verdicts.extend(answers.iter().map(|answer| answer.record(level)));
            if ending.is_some() {
                break;
            }
        }
        if ending.is_none() && self.chain.is_empty {
            ending = self.nobody_asked();
        }
        let (conclusion, decision) = self.conclude(ending, verdicts);
        self.observer.decided(&decision, started.elapsed());
        (conclusion, decision)
    }

    /// Asks the controllers of a level all at once. Waits for those that bind; gives those that do not and are unfinished.
    async fn ask(&self, level: &Level, started: Instant, asked_at: SystemTime) -> (Vec<Answer>, Asking) {
        let mut asking = Asking::new();
        let mut binding = 0;
        for (index, entry) in level.entries.iter().enumerate() {
            binding += usize::from(entry.config.state == ControllerState::Enabled);
            asking.push(self.question(entry, index, started, asked_at));
        }
        let mut answers = Vec::with_capacity(level.entries.len());
        while binding > 0 {
            let Some(answer) = asking.next().await else { break };
            binding -= usize::from(answer.entry.config.state == ControllerState::Enabled);
            answers.push(answer);
        }
        // Those of a dry run that have answered by now are part of the decision; they are not waited for.
        while let Some(Some(answer)) = asking.next().now_or_never() {
            answers.push(answer);
        }
        answers.sort_by_key(|answer| answer.index);
        for answer in &answers {
            self.observe(answer);
        }
        (answers, asking)
    }

    /// One controller being asked, within its time.
    fn question(
        &self,
        entry: &Arc<Entry>,
        index: usize,
        started: Instant,
        asked_at: SystemTime,
    ) -> BoxFuture<'static, Answer> {
        let left = self.chain.rules.admission_timeout.saturating_sub(started.elapsed());
        let own = entry.config.timeout;
        let limit = own.min(left);
        let entry = entry.clone();
        let request = AdmissionRequest::new(
            Question {
                id: format!("{}/{}", self.id, entry.config.name).into(),
                admission_id: self.id.clone(),
                controller: entry.config.name.clone(),
                scope: entry.config.scope.to_string().into(),
                dry_run: entry.config.state == ControllerState::DryRun,
                time: asked_at,
                time_left: limit,
            },
            Subject { runner: self.runner.clone(), ..self.view.subject(&entry.config.expose) },
        );
        async move {
            let begun = Instant::now();
            let verdict = if limit.is_zero() {
                Verdict::failed(FailureCause::NoTimeLeft, "the admission had no time left to ask it")
            } else {
                // In a future of its own: a controller may panic before it has made one.
                let answer = AssertUnwindSafe(async { entry.controller.admit(&request).await }).catch_unwind();
                match tokio::time::timeout(limit, answer).await {
                    Ok(Ok(verdict)) if limit < own => without_time(verdict, begun.elapsed() >= limit),
                    Ok(Ok(verdict)) => verdict,
                    Ok(Err(_)) => Verdict::failed(FailureCause::Panic, "it panicked"),
                    Err(_) if limit == own => {
                        Verdict::failed(FailureCause::Silent, format!("no answer within {} ms", own.as_millis()))
                    }
                    Err(_) => Verdict::failed(
                        FailureCause::NoTimeLeft,
                        format!("the admission's time was over after {} ms", limit.as_millis()),
                    ),
                }
            };
            Answer { entry, index, verdict, duration: begun.elapsed(), time: Timestamp::now() }
        }
        .boxed()
    }

    /// Waits, beside everything else, for dry-run verdicts that did not come in time.
    fn follow(&self, mut asking: Asking) {
        if asking.is_empty() {
            return;
        }
        let (admission, job, late, observer) =
            (self.id.clone(), self.job.clone(), self.late.clone(), self.observer.clone());
        tokio::spawn(async move {
            while let Some(answer) = asking.next().await {
                observe(&*observer, &answer);
                let level = answer.entry.config.scope.to_string().into();
                let verdict = answer.record_at(level);
                let verdict = LateVerdict { admission: admission.clone(), job: job.clone(), verdict };
                if late.send(verdict).await.is_err() {
                    break;
                }
            }
        });
    }

    fn observe(&self, answer: &Answer) {
        observe(&*self.observer, answer);
    }

    fn nobody_asked(&self) -> Option<Ending> {
        (self.chain.rules.no_controllers == NoControllers::Reject).then(|| Ending {
            conclusion: Conclusion::Rejected,
            cause: Cause::Policy,
            reason: format!("rejected by jobgate: no controller applies to {} (no_controllers: reject)", self.project),
        })
    }

    fn conclude(&self, ending: Option<Ending>, verdicts: Vec<VerdictRecord>) -> (Conclusion, Decision) {
        let nobody = verdicts.is_empty() && self.chain.is_empty;
        let (conclusion, cause, reason) = match ending {
            Some(Ending { conclusion, cause, reason }) => (conclusion, Some(cause), reason),
            None if nobody => (Conclusion::Admitted, None, "nobody was asked: no controller applies".to_owned()),
            None => (Conclusion::Admitted, None, String::new()),
        };
        let ruling = if matches!(conclusion, Conclusion::Admitted) { Ruling::Admitted } else { Ruling::Rejected };
        let decision = Decision {
            admission_id: self.id.clone(),
            job_id: self.job.clone(),
            project: self.project.clone(),
            runner: self.runner.as_ref().map(|runner| runner.name.as_str().into()),
            decision: ruling,
            cause,
            reason,
            will_retry: matches!(conclusion, Conclusion::Wait),
            chain_version: self.chain.version.shared(),
            time: Timestamp::now(),
            verdicts,
        };
        (conclusion, decision)
    }
}

/// A controller that knows its time limit may say itself that the time is over. When the limit was that of the admission and not
/// its own, it had no time left, whatever it calls that: `on_failure: admit` excuses its own silence only.
fn without_time(verdict: Verdict, is_over: bool) -> Verdict {
    let no_time = verdict.failure().filter(|failure| match failure.cause() {
        FailureCause::Silent => true,
        FailureCause::Unreachable => is_over,
        _ => false,
    });
    match no_time {
        Some(failure) => Verdict::failed(FailureCause::NoTimeLeft, failure.message()),
        None => verdict,
    }
}

/// How a level ends an admission.
struct Ending {
    conclusion: Conclusion,
    cause: Cause,
    reason: String,
}

/// What the binding verdicts of a level come to; `None`: go on.
///
/// A rejection by policy goes before a failure, wherever it stands: it stays when the failure is healed. Among equals the
/// first in the order of the configuration is shown.
fn judge(answers: &[Answer]) -> Option<Ending> {
    let binding = || answers.iter().filter(|answer| answer.entry.config.state == ControllerState::Enabled);
    if let Some(answer) = binding().find(|answer| answer.verdict.rejection().is_some()) {
        return Some(Ending { conclusion: Conclusion::Rejected, cause: Cause::Policy, reason: answer.reason() });
    }
    let failed = || binding().filter(|answer| answer.verdict.failure().is_some() && !answer.is_excused());
    let rejecting = failed().find(|answer| answer.entry.config.on_failure != OnFailure::Wait);
    let (answer, conclusion) = match rejecting {
        Some(answer) => (answer, Conclusion::Rejected),
        None => (failed().next()?, Conclusion::Wait),
    };
    Some(Ending { conclusion, cause: Cause::Failure, reason: answer.reason() })
}

impl Answer {
    /// Whether `on_failure: admit` covers this failure: only what the controller's absence causes.
    fn is_excused(&self) -> bool {
        let config = &self.entry.config;
        let absent = self.verdict.failure().is_some_and(|failure| {
            matches!(failure.cause(), FailureCause::Unreachable | FailureCause::NotAttached | FailureCause::Silent)
        });
        config.on_failure == OnFailure::Admit
            && absent
            && matches!(config.kind, ControllerKind::Dialled(_) | ControllerKind::Attached { .. })
    }

    /// What the person whose job it is reads.
    fn reason(&self) -> String {
        let config = &self.entry.config;
        let whose = format!("{} ({})", config.name, config.scope);
        match self.verdict.outcome() {
            Outcome::Admitted => String::new(),
            Outcome::Rejected(rejection) => {
                let rule = rejection.rule().map(|rule| format!(", rule {rule}")).unwrap_or_default();
                let more = rejection.details_url().map(|url| format!(" (more: {url})")).unwrap_or_default();
                format!("rejected by {whose}{rule}: {}{more}", rejection.reason())
            }
            Outcome::Failed(failure) => {
                format!(
                    "not admitted because {whose} gave no answer ({}): {}",
                    failure.cause().as_str(),
                    failure.message()
                )
            }
        }
    }

    fn record(&self, level: &Level) -> VerdictRecord {
        self.record_at(level.name.clone())
    }

    fn record_at(&self, level: Arc<str>) -> VerdictRecord {
        let config = &self.entry.config;
        let asked = Asked {
            level,
            controller: config.name.clone(),
            state: config.state.as_str(),
            enforced: config.state == ControllerState::Enabled && !self.is_excused(),
        };
        VerdictRecord::new(asked, &self.verdict, self.duration, self.time)
    }
}

fn observe(observer: &dyn Observer, answer: &Answer) {
    let (outcome, failure) = match answer.verdict.outcome() {
        Outcome::Admitted => ("admitted", None),
        Outcome::Rejected(_) => ("rejected", None),
        Outcome::Failed(failure) => ("failed", Some(failure.cause())),
    };
    observer.answered(&answer.entry.config.name, outcome, failure, answer.duration);
}

#[cfg(test)]
mod tests;
