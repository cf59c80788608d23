use serde_json::Value;

use super::{list, text};
use crate::{
    client::{Client, RouterArgs},
    output::{Ended, Exit, Failure, Output, clean},
};

/// List decisions: who was asked about a job, and what they said
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate decisions --job 0192f0c1-…")]
pub(in crate::command) struct Decisions {
    /// Only those about this job
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// At most so many, newest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    #[command(flatten)]
    router: RouterArgs,
}

impl Decisions {
    pub(in crate::command) async fn run(&self, output: &mut Output) -> Ended {
        let found = decisions(&self.router.client()?, self.job.as_deref(), self.limit).await?;
        match output.is_json() {
            true => output.json(&found)?,
            false => print_decisions(&found, output)?,
        }
        Ok(Exit::Good)
    }
}

pub(super) async fn decisions(client: &Client, job: Option<&str>, limit: Option<u32>) -> Result<Value, Failure> {
    let mut query: Vec<_> = job.iter().map(|job| ("job", (*job).to_owned())).collect();
    query.extend(limit.iter().map(|limit| ("limit", limit.to_string())));
    client.get("/v1/decisions", &query).await
}

pub(super) fn print_decisions(found: &Value, output: &mut Output) -> Result<(), Failure> {
    let decisions = list(found, "decisions");
    if decisions.is_empty() {
        return output.line("no decisions");
    }
    for decision in decisions {
        print_decision(decision, output)?;
    }
    Ok(())
}

/// A decision in a line, and its verdicts below.
fn print_decision(decision: &Value, output: &mut Output) -> Result<(), Failure> {
    let ruling = output.state(&text(&decision["decision"]));
    let job =
        [&decision["time"], &decision["job_id"], &decision["project"]].map(text).map(|part| clean(&part)).join(" ");
    let runner = match decision["runner"].as_str() {
        Some(runner) => format!(" for runner {}", clean(runner)),
        None => String::new(),
    };
    let reason = clean(&text(&decision["reason"]));
    let reason = if reason.is_empty() { reason } else { format!(": {reason}") };
    output.line(format_args!("{job}{runner} {ruling}{reason}"))?;
    for verdict in list(decision, "verdicts") {
        print_verdict(verdict, output)?;
    }
    Ok(())
}

fn print_verdict(verdict: &Value, output: &mut Output) -> Result<(), Failure> {
    let outcome = text(&verdict["outcome"]);
    let padding = " ".repeat(9_usize.saturating_sub(outcome.len()));
    let [level, controller, rule, reason] =
        ["level", "controller", "rule", "reason"].map(|key| clean(&text(&verdict[key])));
    let mut line = format!("  {}{padding}{controller} ({level})", output.state(&outcome));
    if verdict["enforced"] == false {
        line.push_str(", dry run");
    }
    if !rule.is_empty() {
        line.push_str(&format!(", rule {rule}"));
    }
    if !reason.is_empty() {
        line.push_str(&format!(": {reason}"));
    }
    output.line(line)?;
    for (word, key) in [("warning", "warnings"), ("exempted", "exempted")] {
        for said in list(verdict, key) {
            output.line(format_args!("    {}: {}", output.state(word), clean(&text(said))))?;
        }
    }
    Ok(())
}
