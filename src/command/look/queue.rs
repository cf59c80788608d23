use std::cmp::Reverse;

use serde_json::Value;

use super::{fingerprint, kind, list, offers, seconds, text};
use crate::{
    client::RouterArgs,
    output::{Ended, Exit, Failure, Output},
};

/// Show how much work waits, for which runners, and who leads
///
/// A job counts for every capability group that could take it: runners of the same type, owner, tags and properties. WAITING and
/// RUNNING together are the number to scale runners on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate queue")]
pub(in crate::command) struct Queue {
    #[command(flatten)]
    router: RouterArgs,
}

impl Queue {
    pub(in crate::command) async fn run(&self, output: &mut Output) -> Ended {
        let found: Value = self.router.client()?.get("/v1/queue", &[]).await?;
        match output.is_json() {
            true => output.json(&found)?,
            false => print_queue(&found, output)?,
        }
        Ok(Exit::Good)
    }
}

fn print_queue(found: &Value, output: &mut Output) -> Result<(), Failure> {
    let jobs = found["jobs"].as_object().into_iter().flatten();
    output.table(&["state", "jobs"], jobs.map(|(state, count)| [state.clone(), text(count)]), "no jobs")?;
    let oldest = seconds(&found["oldest_wait_seconds"]);
    if !oldest.is_empty() {
        output.line(format_args!("the oldest waits for {oldest}"))?;
    }
    output.line(format_args!("{} free slot(s)", text(&found["free_slots"])))?;

    let mut groups: Vec<_> = list(found, "groups").iter().collect();
    if !groups.is_empty() {
        output.line("")?;
        groups.sort_by_key(|group| Reverse(group["waiting"].as_u64()));
        let headings = ["fingerprint", "type", "tags", "waiting", "running", "oldest", "capacity", "free"];
        output.table(&headings, groups.into_iter().map(row), "")?;
    }
    if !list(found, "leaders").is_empty() {
        output.line("")?;
        print_leaders(list(found, "leaders"), output)?;
    }
    Ok(())
}

fn row(group: &Value) -> [String; 8] {
    let served = group["served"] != false;
    [
        fingerprint(group),
        kind(group),
        offers(group),
        text(&group["waiting"]),
        text(&group["running"]),
        seconds(&group["oldest_wait_seconds"]),
        if served { text(&group["capacity"]) } else { "no runner".to_owned() },
        if served { text(&group["free"]) } else { String::new() },
    ]
}

/// Who leads each of these runner groups.
pub(super) fn print_leaders(leaders: &[Value], output: &mut Output) -> Result<(), Failure> {
    let rows = leaders.iter().map(|leader| {
        let runner = match leader["runner"].as_str() {
            Some(runner) => runner.to_owned(),
            None => "nobody".to_owned(),
        };
        [text(&leader["group"]), runner, text(&leader["system"]), text(&leader["pinned"]), text(&leader["fence"])]
    });
    output.table(&["runner group", "leader", "system", "pinned", "fence"], rows, "no runner group has a leader")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::printed;

    #[test]
    fn demand_without_a_runner_and_a_group_without_a_leader_are_seen() {
        let found = json!({
            "jobs": {"admitted": 5, "running": 2}, "oldest_wait_seconds": 7300, "free_slots": 1,
            "groups": [
                {"fingerprint": "0123456789abcdef", "type": "group", "owner": "acme", "tags": ["deploy", "eu"],
                 "run_untagged": false, "protected": true, "served": true, "waiting": 1, "running": 2, "capacity": 3, "free": 1,
                 "systems": 2, "oldest_wait_seconds": 61},
                {"fingerprint": "fedcba9876543210", "type": "instance", "tags": ["gpu"], "run_untagged": true, "protected": false,
                 "served": false, "waiting": 4, "running": 0, "capacity": 0, "free": 0, "systems": 0, "oldest_wait_seconds": 7300},
            ],
            "leaders": [{"group": "deployers", "runner": "d-1", "system": "d-1@host", "pinned": "d-1", "fence": 9},
                        {"group": "builders", "fence": 3}],
        });
        let text = printed(Some(100), |output| print_queue(&found, output).unwrap());
        let head = "STATE     JOBS\nadmitted  5\nrunning   2\nthe oldest waits for 2h1m\n1 free slot(s)\n\nFINGERPRINT";
        assert!(text.starts_with(head), "{text}");
        let lines: Vec<_> = text.lines().collect();
        let gpu = lines.iter().position(|line| line.starts_with("fedcba987654  instance")).unwrap();
        let deploy = lines.iter().position(|line| line.starts_with("0123456789ab  group")).unwrap();
        assert!(gpu < deploy, "the most wanted first: {text}");
        assert!(lines[gpu].contains("gpu (untagged)") && lines[gpu].contains("2h1m"), "{text}");
        assert!(lines[gpu].ends_with("no runner"), "{text}");
        assert!(lines[deploy].contains("deploy, eu (protected)"), "{text}");
        assert!(text.contains("deployers     d-1     d-1@host  d-1     9"), "{text}");
        assert!(text.contains("builders      nobody                    3"), "{text}");
        assert!(lines.iter().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn an_empty_queue_says_so() {
        let text = printed(None, |output| print_queue(&json!({"jobs": {}, "free_slots": 0}), output).unwrap());
        assert_eq!(text, "no jobs\n0 free slot(s)\n");
    }
}
