//! What becomes of one job that GitLab gave: its view, its chain, its decision, and the step that makes it durable.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use jiff::Timestamp;
use jobgate_sdk::{Reason, Runner};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    handout::{GitLabJob, HandOut, Report, Stage},
    names::Basis,
    outstanding::Answered,
    poll::{AFTER_LOSS, Asking, Face, NAMELESS, Outcome},
    source::{Settings, Source},
    trace,
};
use crate::{
    admission::{Admission, Conclusion},
    chain::{Chain, Chains, Part},
    config::Secret,
    core::{HandOutCommand, Judged, Ruled},
    decision::{Cause, Decision, Ruling},
    document::{JobDocument, read_documents},
    view::{View, view},
};

/// What a job router's answer may have at most: four mebibytes less what protobuf puts around it (facts 1.4).
pub(super) const LARGEST_OVER_GRPC: usize = 4_194_299;
/// An admission that takes longer is written down as begun, so that its job is not forgotten if the router dies.
const WRITTEN_AFTER: Duration = Duration::from_millis(5);
/// An admission that takes longer makes room for another one.
const PATIENCE: Duration = Duration::from_millis(500);
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
#[derive(Clone)]
struct Case<'a> {
    source: &'a Source,
    asking: &'a Asking,
    handout: HandOut,
    /// Failure reasons that this GitLab knows.
    known: Arc<[String]>,
}

impl Source {
    /// Decides about a job that GitLab gave, and has that written.
    pub(super) async fn decide(&self, asking: &Asking, answer: Bytes) -> Outcome {
        let inner = &self.0;
        let Ok(handed) = serde_json::from_slice::<Handed>(&answer) else {
            // Another one would be lost as well.
            inner.metrics.lost("unreadable");
            inner.pauses.set(asking.runner.token, AFTER_LOSS);
            let (runner, request_id) = (asking.runner.token.short(), asking.request_id());
            tracing::error!(
                runner,
                request_id,
                "GitLab's answer has no job that can be told from another: it is left to GitLab"
            );
            return Outcome::Stop("GitLab's answer to a job request cannot be read".to_owned());
        };
        let known = handed.features.get("failure_reasons").and_then(|known| known.as_array());
        let known: Arc<[_]> =
            known.into_iter().flatten().filter_map(|reason| reason.as_str().map(str::to_owned)).collect();
        let failure_reason = Settings::choose(&inner.settings.load().failure_reasons, &known).into();
        let handout = HandOut {
            job: GitLabJob(handed.id),
            gitlab: inner.upstream.authority().into(),
            token: Secret::new(handed.token),
            project: "".into(),
            runner: "".into(),
            failure_reason,
            stage: Stage::Asking,
            since: Timestamp::now(),
        };
        let case = Case { source: self, asking, handout, known };
        let broken = case.clone();
        // What the job's author wrote is read in here.
        let decided = AssertUnwindSafe(case.decide(answer.clone())).catch_unwind().await;
        match decided {
            Ok(outcome) => outcome,
            Err(_) => {
                let reason = "not admitted because its admission broke down in jobgate itself".to_owned();
                broken.refuse(reason, Cause::Failure, None, None, answer).await
            }
        }
    }
}

