//! What the log of a job says that no runner will have. Its reader is the person whose job it is: who refused it, why, and what
//! to do. Everything in it comes from controllers and from the configuration: no secret of the job.

use std::fmt::Write;

use crate::decision::{Cause, Decision, VerdictRecord};

/// Colours as GitLab's own runner writes them, and GitLab's log view shows.
const RED: &str = "\x1b[31;1m";
const YELLOW: &str = "\x1b[33;1m";
const PLAIN: &str = "\x1b[0;m";
/// Verdicts shown at most.
const MOST_VERDICTS: usize = 20;

/// The log of a job that its chain did not admit.
pub(crate) fn rejected(decision: &Decision) -> String {
    let mut text = String::new();
    let policy = decision.cause == Some(Cause::Policy);
    let title = match policy {
        true => "This job was rejected by policy. No runner has started it.",
        false => "This job was not admitted: whether it may run could not be decided. No runner has started it.",
    };
    line(&mut text, format_args!("{RED}{title}{PLAIN}"));
    line(&mut text, format_args!(""));
    let mut named = decision
        .verdicts
        .iter()
        .filter(|verdict| verdict.enforced && verdict.outcome != "admitted")
        .take(MOST_VERDICTS)
        .peekable();
    if named.peek().is_none() {
        line(&mut text, format_args!("  {}", decision.reason));
    }
    for verdict in named {
        tell(&mut text, verdict);
    }
    line(&mut text, format_args!(""));
    let advice = match policy {
        true => {
            "Change the job so that the rule holds, or ask the owners of the policy for an exemption. Without a change a retry is rejected again."
        }
        false => {
            "Nothing is known to be wrong with the job: retry it. If it happens again, tell the people who run jobgate."
        }
    };
    line(&mut text, format_args!("{YELLOW}What to do:{PLAIN} {advice}"));
    line(&mut text, format_args!(""));
    let runner = decision.runner.as_deref().unwrap_or("unknown");
    line(
        &mut text,
        format_args!(
            "Decision {} of job {}, runner {runner}, chain version {}, {}",
            decision.admission_id,
            decision.job_id,
            decision.chain_version,
            decision.time.strftime("%Y-%m-%dT%H:%M:%SZ")
        ),
    );
    text
}

fn tell(text: &mut String, verdict: &VerdictRecord) {
    let word = if verdict.outcome == "rejected" { "Rejected by" } else { "No answer from" };
    line(text, format_args!("  {word} {} ({})", verdict.controller, verdict.level));
    if let Some(rule) = &verdict.rule {
        line(text, format_args!("    rule    {rule}"));
    }
    if let Some(reason) = &verdict.reason {
        line(text, format_args!("    reason  {reason}"));
    }
    if let Some(url) = &verdict.details_url {
        line(text, format_args!("    more    {url}"));
    }
}

/// The router was restarted while the chain was asked.
pub(crate) fn restarted() -> String {
    failed("jobgate was restarted while it decided about this job")
}

/// The runner's call was over before its job could be given to it.
pub(crate) fn runner_gone() -> String {
    failed("the runner that asked for this job was gone before it could be given to it")
}

/// The runner never said that it has its job.
pub(crate) fn unconfirmed() -> String {
    failed("the runner that was given this job did not take it up in time")
}

/// It could not be written that the runner gets it.
pub(crate) fn unwritten() -> String {
    failed("jobgate could not write its state when it was to give this job to a runner")
}

/// It has no way to its runner.
pub(crate) fn too_large(bytes: usize, most: usize) -> String {
    let mut text = String::new();
    let title =
        format!("its description has {bytes} bytes, and the way this runner asks for jobs takes at most {most}");
    line(&mut text, format_args!("{RED}This job was not started: {title}.{PLAIN}"));
    line(&mut text, format_args!(""));
    let advice = "Make the description smaller (variables, scripts), or ask the people who run the runner to turn FF_USE_JOB_ROUTER off for it.";
    line(&mut text, format_args!("{YELLOW}What to do:{PLAIN} {advice}"));
    text
}

/// What the router could not do.
pub(crate) fn failed(why: &str) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("{RED}This job was not started: {why}.{PLAIN}"));
    line(&mut text, format_args!(""));
    let advice =
        "Nothing is known to be wrong with the job: retry it. If it happens again, tell the people who run jobgate.";
    line(&mut text, format_args!("{YELLOW}What to do:{PLAIN} {advice}"));
    text
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{words}");
}
