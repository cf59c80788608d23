use std::sync::Arc;

use jiff::Timestamp;
use jobgate_sdk::{FailureCause, Outcome, Reason, Verdict};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{chain::ChainVersion, job::JobId, view::ViewRejection};

/// What a chain made of its verdicts about one job, and the record of it. Holds no secret: everything in it is said by
/// controllers and by the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// The admission it ends.
    pub admission_id: Arc<str>,
    /// The job.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub job_id: JobId,
    /// Whose job it is.
    pub project: Arc<str>,
    /// The runner it is for; absent where no runner was chosen yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner: Option<Arc<str>>,
    /// Admitted or rejected.
    pub decision: Ruling,
    /// Why it was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// What the person whose job it is reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// True when the job stays in routing and is asked again (`on_failure: wait`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub will_retry: bool,
    /// Version of the chain that was asked.
    pub chain_version: Arc<str>,
    /// When it was made.
    pub time: Timestamp,
    /// Who said what.
    pub verdicts: Vec<VerdictRecord>,
}

/// Admitted or rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ruling {
    /// Every binding verdict admits.
    Admitted,
    /// A binding verdict does not.
    Rejected,
}

/// Why a job was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A controller rejected it.
    Policy,
    /// A controller gave no answer.
    Failure,
}

/// One of a few known words. By this name, since a derived reader would take a reference for borrowed from what it reads.
type Word = &'static str;

/// One controller's answer, as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// The level it was asked at: `instance`, `group:acme` …
    pub level: Arc<str>,
    /// The controller.
    pub controller: Arc<str>,
    /// Its state when asked: `enabled` or `dry_run`.
    #[serde(deserialize_with = "word")]
    pub state: Word,
    /// `admitted`, `rejected` or `failed`.
    #[serde(deserialize_with = "word")]
    pub outcome: Word,
    /// Whether it counted.
    pub enforced: bool,
    /// Why it rejected or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it failed.
    #[serde(default, deserialize_with = "some_word", skip_serializing_if = "Option::is_none")]
    pub failure: Option<Word>,
    /// The rule that rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where to read more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details_url: Option<String>,
    /// Its warnings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Exemptions it used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempted: Vec<String>,
    /// Version of the policy it decided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<Arc<str>>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// When it came.
    pub time: Timestamp,
}

impl Decision {
    /// The decision about a job whose document contradicts itself: nobody is asked about what nobody can trust.
    pub(crate) fn without_questions(
        job: &JobId,
        admission: &Arc<str>,
        project: &Arc<str>,
        version: &ChainVersion,
        rejection: &ViewRejection,
    ) -> Self {
        Self {
            admission_id: admission.clone(),
            job_id: job.clone(),
            project: project.clone(),
            runner: None,
            decision: Ruling::Rejected,
            cause: Some(Cause::Policy),
            reason: format!("rejected by jobgate: {}", Reason::from(rejection.to_string())),
            will_retry: false,
            chain_version: version.shared(),
            time: Timestamp::now(),
            verdicts: Vec::new(),
        }
    }
}

impl Decision {
    /// The decision of an admission that broke down in the router itself: it rejects, as every failure does.
    pub(crate) fn broken(
        job: &JobId,
        admission: &Arc<str>,
        project: &Arc<str>,
        runner: Option<Arc<str>>,
        version: &ChainVersion,
    ) -> Self {
        Self {
            admission_id: admission.clone(),
            job_id: job.clone(),
            project: project.clone(),
            runner,
            decision: Ruling::Rejected,
            cause: Some(Cause::Failure),
            reason: "not admitted because its admission broke down in jobgate itself".to_owned(),
            will_retry: false,
            chain_version: version.shared(),
            time: Timestamp::now(),
            verdicts: Vec::new(),
        }
    }
}

impl VerdictRecord {
    /// The record of a verdict.
    #[must_use]
    pub(crate) fn new(asked: Asked, verdict: &Verdict, duration: std::time::Duration, time: Timestamp) -> Self {
        let (outcome, reason, failure, rule, details_url) = match verdict.outcome() {
            Outcome::Admitted => ("admitted", None, None, None, None),
            Outcome::Rejected(rejection) => (
                "rejected",
                Some(rejection.reason().to_string()),
                None,
                rejection.rule().map(str::to_owned),
                rejection.details_url().map(str::to_owned),
            ),
            Outcome::Failed(failure) => {
                ("failed", Some(failure.message().to_owned()), Some(FailureCause::as_str(failure.cause())), None, None)
            }
        };
        Self {
            level: asked.level,
            controller: asked.controller,
            state: asked.state,
            outcome,
            enforced: asked.enforced,
            reason,
            failure,
            rule,
            details_url,
            warnings: verdict.warnings().to_vec(),
            exempted: verdict.exempted().to_vec(),
            policy_version: verdict.version().cloned(),
            duration_us: duration.as_micros().try_into().unwrap_or(u64::MAX),
            time,
        }
    }
}

/// Who was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) level: Arc<str>,
    pub(crate) controller: Arc<str>,
    pub(crate) state: &'static str,
    pub(crate) enforced: bool,
}

fn as_text<S: serde::Serializer>(id: &JobId, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(id.as_str())
}

fn from_text<'de, D: Deserializer<'de>>(from: D) -> Result<JobId, D::Error> {
    String::deserialize(from).map(JobId::new)
}

/// A word of [`VerdictRecord`], read back. One that this version does not know becomes `unknown`: a record is for people to
/// read, and decides nothing.
fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Word, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(from)?;
    let states = ["enabled", "dry_run", "admitted", "rejected", "failed"];
    let failures = FAILURES.map(FailureCause::as_str);
    Ok(states.into_iter().chain(failures).find(|known| *known == text).unwrap_or("unknown"))
}

const FAILURES: [FailureCause; 8] = [
    FailureCause::Error,
    FailureCause::Panic,
    FailureCause::Malformed,
    FailureCause::Oversize,
    FailureCause::Silent,
    FailureCause::Unreachable,
    FailureCause::NotAttached,
    FailureCause::NoTimeLeft,
];

fn some_word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Word>, D::Error> {
    word(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_read_back_as_it_was_written() {
        let verdict = |outcome, failure| VerdictRecord {
            level: "group:acme".into(),
            controller: "allowlist".into(),
            state: "dry_run",
            outcome,
            enforced: true,
            reason: Some("no".to_owned()),
            failure,
            rule: Some("own-registry".to_owned()),
            details_url: None,
            warnings: vec!["soon".to_owned()],
            exempted: Vec::new(),
            policy_version: Some("v1".into()),
            duration_us: 7,
            time: Timestamp::UNIX_EPOCH,
        };
        let mut decision = Decision {
            admission_id: "a".into(),
            job_id: JobId::new("1"),
            project: "acme/x".into(),
            runner: Some("gpu-1".into()),
            decision: Ruling::Rejected,
            cause: Some(Cause::Failure),
            reason: "no".to_owned(),
            will_retry: true,
            chain_version: "v".into(),
            time: Timestamp::UNIX_EPOCH,
            verdicts: Vec::new(),
        };
        decision.verdicts.push(verdict("rejected", None));
        decision.verdicts.extend(FAILURES.map(|cause| verdict("failed", Some(cause.as_str()))));
        let json = serde_json::to_string(&decision).unwrap();
        let read: Decision = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        assert!(!json.contains("unknown"));
        let newer = json.replace("\"silent\"", "\"from the future\"");
        let read: Decision = serde_json::from_str(&newer).unwrap();
        assert!(read.verdicts.iter().any(|verdict| verdict.failure == Some("unknown")));
    }
}
