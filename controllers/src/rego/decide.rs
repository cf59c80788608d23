//! One decision: the question becomes an input, `deny` and `warn` become a verdict.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use jobgate_sdk::{AdmissionRequest, FailureCause, Verdict};
use regorus::Value;

use super::{
    input::InputBuilder,
    replica::{EvalError, Recipe, Replica},
    rules::RuleInfo,
};

/// Largest result of an evaluation, in bytes of text.
pub(crate) const RESULT_LIMIT: usize = 64 << 10;

/// Warnings of one verdict; the rest is counted.
const WARNINGS: usize = 32;

/// What one thread decides with.
pub(crate) struct Decider {
    policy: Arc<Recipe>,
    budget: Duration,
    inputs: InputBuilder,
    replica: Option<Replica>,
}

/// One element of `deny` or `warn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) message: String,
    pub(crate) rule: Option<String>,
    pub(crate) details_url: Option<String>,
}

/// Why there is no decision.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) cause: FailureCause,
    pub(crate) message: String,
}

impl Failed {
    fn error(message: impl Into<String>) -> Self {
        Self { cause: FailureCause::Error, message: message.into() }
    }
}

impl Decider {
    pub(crate) fn new(policy: Arc<Recipe>, budget: Duration) -> Self {
        let mut decider = Self { policy, budget, inputs: InputBuilder::default(), replica: None };
        // Built before the first question, which then does not wait for it. An error is said when it matters.
        let _ = decider.replica();
        decider
    }

    /// Decides about one job.
    pub(crate) fn decide(&mut self, request: &AdmissionRequest) -> Verdict {
        self.try_decide(request).unwrap_or_else(|failed| {
            // A failed evaluation may have left much behind in the engine.
            self.replica = None;
            Verdict::failed(failed.cause, failed.message)
        })
    }

    /// Puts back what a failed evaluation took.
    pub(crate) fn tidy(&mut self) {
        let _ = self.replica();
    }

    fn try_decide(&mut self, request: &AdmissionRequest) -> Result<Verdict, Failed> {
        let begun = Instant::now();
        let input = self.inputs.build(request).map_err(|error| Failed::error(error.to_string()))?;
        let budget = self.budget;
        let policy = self.policy.clone();
        let replica = self.replica().map_err(Failed::error)?;
        let findings = replica.evaluate(input, budget).map_err(|error| failed(&error, budget))?;
        let _ = replica.prints();

        within_limit(&[&findings.deny, &findings.warn])?;
        let mut deny = elements("deny", &findings.deny)?;
        let mut warn = elements("warn", &findings.warn)?;
        let unnamed = |list: &[(Value, Finding)], set| {
            policy.rules.iter().any(|rule| rule.set == set && rule.has_names())
                && list.iter().any(|(_, finding)| finding.rule.is_none() || finding.details_url.is_none())
        };
        for (list, set) in [(&mut deny, "deny"), (&mut warn, "warn")] {
            if unnamed(list, set) {
                name(list, replica, &policy, set, budget.saturating_sub(begun.elapsed()))
                    .map_err(|error| failed(&error, budget))?;
            }
        }
        Ok(verdict(deny, warn))
    }

    fn replica(&mut self) -> Result<&mut Replica, String> {
        let replica = match self.replica.take() {
            Some(replica) => replica,
            None => Replica::build(&self.policy)?,
        };
        Ok(self.replica.insert(replica))
    }
}

/// Names findings by the annotations of the rules that made them: each annotated rule is asked by itself.
fn name(
    findings: &mut [(Value, Finding)],
    replica: &mut Replica,
    policy: &Recipe,
    set: &'static str,
    left: Duration,
) -> Result<(), EvalError> {
    let end = Instant::now() + left;
    for rule in policy.rules.iter().filter(|rule| rule.set == set && rule.has_names()) {
        let left = end.saturating_duration_since(Instant::now());
        let made = replica.evaluate_rule(&policy.package, rule.at, set, left)?;
        let Value::Set(made) = &made else { continue };
        for (element, finding) in findings.iter_mut() {
            if made.contains(element) {
                adopt(finding, rule);
            }
        }
    }
    Ok(())
}