impl Case<'_> {
    async fn decide(mut self, answer: Bytes) -> Outcome {
        if let Some(name) = self.source.0.standing.borrow().names.name(self.asking.runner) {
            self.handout.runner = name;
        }
        let document = match read(&answer) {
            Ok(document) => document,
            Err(faults) => {
                let reason = format!("not admitted because what GitLab says of it cannot be read: {faults}");
                return self.refuse(reason, Cause::Failure, None, None, answer).await;
            }
        };
        self.handout.project = document.project().as_str().into();
        if self.asking.poll.face == Face::Grpc && answer.len() > LARGEST_OVER_GRPC {
            let reason = format!(
                "not admitted because it cannot be given to this runner: its description has {} bytes, and a job router's \
                 answer at most {LARGEST_OVER_GRPC}",
                answer.len()
            );
            // A retry would meet the same limit: policy's reasons, which `retry:` is seldom for.
            let log = trace::too_large(answer.len(), LARGEST_OVER_GRPC);
            return self.refuse(reason, Cause::Policy, Some(log), Some(&document), answer).await;
        }
        for restart in 0..=MOST_RESTARTS {
            let asked = Instant::now();
            let standing = self.source.0.standing.borrow().clone();
            // Looked up for each job: GitLab may have held the poll for long, and a name given meanwhile.
            let Some(name) = standing.names.name(self.asking.runner) else {
                let reason = format!("not admitted because {NAMELESS}");
                return self.refuse(reason, Cause::Failure, None, Some(&document), answer).await;
            };
            self.handout.runner = name;
            let decision = self.ask(&document, &standing.chains, restart == 0).await;
            if let Some(outcome) = self.judge(decision, None, Some(&document), asked, answer.clone()).await {
                return outcome;
            }
        }
        let reason = "not admitted because its chain changes faster than it can be asked".to_owned();
        self.refuse(reason, Cause::Failure, None, Some(&document), answer).await
    }

    /// Asks the whole chain: the runner is known.
    async fn ask(&self, document: &JobDocument, chains: &Chains, first: bool) -> Decision {
        let inner = &self.source.0;
        let (project, runner) = (document.project(), &self.handout.runner);
        let part = Part::Whole(runner);
        let chain = chains.chain(project, part, chains.version(project, part));
        chain.count(first);
        let (job, admission): (_, Arc<str>) = (self.handout.job.id(), uuid::Uuid::now_v7().simple().to_string().into());
        let view = match view(document, job.as_str()) {
            Ok(view) => view,
            Err(rejection) => {
                let project = project.as_str().into();
                let decision = Decision::without_questions(&job, &admission, &project, &chain.version, &rejection);
                let decision = Decision { runner: Some(runner.clone()), ..decision };
                inner.observer.decided(&decision, Duration::ZERO);
                return decision;
            }
        };
        let project: Arc<str> = project.as_str().into();
        let broken = Decision::broken(&job, &admission, &project, Some(runner.clone()), &chain.version);
        let run = AssertUnwindSafe(self.admission(view, chain, admission).run()).catch_unwind();
        let taking_turns = async {
            let turn = inner.turns.take(self.asking.runner.token).await;
            let mut run = pin!(run);
            match tokio::time::timeout(PATIENCE, &mut run).await {
                Ok(ended) => ended,
                Err(_) => {
                    drop(turn);
                    run.await
                }
            }
        };
        let mut taking_turns = pin!(taking_turns);
        let ended = match tokio::time::timeout(WRITTEN_AFTER, &mut taking_turns).await {
            Ok(ended) => ended,
            Err(_) => {
                inner.handle.handout(HandOutCommand::Took(self.handout.clone())).await;
                taking_turns.await
            }
        };
        // Every admission ends, whatever breaks in it. GitLab has no way to wait: who would wait rejects.
        let (_, decision) = ended.unwrap_or((Conclusion::Rejected, broken));
        Decision { will_retry: false, ..decision }
    }

    fn admission(&self, view: View, chain: Chain, admission: Arc<str>) -> Admission {
        let (inner, request) = (&self.source.0, &self.asking.request);
        let runner = Runner {
            name: self.handout.runner.to_string(),
            id: self.asking.runner.id,
            version: request.version.clone(),
            platform: request.platform.clone(),
            executor: request.executor.clone(),
            ..Runner::default()
        };
        Admission {
            id: admission,
            job: self.handout.job.id(),
            project: self.handout.project.clone(),
            view: Arc::new(view),
            runner: Some(Arc::new(runner)),
            chain,
            observer: inner.observer.clone(),
            late: inner.late.clone(),
        }
    }

    /// Has a decision written, and tells what follows; `None` when it was stale, and the chain must be asked again.
    async fn judge(
        &self,
        decision: Decision,
        log: Option<String>,
        document: Option<&JobDocument>,
        asked: Instant,
        answer: Bytes,
    ) -> Option<Outcome> {
        let (inner, runner) = (&self.source.0, &self.handout.runner);
        let report = (decision.decision == Ruling::Rejected).then(|| self.report(&decision, log));
        if let Some(report) = &report {
            tracing::info!(
                job = self.handout.job.0, project = %self.handout.project, %runner,
                request_id = self.asking.request_id(), failure_reason = %report.failure_reason, reason = decision.reason,
                "a job of GitLab is not admitted"
            );
        }
        let outcome = match decision.cause {
            Some(Cause::Policy) => "rejected",
            _ => "failed",
        };
        let basis = document.map(|document| Basis {
            project: document.project().clone(),
            runner: self.asking.runner,
            name: runner.clone(),
            version: decision.chain_version.clone(),
        });
        let judged =
            Judged { handout: self.handout.clone(), decision, report: report.clone(), basis: basis.clone(), asked };
        match (inner.handle.judge(judged).await, basis) {
            (Ok(Ruled::Deliver), Some(basis)) => {
                Some(Outcome::Deliver(Answered { job: self.handout.job, document: answer, basis }))
            }
            (Ok(Ruled::Stale), _) => None,
            // Without a basis nothing is delivered.
            (Ok(Ruled::Reject | Ruled::Deliver), _) => {
                inner.metrics.job(runner, outcome);
                Some(Outcome::Over)
            }
            // Nothing can be written. The job must not stay for that: GitLab is told from memory.
            (Err(error), _) => {
                inner.metrics.job(runner, "failed");
                let report = report.unwrap_or_else(|| self.handout.failed(trace::unwritten()));
                let handout = HandOut { stage: Stage::Failing(report), ..self.handout.clone() };
                // Nobody to finish it is left only when the process ends.
                drop(inner.finish.send(handout));
                Some(Outcome::Stop(format!("a job cannot be given out: {error}")))
            }
        }
    }

    /// A rejection that no controller was asked for.
    async fn refuse(
        &self,
        reason: String,
        cause: Cause,
        log: Option<String>,
        document: Option<&JobDocument>,
        answer: Bytes,
    ) -> Outcome {
        let decision = Decision {
            admission_id: uuid::Uuid::now_v7().simple().to_string().into(),
            job_id: self.handout.job.id(),
            project: self.handout.project.clone(),
            runner: Some(self.handout.runner.clone()).filter(|name| !name.is_empty()),
            decision: Ruling::Rejected,
            cause: Some(cause),
            reason: Reason::from(reason).to_string(),
            will_retry: false,
            chain_version: "".into(),
            time: Timestamp::now(),
            verdicts: Vec::new(),
        };
        self.source.0.observer.decided(&decision, Duration::ZERO);
        // A rejection is never stale.
        self.judge(decision, log, document, Instant::now(), answer).await.unwrap_or(Outcome::Over)
    }

    fn report(&self, decision: &Decision, log: Option<String>) -> Report {
        let failure_reason = match decision.cause {
            Some(Cause::Policy) => Settings::choose(&self.source.0.settings.load().policy_reasons, &self.known).into(),
            _ => self.handout.failure_reason.clone(),
        };
        Report { failure_reason, trace: log.unwrap_or_else(|| trace::rejected(decision)) }
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
