use std::{fmt, sync::Arc};

use jobgate_proto::admission::v1::{self as wire, admit_response};

/// A controller's answer: admitted, rejected with a reason, or failed.
///
/// ```
/// use jobgate_sdk::Verdict;
///
/// let verdict = Verdict::reject("docker.io is not on the list")
///     .rule("own-registry")
///     .details_url("https://wiki.acme.example/registries");
/// assert_eq!(verdict.rejection().unwrap().rule(), Some("own-registry"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a verdict counts only when it is returned"]
pub struct Verdict {
    outcome: Outcome,
    warnings: Vec<String>,
    exempted: Vec<String>,
    policy_version: Option<Arc<str>>,
}

/// What a verdict says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The job may run, as far as this controller is concerned.
    Admitted,
    /// It may not.
    Rejected(Rejection),
    /// The controller did not decide. Never a rejection by policy.
    Failed(Failure),
}

/// Why a job may not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    reason: Reason,
    rule: Option<String>,
    details_url: Option<String>,
}

/// A reason for people: one line, never empty, at most 1 KiB, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(String);

/// Why a controller gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    cause: FailureCause,
    message: Reason,
}

/// Kinds of failure; the router's `on_failure: admit` distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureCause {
    /// The controller itself said that it could not decide: an evaluation error, an exhausted budget.
    Error,
    /// It panicked.
    Panic,
    /// Its answer makes no sense.
    Malformed,
    /// Its answer is larger than allowed.
    Oversize,
    /// It was asked and did not answer within its own timeout.
    Silent,
    /// It could not be reached, or broke the connection.
    Unreachable,
    /// No instance of it is attached.
    NotAttached,
    /// The admission's own time was over before it could answer.
    NoTimeLeft,
}

impl Verdict {
    /// The job may run, as far as this controller is concerned.
    pub const fn admit() -> Self {
        Self::new(Outcome::Admitted)
    }

    /// The job may not run. The reason is shown to the person whose job it is.
    pub fn reject(reason: impl Into<Reason>) -> Self {
        Self::new(Outcome::Rejected(Rejection { reason: reason.into(), rule: None, details_url: None }))
    }

    /// The controller cannot decide. The message is for the people who run it.
    pub fn fail(message: impl Into<Reason>) -> Self {
        Self::failed(FailureCause::Error, message)
    }

    /// As [`Verdict::fail`], with a cause other than the controller's own word.
    pub fn failed(cause: FailureCause, message: impl Into<Reason>) -> Self {
        Self::new(Outcome::Failed(Failure { cause, message: message.into() }))
    }

    const fn new(outcome: Outcome) -> Self {
        Self { outcome, warnings: Vec::new(), exempted: Vec::new(), policy_version: None }
    }

    /// Adds a warning for the job's owner; never binding.
    pub fn warn(mut self, warning: impl Into<Reason>) -> Self {
        self.warnings.push(warning.into().0);
        self
    }

    /// Names the rule that rejected. Without effect on other outcomes.
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        if let Outcome::Rejected(rejection) = &mut self.outcome {
            rejection.rule = Some(one_line(&rule.into(), RULE_LIMIT)).filter(|rule| !rule.is_empty());
        }
        self
    }

    /// Says where to read more about the rejection. Without effect on other outcomes.
    pub fn details_url(mut self, url: impl Into<String>) -> Self {
        if let Outcome::Rejected(rejection) = &mut self.outcome {
            rejection.details_url = Some(one_line(&url.into(), REASON_LIMIT)).filter(|url| !url.is_empty());
        }
        self
    }

    /// Names an exemption that made a rule not apply.
    pub fn exempt(mut self, exemption: impl Into<Reason>) -> Self {
        self.exempted.push(exemption.into().0);
        self
    }

    /// Says under which version of its policy the controller decided.
    pub fn policy_version(mut self, version: impl Into<Arc<str>>) -> Self {
        self.policy_version = Some(version.into()).filter(|version: &Arc<str>| !version.is_empty());
        self
    }

    /// What it says.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Whether it admits.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.outcome == Outcome::Admitted
    }

    /// The rejection, if it is one.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        match &self.outcome {
            Outcome::Rejected(rejection) => Some(rejection),
            _ => None,
        }
    }

    /// The failure, if it is one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match &self.outcome {
            Outcome::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Its warnings.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The exemptions it used.
    #[must_use]
    pub fn exempted(&self) -> &[String] {
        &self.exempted
    }

    /// The policy version it was decided under, when the controller says one.
    #[must_use]
    pub fn version(&self) -> Option<&Arc<str>> {
        self.policy_version.as_ref()
    }

    /// The answer to question `id` as it goes over the wire.
    #[must_use]
    pub fn into_response(self, id: impl Into<String>) -> wire::AdmitResponse {
        let Self { outcome, warnings, exempted, policy_version } = self;
        let verdict = match outcome {
            Outcome::Admitted => admit_response::Verdict::Admitted(wire::Admitted { warnings, exempted }),
            Outcome::Rejected(rejection) => admit_response::Verdict::Rejected(wire::Rejected {
                reason: rejection.reason.0,
                rule: rejection.rule.unwrap_or_default(),
                details_url: rejection.details_url.unwrap_or_default(),
                warnings,
                exempted,
            }),
            Outcome::Failed(failure) => admit_response::Verdict::Failed(wire::Failed {
                out_of_time: matches!(failure.cause, FailureCause::Silent | FailureCause::NoTimeLeft),
                message: failure.message.0,
            }),
        };
        wire::AdmitResponse {
            id: id.into(),
            policy_version: policy_version.map(|version| version.to_string()).unwrap_or_default(),
            verdict: Some(verdict),
        }
    }
}