/// The first rule that made a finding gives it what it lacks.
pub(crate) fn adopt(finding: &mut Finding, rule: &RuleInfo) {
    if finding.rule.is_none() {
        finding.rule.clone_from(&rule.name);
    }
    if finding.details_url.is_none() {
        finding.details_url.clone_from(&rule.details_url);
    }
}

fn failed(error: &EvalError, budget: Duration) -> Failed {
    match error {
        EvalError::OutOfTime => Failed::error(format!("the evaluation was stopped at its budget of {budget:?}")),
        EvalError::Broken(what) => Failed::error(what.as_str()),
    }
}

/// The elements of a set, read; the first that cannot be makes the verdict fail.
pub(crate) fn elements(set: &str, value: &Value) -> Result<Vec<(Value, Finding)>, Failed> {
    let Value::Set(list) = value else {
        return Err(Failed::error(format!("`{set}` is not a set")));
    };
    list.iter_sorted().map(|element| Ok((element.clone(), finding(set, element)?))).collect()
}

fn finding(set: &str, element: &Value) -> Result<Finding, Failed> {
    let broken = |what: &str| {
        let shown: String = element.to_string().chars().take(120).collect();
        Err(Failed { cause: FailureCause::Malformed, message: format!("an element of `{set}` {what}: {shown}") })
    };
    let text = |value: &Value| match value {
        Value::String(text) if !text.trim().is_empty() => Ok(Some(text.to_string())),
        Value::Undefined => Ok(None),
        _ => Err(()),
    };
    match element {
        Value::String(message) if !message.trim().is_empty() => {
            Ok(Finding { message: message.to_string(), rule: None, details_url: None })
        }
        Value::Object(_) => {
            let Ok(Some(message)) = text(&element["message"]) else {
                return broken("has no `message`, which must be text");
            };
            let Ok(rule) = text(&element["rule"]) else { return broken("has a `rule` that is not text") };
            let Ok(details_url) = text(&element["details_url"]) else {
                return broken("has a `details_url` that is not text");
            };
            Ok(Finding { message, rule, details_url })
        }
        _ => broken("is neither text nor an object with a `message`"),
    }
}

/// The first reason rejects; the others stand beside it, so that one look is enough to mend the job.
fn verdict(deny: Vec<(Value, Finding)>, warn: Vec<(Value, Finding)>) -> Verdict {
    let mut deny = deny.into_iter().map(|(_, finding)| finding);
    let mut lines: Vec<String> = Vec::new();
    let mut verdict = match deny.next() {
        None => Verdict::admit(),
        Some(first) => {
            let mut verdict = Verdict::reject(first.message);
            if let Some(rule) = first.rule {
                verdict = verdict.rule(rule);
            }
            if let Some(url) = first.details_url {
                verdict = verdict.details_url(url);
            }
            lines.extend(deny.map(|finding| line("also rejected", finding)));
            verdict
        }
    };
    lines.extend(warn.into_iter().map(|(_, finding)| line("", finding)));
    let more = lines.len().saturating_sub(WARNINGS);
    for line in lines.into_iter().take(WARNINGS) {
        verdict = verdict.warn(line);
    }
    if more > 0 {
        verdict = verdict.warn(format!("and {more} more"));
    }
    verdict
}

/// `also rejected, rule NAME: MESSAGE (URL)`, as far as there is.
fn line(what: &str, finding: Finding) -> String {
    let mut head = what.to_owned();
    if let Some(rule) = finding.rule {
        head.push_str(if head.is_empty() { "rule " } else { ", rule " });
        head.push_str(&rule);
    }
    let mut line = if head.is_empty() { finding.message } else { format!("{head}: {}", finding.message) };
    if let Some(url) = finding.details_url {
        // Writing to a string does not fail.
        let _ = write!(line, " ({url})");
    }
    line
}

/// The result is no larger than [`RESULT_LIMIT`]; counting stops there, because values share their parts and may be far
/// larger written out than they are in memory.
fn within_limit(values: &[&Value]) -> Result<(), Failed> {
    let mut left = RESULT_LIMIT;
    if values.iter().all(|value| super::guard::charge(value, &mut left)) {
        return Ok(());
    }
    let message = format!("the result is larger than {} KiB", RESULT_LIMIT >> 10);
    Err(Failed { cause: FailureCause::Oversize, message })
}
