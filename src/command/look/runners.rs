//! Runners: which there are, and what is done to them.

use serde_json::{Value, json};

use super::{fingerprint, kind, list, moment, offers, queue::print_leaders, text};
use crate::{
    client::{Client, RouterArgs, escaped},
    output::{Ended, Exit, Failure, Output},
};

/// List runners; taint, pin and drain them
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  jobgate runners
  jobgate runners taint gpu-1 --kind jobs --reason 'new driver, being tried out'
  jobgate runners pin deployers d-2"
)]
pub(in crate::command) struct Runners {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    router: RouterArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Keep a runner out of leadership or of jobs; it survives restarts of runner and router
    #[command(after_help = "\
Example:
  jobgate runners taint gpu-1 --kind jobs --reason 'new driver, being tried out'")]
    Taint {
        /// Name of the runner
        name: String,
        /// Out of what: `leadership` of its runner group, or `jobs`, and so of leadership, too
        #[arg(long, value_enum)]
        kind: Kind,
        /// Why, for people: one line of at most 200 characters
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        of: System,
    },
    /// Take taints away, also those that the runner gave itself
    #[command(after_help = "Example:\n  jobgate runners untaint gpu-1 --kind jobs")]
    Untaint {
        /// Name of the runner
        name: String,
        /// Only those of this kind
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        #[command(flatten)]
        of: System,
    },
    /// Make a runner the leader of its runner group whenever it is healthy and untainted
    #[command(after_help = "Example:\n  jobgate runners pin deployers d-2")]
    Pin {
        /// The runner group
        group: String,
        /// Name of the runner
        name: String,
        #[command(flatten)]
        router: RouterArgs,
    },
    /// Take the pin of a runner group away; who leads goes on leading
    #[command(after_help = "Example:\n  jobgate runners unpin deployers")]
    Unpin {
        /// The runner group
        group: String,
        #[command(flatten)]
        router: RouterArgs,
    },
    /// Give a runner no new jobs until it attaches anew; running ones go on
    #[command(after_help = "Example:\n  jobgate runners drain gpu-1")]
    Drain {
        /// Name of the runner
        name: String,
        #[command(flatten)]
        of: System,
    },
}

#[derive(Debug, clap::Args)]
struct System {
    /// Only one of the processes that share the runner's token
    #[arg(long, value_name = "ID")]
    system: Option<String>,
    #[command(flatten)]
    router: RouterArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    Leadership,
    Jobs,
}

impl Runners {
    pub(in crate::command) async fn run(&self, output: &mut Output) -> Ended {
        if let Some(action) = &self.action {
            return action.run(output).await;
        }
        let found: Value = self.router.client()?.get("/v1/runners", &[]).await?;
        match output.is_json() {
            true => output.json(&found)?,
            false => print_runners(list(&found, "runners"), output)?,
        }
        Ok(Exit::Good)
    }
}

impl Action {
    async fn run(&self, output: &mut Output) -> Ended {
        let (client, path, body) = self.request()?;
        let found: Value = client.post(&path, &body).await?;
        if output.is_json() {
            output.json(&found)?;
        } else if found["leader"].is_object() {
            print_leaders(std::slice::from_ref(&found["leader"]), output)?;
        } else {
            print_runners(std::slice::from_ref(&found["runner"]), output)?;
        }
        Ok(Exit::Good)
    }

    fn request(&self) -> Result<(Client, String, Value), Failure> {
        let runner = |name: &str, verb: &str| format!("/v1/runners/{}/{verb}", escaped(name));
        let group = |name: &str, verb: &str| format!("/v1/runner-groups/{}/{verb}", escaped(name));
        Ok(match self {
            Self::Taint { name, kind, reason, of } => {
                let body = of.narrow(json!({ "kind": kind.as_str(), "reason": reason }));
                (of.router.client()?, runner(name, "taint"), body)
            }
            Self::Untaint { name, kind, of } => {
                let mut body = json!({});
                if let Some(kind) = kind {
                    body["kind"] = kind.as_str().into();
                }
                (of.router.client()?, runner(name, "untaint"), of.narrow(body))
            }
            Self::Drain { name, of } => (of.router.client()?, runner(name, "drain"), of.narrow(json!({}))),
            Self::Pin { group: name, name: runner, router } => {
                (router.client()?, group(name, "pin"), json!({ "runner": runner }))
            }
            Self::Unpin { group: name, router } => (router.client()?, group(name, "unpin"), json!({})),
        })
    }
}

