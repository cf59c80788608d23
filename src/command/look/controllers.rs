use serde_json::Value;

use super::{list, text};
use crate::{
    client::RouterArgs,
    output::{Ended, Exit, Output},
};

/// List controllers, and how many jobs each one's scope matched
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate controllers")]
pub(in crate::command) struct Controllers {
    #[command(flatten)]
    router: RouterArgs,
}

impl Controllers {
    pub(in crate::command) async fn run(&self, output: &mut Output) -> Ended {
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
}
