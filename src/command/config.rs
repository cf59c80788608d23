use std::path::PathBuf;

use jobgate_controllers::{LoadOptions, PolicySet};
use jobgate_router::config::{Config, ControllerKind};
use serde_json::json;

use crate::output::{Ended, Exit, Failure, Output};

/// Look at a router's configuration
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check a configuration and its policies, and say everything that is wrong with them
    #[command(after_help = "Example:\n  jobgate config check jobgate.yaml")]
    Check {
        /// The configuration
        file: PathBuf,
    },
}

impl Command {
    pub(super) fn run(&self, output: &mut Output) -> Ended {
        let Self::Check { file } = self;
        let config = Config::load(file)?;
        let mut faults = Vec::new();
        for controller in &config.controllers {
            if let ControllerKind::Policy(paths) = &controller.kind {
                let expose = controller.expose.words().map(str::to_owned).collect();
                let loaded = PolicySet::load(paths, &LoadOptions { expose, ..LoadOptions::default() });
                faults.extend(loaded.err().into_iter().flatten());
            }
        }
        if let Some(faults) = jobgate_yaml::Faults::collect(faults) {
            return Err(Failure::from(faults));
        }
        let rows = config.controllers.iter().map(|controller| {
            [controller.name.to_string(), controller.scope.to_string(), controller.state.as_str().to_owned()]
        });
        if output.is_json() {
            output.json(&json!({
                "listen": config.listen.to_string(),
                "controllers": config.controllers.len(),
                "runners": config.runners.len(),
                "runner_groups": config.runner_groups.len(),
                "priorities": config.priorities.len(),
                "fairness": config.fairness.len(),
                "tokens": config.tokens.len(),
                "gitlab": config.gitlab.as_ref().map(|gitlab| &gitlab.url),
                "trial": config.is_trial(),
            }))?;
            return Ok(Exit::Good);
        }
        output.table(&["controller", "scope", "state"], rows, "no controllers: every job would be admitted")?;
        let counts = [
            (config.runner_groups.len(), "runner group(s)"),
            (config.priorities.len(), "priority rule(s)"),
            (config.fairness.len(), "weight(s)"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
        let counts: String = counts.collect();
        let mode = if config.is_trial() { "; trial mode: no token is asked for" } else { "" };
        let (runners, tokens) = (config.runners.len(), config.tokens.len());
        let gitlab = config.gitlab.as_ref().map(|gitlab| format!("; in front of {}", gitlab.url)).unwrap_or_default();
        output.line(format_args!(
            "good: listens on {}{gitlab}; {runners} runner(s), {tokens} token(s){counts}{mode}",
            config.listen
        ))?;
        Ok(Exit::Good)
    }
}