impl System {
    fn narrow(&self, mut body: Value) -> Value {
        if let Some(system) = &self.system {
            body["system"] = system.as_str().into();
        }
        body
    }
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Leadership => "leadership",
            Self::Jobs => "jobs",
        }
    }
}

/// A line for each runner, and below what keeps some of them out.
fn print_runners(runners: &[Value], output: &mut Output) -> Result<(), Failure> {
    let headings = ["name", "state", "type", "tags", "fingerprint", "jobs", "group", "leader", "tainted"];
    output.table(&headings, runners.iter().map(row), "no runners: the configuration names none")?;
    for runner in runners {
        for taint in list(runner, "taints") {
            let system = match taint["system"].as_str() {
                Some(system) => format!(" (system {system})"),
                None => String::new(),
            };
            let line = [
                output.state("tainted"),
                format!(
                    "{}{system}: {}, by {} since {}: {}",
                    text(&runner["name"]),
                    text(&taint["kind"]),
                    text(&taint["by"]),
                    moment(&taint["since"]),
                    text(&taint["reason"])
                ),
            ];
            output.pairs(&[line])?;
        }
    }
    Ok(())
}

fn row(runner: &Value) -> [String; 9] {
    let leader = match (runner["leader"] == true, runner["pinned"] == true) {
        (true, true) => "leads, pinned",
        (true, false) => "leads",
        (false, true) => "pinned",
        (false, false) => "",
    };
    let mut taints: Vec<_> = list(runner, "taints").iter().map(|taint| text(&taint["kind"])).collect();
    taints.sort();
    taints.dedup();
    [
        text(&runner["name"]),
        text(&runner["state"]),
        kind(runner),
        offers(runner),
        fingerprint(runner),
        format!("{}/{}", text(&runner["running"]), text(&runner["capacity"])),
        text(&runner["group"]),
        leader.to_owned(),
        taints.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::printed;

    #[test]
    fn leaders_and_taints_are_shown_in_words() {
        let runner = |name: &str, leader: bool, pinned: bool, taints: Value| {
            json!({"name": name, "state": "online", "type": "group", "owner": "acme", "tags": ["deploy"], "protected": true,
                   "run_untagged": false, "fingerprint": "0123456789abcdef", "running": 1, "capacity": 4,
                   "group": "deployers", "leader": leader, "pinned": pinned, "taints": taints, "systems": []})
        };
        let taint = json!({"kind": "leadership", "system": "d-2@host", "reason": "disk: 99 % full\n", "by": "runner",
                           "since": "2026-11-25T10:00:00Z"});
        let runners =
            [runner("d-1", true, true, json!([])), runner("d-2", false, false, json!([taint.clone(), taint]))];
        let text = printed(Some(120), |output| print_runners(&runners, output).unwrap());
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("d-1   online  group acme") && lines[1].contains("0123456789ab"), "{text}");
        assert!(lines[1].contains("1/4") && lines[1].ends_with("leads, pinned"), "{text}");
        assert!(lines.iter().any(|line| line.contains("deployers") && line.ends_with("leadership")), "{text}");
        let said =
            "tainted  d-2 (system d-2@host): leadership, by runner since 2026-11-25T10:00:00.000Z: disk: 99 % full";
        assert_eq!(lines.iter().filter(|line| **line == said).count(), 2, "{text}");
        let narrow = printed(Some(100), |output| print_runners(&runners, output).unwrap());
        assert!(narrow.lines().all(|line| line.chars().count() <= 100), "{narrow}");
        assert!(printed(None, |output| print_runners(&[], output).unwrap()).starts_with("no runners"));
    }
}
