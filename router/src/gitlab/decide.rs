//! What becomes of one job that GitLab gave: its view, its chain, its decision, and the step that makes it durable.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use jiff::Timestamp;
use jobgate_sdk::Reason;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    handout::{GitLabJob, HandOut, Report, Stage},
    poll::{Asking, Face, Outcome},
    source::{Settings, Source},
    trace,
};
use crate::{
    admission::{Admission, Conclusion},
    chain::{Chain, Part},
    config::Secret,
    core::{HandOutCommand, Judged, Ruled},
    decision::{Cause, Decision, Ruling},
    document::{JobDocument, read_documents},
    handle::CoreError,
    view::{View, view},
};

/// What a job router's answer may have at most: four mebibytes less what protobuf puts around it (facts 1.4).
pub(super) const LARGEST_OVER_GRPC: usize = 4_194_299;
/// An admission that takes longer is written down as begun, so that its job is not forgotten if the router dies.
const WRITTEN_AFTER: Duration = Duration::from_millis(5);
/// An admission that takes longer makes room for another one.
const PATIENCE: Duration = Duration::from_millis(500);
/// A step that takes longer to be written may have been overtaken by another chain.
const SLOW_STORE: Duration = Duration::from_millis(100);
/// A chain may change so often while it is asked.
const MOST_RESTARTS: u32 = 3;

/// The little that is needed to say anything about a job, read as leniently as can be.
#[derive(Deserialize)]
struct Handed {
    id: i64,
    token: String,
    #[serde(default)]
    features: serde_json::Value,
}

/// A job that is being decided about.
struct Case<'a> {
    source: &'a Source,
    asking: &'a Asking,
    handout: HandOut,
    /// Failure reasons that this GitLab knows.
    known: Vec<String>,
}

impl Source {
    /// Decides about a job that GitLab gave, and has that written.
    pub(super) async fn decide(&self, asking: &Asking, answer: Bytes) -> Outcome {
        let Ok(handed) = serde_json::from_slice::<Handed>(&answer) else {
            self.0.metrics.lost();
            let request_id = asking.request_id();
            tracing::error!(runner = %asking.name, request_id, "GitLab's answer has no job that can be told from another: it is left to GitLab");
            return Outcome::Over;
        };
        let known = handed.features.get("failure_reasons").and_then(|known| known.as_array());
        let known = known.into_iter().flatten().filter_map(|reason| reason.as_str().map(str::to_owned)).collect();
        let handout = HandOut {
            job: GitLabJob(handed.id),
            token: Secret::new(handed.token),
            project: "".into(),
            runner: asking.name.clone(),
            stage: Stage::Asking,
            since: Timestamp::now(),
        };
        Case { source: self, asking, handout, known }.decide(answer).await
    }
}

