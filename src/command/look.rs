//! Looking at a router: jobs, decisions, controllers, runners, its queue.

use std::fmt::Display;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::sleep;
use tonic::Code;

use crate::{
    client::{Client, RouterArgs, WATCH_AGAIN},
    output::{Ended, Exit, Failure, Output, clean},
};

/// List jobs, show one, or follow them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jobgate jobs --state routing --state admitted
  jobgate jobs --project acme/payments/api --json
  jobgate jobs 0192f0c1-… --decisions
  jobgate jobs --watch")]
pub(super) struct Jobs {
    /// Only this job
    id: Option<String>,
    /// Only jobs in this state (routing, admitted, assigned, running, rejected, success, failed, canceled, dropped)
    #[arg(long, value_name = "STATE", conflicts_with = "id")]
    state: Vec<String>,
    /// Only jobs of this project
    #[arg(long, value_name = "PATH", conflicts_with = "id")]
    project: Option<String>,
    /// At most so many, newest first
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "id")]
    limit: u32,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "TOKEN", conflicts_with = "id")]
    page_token: Option<String>,
    /// Follow state changes as they happen, of this job or of all
    #[arg(long, conflicts_with_all = ["state", "project", "limit", "page_token"])]
    watch: bool,
    /// Show how it was decided
    #[arg(long, requires = "id", conflicts_with = "watch")]
    decisions: bool,
    #[command(flatten)]
    router: RouterArgs,
}

/// What a job's record has, in the order in which people ask for it.
const RECORD: [&str; 15] = [
    "id",
    "project",
    "name",
    "state",
    "reason",
    "exit_code",
    "runner",
    "lease",
    "source_id",
    "priority",
    "submitted_at",
    "admitted_at",
    "assigned_at",
    "started_at",
    "finished_at",
];

/// Cancel jobs
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate cancel 0192f0c1-…")]
pub(super) struct Cancel {
    /// Ids of the jobs
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    router: RouterArgs,
}

/// List decisions: who was asked about a job, and what they said
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate decisions --job 0192f0c1-…")]
pub(super) struct Decisions {
    /// Only those about this job
    #[arg(long, value_name = "ID")]
    job: Option<String>,
    /// At most so many, newest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    #[command(flatten)]
    router: RouterArgs,
}

/// List controllers, and how many jobs each one's scope matched
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate controllers")]
pub(super) struct Controllers {
    #[command(flatten)]
    router: RouterArgs,
}

/// List runners
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate runners")]
pub(super) struct Runners {
    #[command(flatten)]
    router: RouterArgs,
}

/// Show how much work waits
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate queue")]
pub(super) struct Queue {
    #[command(flatten)]
    router: RouterArgs,
}

impl Jobs {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let client = self.router.client()?;
        match &self.id {
            _ if self.watch => follow(&client, self.id.iter().cloned().collect(), output).await.map(|_| Exit::Good),
            Some(id) => self.one(&client, id, output).await,
            None => self.list(&client, output).await,
        }
    }

    async fn one(&self, client: &Client, id: &str, output: &mut Output) -> Ended {
        let job: Value = client.get(&format!("/v1/jobs/{}", crate::client::escaped(id)), &[]).await?;
        if output.is_json() && !self.decisions {
            output.json(&job)?;
            return Ok(Exit::Good);
        }
        let decisions = match self.decisions {
            true => decisions(client, Some(id), None).await?,
            false => Value::Null,
        };
        if output.is_json() {
            output.json(&serde_json::json!({ "job": job, "decisions": decisions["decisions"] }))?;
            return Ok(Exit::Good);
        }
        for key in RECORD {
            let shown = text(&job[key]);
            if !shown.is_empty() {
                let shown = if key == "state" { output.state(&shown) } else { clean(&shown) };
                output.line(format_args!("{key:<13} {shown}"))?;
            }
        }
        if self.decisions {
            output.line("")?;
            print_decisions(&decisions, output)?;
        }
        Ok(Exit::Good)
    }

    async fn list(&self, client: &Client, output: &mut Output) -> Ended {
        let mut query: Vec<_> = self.state.iter().map(|state| ("state", state.clone())).collect();
        query.extend(self.project.iter().map(|project| ("project", project.clone())));
        query.push(("limit", self.limit.to_string()));
        query.extend(self.page_token.iter().map(|token| ("page_token", token.clone())));
        let page: Value = client.get("/v1/jobs", &query).await?;
        if output.is_json() {
            output.json(&page)?;
            return Ok(Exit::Good);
        }
        let now = Timestamp::now();
        let rows = list(&page, "jobs").iter().map(|job| {
            let age = age(&job["submitted_at"], now);
            [
                text(&job["id"]),
                text(&job["state"]),
                text(&job["project"]),
                text(&job["name"]),
                text(&job["runner"]),
                age,
                text(&job["reason"]),
            ]
        });
        output.table(&["id", "state", "project", "name", "runner", "age", "reason"], rows, "no jobs")?;
        let next = text(&page["next_page_token"]);
        if !next.is_empty() {
            output.line(format_args!("there are more: --page-token {next}"))?;
        }
        Ok(Exit::Good)
    }
}