impl From<wire::AdmitResponse> for Verdict {
    /// What an answer from the wire says. One that makes no sense (no verdict, a rejection without a reason) is a failure.
    fn from(response: wire::AdmitResponse) -> Self {
        let (verdict, warnings, exempted) = match response.verdict {
            Some(admit_response::Verdict::Admitted(admitted)) => (Self::admit(), admitted.warnings, admitted.exempted),
            Some(admit_response::Verdict::Rejected(rejected))
                if one_line(&rejected.reason, REASON_LIMIT).is_empty() =>
            {
                (Self::failed(FailureCause::Malformed, "it rejected without a reason"), Vec::new(), Vec::new())
            }
            Some(admit_response::Verdict::Rejected(rejected)) => (
                Self::reject(rejected.reason).rule(rejected.rule).details_url(rejected.details_url),
                rejected.warnings,
                rejected.exempted,
            ),
            Some(admit_response::Verdict::Failed(failed)) => {
                let cause = if failed.out_of_time { FailureCause::Silent } else { FailureCause::Error };
                (Self::failed(cause, failed.message), Vec::new(), Vec::new())
            }
            None => (Self::failed(FailureCause::Malformed, "its answer has no verdict"), Vec::new(), Vec::new()),
        };
        let verdict = warnings.into_iter().fold(verdict, Self::warn);
        let verdict = exempted.into_iter().fold(verdict, Self::exempt);
        verdict.policy_version(one_line(&response.policy_version, RULE_LIMIT))
    }
}

impl Rejection {
    /// Why, for the person whose job it is.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The rule that decided, when named.
    #[must_use]
    pub fn rule(&self) -> Option<&str> {
        self.rule.as_deref()
    }

    /// Where to read more, when said.
    #[must_use]
    pub fn details_url(&self) -> Option<&str> {
        self.details_url.as_deref()
    }
}

impl Failure {
    /// What kind of failure.
    #[must_use]
    pub fn cause(&self) -> FailureCause {
        self.cause
    }

    /// What went wrong, for the people who run the controller.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message.0
    }
}

impl FailureCause {
    /// Its name, as records and metrics have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Malformed => "malformed",
            Self::Oversize => "oversize",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::NotAttached => "not_attached",
            Self::NoTimeLeft => "no_time_left",
        }
    }
}

impl Reason {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Reason {
    /// Control characters are removed, line breaks become blanks, and what is longer than 1 KiB is cut. Nothing left: `no
    /// reason given`.
    fn from(text: &str) -> Self {
        match one_line(text, REASON_LIMIT) {
            line if line.is_empty() => Self("no reason given".into()),
            line => Self(line),
        }
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const REASON_LIMIT: usize = 1024;
const RULE_LIMIT: usize = 256;

/// `text` as one line of at most `limit` bytes, without control characters or such that reorder what is shown.
fn one_line(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len().min(limit));
    for c in text.trim().chars() {
        let c = match c {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => continue,
            c if c.is_control() => continue,
            c => c,
        };
        if line.len() + c.len_utf8() > limit - '…'.len_utf8() {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_and_never_empty() {
        assert_eq!(Reason::from("").as_str(), "no reason given");
        assert_eq!(Reason::from(" \u{1b}\n\0 ").as_str(), "no reason given");
        assert_eq!(Reason::from("a\r\nb\u{1b}[31mc\u{202e}").as_str(), "a  b[31mc");
        assert_eq!(Reason::from("x".repeat(5000)).as_str().len(), 1024);
    }

    #[test]
    fn answers_survive_the_wire() {
        let verdicts = [
            Verdict::admit().warn("soon").exempt("old: SEC-1").policy_version("v1"),
            Verdict::reject("no").rule("r").details_url("https://x.example").warn("w").exempt("e").policy_version("v2"),
            Verdict::fail("broken"),
            Verdict::failed(FailureCause::Silent, "no answer within 2s"),
        ];
        for verdict in verdicts {
            assert_eq!(Verdict::from(verdict.clone().into_response("q")), verdict);
        }
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_a_failure() {
        let cause = |verdict| {
            let response = wire::AdmitResponse { id: "q".into(), policy_version: String::new(), verdict };
            Verdict::from(response).failure().map(Failure::cause)
        };
        assert_eq!(cause(None), Some(FailureCause::Malformed));
        let empty = wire::Rejected { reason: "\u{7}".into(), ..wire::Rejected::default() };
        assert_eq!(cause(Some(admit_response::Verdict::Rejected(empty))), Some(FailureCause::Malformed));
    }
}