impl Case<'_> {
    async fn decide(mut self, answer: Bytes) -> Outcome {
        let document = match read(&answer) {
            Ok(document) => document,
            Err(faults) => {
                let reason = format!("not admitted because what GitLab says of it cannot be read: {faults}");
                let decision = self.unasked(reason, Cause::Failure, "");
                return self.judge(decision, None, Instant::now(), answer).await.unwrap_or(Outcome::Over);
            }
        };
        self.handout.project = document.project().as_str().into();
        if self.asking.poll.face == Face::Grpc && answer.len() > LARGEST_OVER_GRPC {
            let reason = format!(
                "not admitted because it cannot be given to this runner: its description has {} bytes, and a job router's \
                 answer at most {LARGEST_OVER_GRPC}; without FF_USE_JOB_ROUTER the runner can have it",
                answer.len()
            );
            // A retry would meet the same limit: policy's reasons, which `retry:` is seldom for.
            let decision = self.unasked(reason, Cause::Policy, document.project().as_str());
            return self.judge(decision, Some(&document), Instant::now(), answer).await.unwrap_or(Outcome::Over);
        }
        for restart in 0..=MOST_RESTARTS {
            let asked = Instant::now();
            let decision = self.ask(&document, restart == 0).await;
            if let Some(outcome) = self.judge(decision, Some(&document), asked, answer.clone()).await {
                return outcome;
            }
        }
        let reason = "not admitted because its chain changes faster than it can be asked".to_owned();
        let decision = self.unasked(reason, Cause::Failure, document.project().as_str());
        self.judge(decision, Some(&document), Instant::now(), answer).await.unwrap_or(Outcome::Over)
    }

    /// Asks the whole chain: the runner is known.
    async fn ask(&self, document: &JobDocument, first: bool) -> Decision {
        let inner = &self.source.0;
        let project = document.project();
        let chain = {
            let chains = inner.chains.borrow();
            let part = Part::Whole(&self.asking.name);
            chains.chain(project, part, chains.version(project, part))
        };
        chain.count(first);
        let (job, admission): (_, Arc<str>) = (self.handout.job.id(), uuid::Uuid::now_v7().simple().to_string().into());
        let view = match view(document, job.as_str()) {
            Ok(view) => view,
            Err(rejection) => {
                let project = project.as_str().into();
                let decision = Decision::without_questions(&job, &admission, &project, &chain.version, &rejection);
                let decision = Decision { runner: Some(self.asking.name.clone()), ..decision };
                inner.observer.decided(&decision, Duration::ZERO);
                return decision;
            }
        };
        let turn = inner.turns.take(self.asking.key).await;
        let broken = Decision::broken(
            &job,
            &admission,
            &project.as_str().into(),
            Some(self.asking.name.clone()),
            &chain.version,
        );
        let run = AssertUnwindSafe(self.admission(view, chain, admission).run()).catch_unwind();
        let mut run = pin!(run);
        let ended = match tokio::time::timeout(WRITTEN_AFTER, &mut run).await {
            Ok(ended) => ended,
            Err(_) => {
                inner.handle.handout(HandOutCommand::Took(self.handout.clone())).await;
                match tokio::time::timeout(PATIENCE, &mut run).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        drop(turn);
                        run.await
                    }
                }
            }
        };
        // Every admission ends, whatever breaks in it. GitLab has no way to wait: who would wait rejects.
        let (conclusion, decision) = ended.unwrap_or((Conclusion::Rejected, broken));
        debug_assert_eq!(matches!(conclusion, Conclusion::Admitted), decision.decision == Ruling::Admitted);
        Decision { will_retry: false, ..decision }
    }

    fn admission(&self, view: View, chain: Chain, admission: Arc<str>) -> Admission {
        let inner = &self.source.0;
        Admission {
            id: admission,
            job: self.handout.job.id(),
            project: self.handout.project.clone(),
            view: Arc::new(view),
            runner: Some(self.asking.runner.clone()),
            chain,
            observer: inner.observer.clone(),
            late: inner.late.clone(),
        }
    }

    /// Has a decision written, and tells what follows; `None` when it was stale, and the chain must be asked again.
    async fn judge(
        &self,
        decision: Decision,
        document: Option<&JobDocument>,
        asked: Instant,
        answer: Bytes,
    ) -> Option<Outcome> {
        let inner = &self.source.0;
        let report = (decision.decision == Ruling::Rejected).then(|| self.report(&decision));
        if let Some(report) = &report {
            tracing::info!(
                job = self.handout.job.0, project = %self.handout.project, runner = %self.asking.name,
                request_id = self.asking.request_id(), failure_reason = report.failure_reason, reason = decision.reason,
                "a job of GitLab is not admitted"
            );
        }
        let outcome = match decision.cause {
            Some(Cause::Policy) => "rejected",
            _ => "failed",
        };
        let version = decision.chain_version.clone();
        let offered = Instant::now();
        let judged = Judged {
            handout: self.handout.clone(),
            decision,
            report: report.clone(),
            project: document.map(|document| document.project().clone()),
            asked,
        };
        match inner.handle.judge(judged).await {
            // Tested in the step that was written, which may be long ago where the store had trouble.
            Ok(Ruled::Deliver) if offered.elapsed() > SLOW_STORE && !self.is_current(document, &version) => None,
            Ok(Ruled::Deliver) => Some(Outcome::Deliver(self.handout.job, answer)),
            Ok(Ruled::Stale) => None,
            Ok(Ruled::Reject) => {
                inner.metrics.job(&self.asking.name, outcome);
                Some(Outcome::Over)
            }
            // Nothing can be written. The job must not stay for that: GitLab is told from memory.
            Err(error) => {
                inner.metrics.job(&self.asking.name, "failed");
                let report =
                    report.unwrap_or_else(|| Report::of_failure(&trace::failed("jobgate cannot write its state")));
                let handout = HandOut { stage: Stage::Failing(report), ..self.handout.clone() };
                drop(inner.finish.send(handout));
                Some(Outcome::Stop(refusal(&error)))
            }
        }
    }

    fn is_current(&self, document: Option<&JobDocument>, version: &str) -> bool {
        let chains = self.source.0.chains.borrow();
        let part = Part::Whole(&self.asking.name);
        document.is_some_and(|document| *chains.version(document.project(), part).as_str() == *version)
    }

    fn report(&self, decision: &Decision) -> Report {
        let settings = self.source.0.settings.load();
        let wanted = match decision.cause {
            Some(Cause::Policy) => &settings.policy_reasons,
            _ => &settings.failure_reasons,
        };
        let failure_reason = Settings::choose(wanted, &self.known).to_owned();
        Report { failure_reason, trace: trace::rejected(decision) }
    }

    /// A rejection that no controller was asked for.
    fn unasked(&self, reason: String, cause: Cause, project: &str) -> Decision {
        let decision = Decision {
            admission_id: uuid::Uuid::now_v7().simple().to_string().into(),
            job_id: self.handout.job.id(),
            project: project.into(),
            runner: Some(self.asking.name.clone()),
            decision: Ruling::Rejected,
            cause: Some(cause),
            reason: Reason::from(reason).to_string(),
            will_retry: false,
            chain_version: "".into(),
            time: Timestamp::now(),
            verdicts: Vec::new(),
        };
        self.source.0.observer.decided(&decision, Duration::ZERO);
        decision
    }
}

/// Reads GitLab's answer as the document it is. The bytes that its runner gets are not touched.
fn read(answer: &Bytes) -> Result<JobDocument, String> {
    let mut wrapped = BytesMut::with_capacity(answer.len() + 12);
    wrapped.put_slice(b"{\"gitlab\":");
    wrapped.put_slice(answer);
    wrapped.put_u8(b'}');
    let limit = wrapped.len();
    let mut documents =
        read_documents(&wrapped.freeze(), "job", limit).map_err(|faults| faults.to_string().replace('\n', "; "))?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document),
        _ => Err("it is not one job".to_owned()),
    }
}

fn refusal(error: &CoreError) -> String {
    format!("a job cannot be given out: {error}")
}
