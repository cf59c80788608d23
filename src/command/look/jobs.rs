use jiff::Timestamp;
use serde_json::Value;

use super::{
    age,
    decisions::{decisions, print_decisions},
    fingerprint, follow, list, moment, text,
};
use crate::{
    client::{Client, RouterArgs, escaped},
    output::{Ended, Exit, Failure, Output, clean},
};

/// List jobs, follow them, or say what one waits for
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jobgate jobs --state routing --state admitted
  jobgate jobs --project acme/payments/api --json
  jobgate jobs 0192f0c1-…
  jobgate jobs 0192f0c1-… --decisions
  jobgate jobs --watch")]
pub(in crate::command) struct Jobs {
    /// Only this job: with what happened to it, and why it waits
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

/// What a job's record has, in the order in which people ask for it. What it waits for comes after its state.
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
pub(in crate::command) struct Cancel {
    /// Ids of the jobs
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    router: RouterArgs,
}

impl Jobs {
    pub(in crate::command) async fn run(&self, output: &mut Output) -> Ended {
        let client = self.router.client()?;
        match &self.id {
            _ if self.watch => follow(&client, self.id.iter().cloned().collect(), output).await.map(|_| Exit::Good),
            Some(id) => self.one(&client, id, output).await,
            None => self.list(&client, output).await,
        }
    }

    async fn one(&self, client: &Client, id: &str, output: &mut Output) -> Ended {
        let mut found: Value = client.get(&format!("/v1/jobs/{}/explain", escaped(id)), &[]).await?;
        if self.decisions {
            found["decisions"] = decisions(client, Some(id), None).await?["decisions"].take();
        }
        match output.is_json() {
            true => output.json(&found)?,
            false => print_job(&found, output)?,
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
    pub(in crate::command) async fn run(&self, output: &mut Output) -> Ended {
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

/// A job's record with what it waits for, then what happened to it, then how it was decided.
fn print_job(found: &Value, output: &mut Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for key in RECORD {
        let shown = clean(&text(&found["job"][key]));
        if !shown.is_empty() {
            rows.push([key.to_owned(), shown]);
        }
        if key == "state" && found["waits"].is_object() {
            rows.extend(waits(&found["waits"]));
        }
    }
    output.pairs(&rows)?;
    let events = list(found, "events");
    if !events.is_empty() {
        output.line("")?;
        let rows = events.iter().map(|event| [moment(&event["time"]), text(&event["state"]), text(&event["text"])]);
        output.table(&["time", "state", "event"], rows, "")?;
    }
    if found["decisions"].is_array() {
        output.line("")?;
        print_decisions(found, output)?;
    }
    Ok(())
}

/// What it waits for in one sentence; below, for each capability group, the first thing that keeps it and the job apart.
fn waits(waits: &Value) -> Vec<[String; 2]> {
    let mut rows = vec![["waits".to_owned(), format!("{}: {}", text(&waits["why"]), text(&waits["text"]))]];
    for obstacle in list(waits, "groups") {
        let runners = match text(&obstacle["runners"]) {
            none if none.is_empty() => "no runner".to_owned(),
            runners => runners,
        };
        rows.push([String::new(), format!("{} {runners}: {}", fingerprint(obstacle), text(&obstacle["text"]))]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::printed;

    #[test]
    fn why_a_job_is_stuck_comes_right_after_its_state() {
        let found = json!({
            "job": {"id": "0192f0c1", "project": "acme/api", "name": "train", "state": "admitted", "priority": 5,
                    "submitted_at": "2026-11-25T10:00:00Z", "admitted_at": "2026-11-25T10:00:00.25Z"},
            "waits": {"why": "no_matching_runner",
                      "text": "no configured runner could take it; nearest are gpu-1, gpu-2: the tag `cuda` is lacking",
                      "groups": [
                          {"fingerprint": "0123456789abcdef", "runners": ["gpu-1", "gpu-2"], "what": "tags",
                           "text": "lacks the tag `cuda`"},
                          {"fingerprint": "fedcba9876543210", "runners": [], "what": "protected",
                           "text": "takes jobs of protected refs only\u{1b}[31m"}]},
            "events": [
                {"time": "2026-11-25T10:00:00Z", "state": "routing", "text": "submitted"},
                {"time": "2026-11-25T10:00:00.25Z", "state": "admitted", "text": "admitted by 2 controllers"}],
        });
        let text = printed(Some(100), |output| print_job(&found, output).unwrap());
        let expected = "\
id            0192f0c1
project       acme/api
name          train
state         admitted
waits         no_matching_runner: no configured runner could take it; nearest are gpu-1, gpu-2: the
              tag `cuda` is lacking
              0123456789ab gpu-1, gpu-2: lacks the tag `cuda`
              fedcba987654 no runner: takes jobs of protected refs only [31m
priority      5
submitted_at  2026-11-25T10:00:00Z
admitted_at   2026-11-25T10:00:00.25Z

TIME                      STATE     EVENT
2026-11-25T10:00:00.000Z  routing   submitted
2026-11-25T10:00:00.250Z  admitted  admitted by 2 controllers
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_job_that_does_not_wait_says_nothing_of_it() {
        let found = json!({"job": {"id": "1", "state": "success", "exit_code": 0, "submitted_at": "x"}, "events": []});
        let text = printed(None, |output| print_job(&found, output).unwrap());
        assert_eq!(text, "id            1\nstate         success\nexit_code     0\nsubmitted_at  x\n");
    }
}