impl Cancel {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let client = self.router.client()?;
        for id in &self.ids {
            let job = client.cancel(id).await?;
            match output.is_json() {
                true => output.json_line(&job)?,
                false => output.line(format_args!("{id} {}", output.state(&text(&job["state"]))))?,
            }
        }
        Ok(Exit::Good)
    }
}

impl Decisions {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let found = decisions(&self.router.client()?, self.job.as_deref(), self.limit).await?;
        match output.is_json() {
            true => output.json(&found)?,
            false => print_decisions(&found, output)?,
        }
        Ok(Exit::Good)
    }
}

impl Controllers {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let found: Value = self.router.client()?.get("/v1/controllers", &[]).await?;
        if output.is_json() {
            output.json(&found)?;
            return Ok(Exit::Good);
        }
        let controllers = list(&found, "controllers");
        let rows = controllers.iter().map(|controller| {
            ["name", "scope", "state", "kind", "attached", "matched_jobs", "policy_version"]
                .map(|key| text(&controller[key]))
        });
        let headings = ["name", "scope", "state", "kind", "instances", "jobs matched", "policy version"];
        output.table(&headings, rows, "no controllers: every job is admitted")?;
        for controller in controllers {
            for warning in warnings(controller) {
                output.line(format_args!("{} {}: {warning}", output.state("warning"), text(&controller["name"])))?;
            }
        }
        Ok(Exit::Good)
    }
}

fn warnings(controller: &Value) -> Vec<&'static str> {
    let asked = controller["state"] != "disabled";
    let found = [
        (asked && controller["matched_jobs"] == 0, "no job matched its scope yet; is the path right?"),
        (asked && controller["attached"] == 0, "nobody answers for it: its jobs fail closed"),
        (controller["stale"] == true, "its files are faulty or gone; an older policy decides"),
    ];
    found.into_iter().filter(|(holds, _)| *holds).map(|(_, warning)| warning).collect()
}

impl Runners {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let found: Value = self.router.client()?.get("/v1/runners", &[]).await?;
        if output.is_json() {
            output.json(&found)?;
            return Ok(Exit::Good);
        }
        let rows = list(&found, "runners").iter().map(|runner| {
            let systems = list(runner, "systems");
            let sum = |key| systems.iter().filter_map(|system| system[key].as_u64()).sum::<u64>().to_string();
            [
                text(&runner["name"]),
                text(&runner["state"]),
                text(&runner["type"]),
                text(&runner["owner"]),
                text(&runner["tags"]),
                systems.len().to_string(),
                sum("running"),
                sum("capacity"),
            ]
        });
        let headings = ["name", "state", "type", "owner", "tags", "systems", "running", "capacity"];
        output.table(&headings, rows, "no runners: the configuration names none")?;
        Ok(Exit::Good)
    }
}

impl Queue {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let found: Value = self.router.client()?.get("/v1/queue", &[]).await?;
        if output.is_json() {
            output.json(&found)?;
            return Ok(Exit::Good);
        }
        let jobs = found["jobs"].as_object().into_iter().flatten();
        let rows = jobs.map(|(state, count)| [state.clone(), text(count)]);
        output.table(&["state", "jobs"], rows, "no jobs")?;
        if let Some(seconds) = found["oldest_wait_seconds"].as_i64() {
            output.line(format_args!("the oldest waits for {}", span(SignedDuration::from_secs(seconds))))?;
        }
        output.line(format_args!("{} free slot(s)", text(&found["free_slots"])))?;
        Ok(Exit::Good)
    }
}

/// A router follows no more named jobs on one stream (`job.proto`).
const MAX_WATCHED: usize = 1000;

/// Prints every state change of these jobs until all are final; of all jobs for ever. Gives the last states.
pub(super) async fn follow(client: &Client, ids: Vec<String>, output: &mut Output) -> Result<Vec<Value>, Failure> {
    let mut last: Vec<Value> = Vec::new();
    if ids.is_empty() {
        follow_some(client, ids, &mut last, output).await?;
        return Ok(last);
    }
    for ids in ids.chunks(MAX_WATCHED) {
        follow_some(client, ids.to_vec(), &mut last, output).await?;
    }
    Ok(last)
}

async fn follow_some(
    client: &Client,
    ids: Vec<String>,
    last: &mut Vec<Value>,
    output: &mut Output,
) -> Result<(), Failure> {
    loop {
        let mut stream = match client.watch(ids.clone()).await {
            Ok(stream) => stream,
            // The router was there when this began: it will be again.
            Err(status) if status.code() == Code::Unavailable && !last.is_empty() => {
                sleep(WATCH_AGAIN).await;
                continue;
            }
            Err(status) => return Err(client.watch_failure(&status)),
        };
        let status = loop {
            match stream.message().await {
                Ok(Some(record)) => {
                    let record = serde_json::to_value(&record).map_err(Failure::new)?;
                    changed(last, record, output)?;
                }
                Ok(None) if ids.is_empty() => break tonic::Status::unavailable("the stream ended"),
                Ok(None) => return Ok(()),
                Err(status) => break status,
            }
        };
        match status.code() {
            Code::Unavailable | Code::ResourceExhausted | Code::Unknown | Code::Internal | Code::Aborted => {
                tracing::warn!(reason = %clean(status.message()), "no longer following; trying again");
                sleep(WATCH_AGAIN).await;
            }
            _ => return Err(client.watch_failure(&status)),
        }
    }
}

fn changed(last: &mut Vec<Value>, record: Value, output: &mut Output) -> Result<(), Failure> {
    let known = last.iter_mut().find(|known| known["id"] == record["id"]);
    if known.as_ref().is_some_and(|known| known["state"] == record["state"] && known["reason"] == record["reason"]) {
        return Ok(());
    }
    match output.is_json() {
        true => output.json_line(&record)?,
        false => {
            let [id, project, name, state, reason] =
                ["id", "project", "name", "state", "reason"].map(|key| clean(&text(&record[key])));
            // A reason often begins with the state: `rejected by …`.
            let reason = reason.strip_prefix(&state).unwrap_or(&reason).trim_start().to_owned();
            let line = format!("{id} {project} {name}: {} {reason}", output.state(&state));
            output.line(line.trim_end())?;
        }
    }
    match known {
        Some(known) => *known = record,
        None => last.push(record),
    }
    Ok(())
}

async fn decisions(client: &Client, job: Option<&str>, limit: Option<u32>) -> Result<Value, Failure> {
    let mut query: Vec<_> = job.iter().map(|job| ("job", (*job).to_owned())).collect();
    query.extend(limit.iter().map(|limit| ("limit", limit.to_string())));
    client.get("/v1/decisions", &query).await
}

fn print_decisions(found: &Value, output: &mut Output) -> Result<(), Failure> {
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
pub(super) fn print_decision(decision: &Value, output: &mut Output) -> Result<(), Failure> {
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

pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// A value as a cell of a table.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn age(time: &Value, now: Timestamp) -> String {
    let time = time.as_str().and_then(|time| time.parse::<Timestamp>().ok());
    time.map_or_else(String::new, |time| span(now.duration_since(time)).to_string())
}

/// In its two largest units at most.
fn span(span: SignedDuration) -> impl Display {
    let seconds = span.as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn controllers_that_cannot_do_their_work_are_warned_about() {
        let controller = |state, matched, attached, stale| json!({"state": state, "matched_jobs": matched, "attached": attached, "stale": stale});
        assert_eq!(warnings(&controller("enabled", 1, 1, false)).len(), 0);
        assert_eq!(warnings(&controller("enabled", 0, 0, true)).len(), 3);
        assert_eq!(warnings(&controller("disabled", 0, 0, false)).len(), 0);
    }

    #[test]
    fn spans_are_short() {
        let shown = |seconds| span(SignedDuration::from_secs(seconds)).to_string();
        assert_eq!([-5, 59, 61, 7300, 90_000].map(shown), ["0s", "59s", "1m", "2h1m", "1d1h"]);
    }
}
