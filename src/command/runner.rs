use std::path::PathBuf;

use jobgate_router::TaintKind;

use super::signals;
use crate::{
    client::RouterArgs,
    output::{Ended, Exit, Failure, Output},
    runner::Runner,
};

/// Run jobs: a small native runner that executes scripts with sh, for trials and tests
///
/// It takes jobs from the router's own queue and runs their scripts as its own user, each in a scratch directory and a process
/// group of its own. It has no containers, caches or artifacts. What is masked in a job document, and every job token, is
/// masked in the output. SIGTERM or SIGINT: running jobs end first; the second time: they are killed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jobgate runner --name shell-1 --token-file shell-1.token --capacity 4
  jobgate runner --name shell-1 --token-file shell-1.token --taint 'leadership: being tried out'")]
pub(super) struct Args {
    /// Name of the runner in the router's configuration; any name in trial mode
    #[arg(long)]
    name: String,
    /// Jobs to run at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    capacity: u32,
    /// Tells it from others with the same token [default: NAME@HOST]
    #[arg(long, value_name = "ID")]
    system_id: Option<String>,
    /// What it offers, in trial mode; else the router's configuration says it
    #[arg(long, value_delimiter = ',', conflicts_with = "token_file")]
    tags: Vec<String>,
    /// Keep out of leadership or of jobs, as `leadership` or `jobs: disk is full`; an operator takes it away
    #[arg(long, value_name = "KIND[: REASON]", value_parser = taint)]
    taint: Vec<(TaintKind, String)>,
    /// Below which each job gets a directory of its own [default: the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    router: RouterArgs,
}

impl Args {
    pub(super) async fn run(&self, _output: &mut Output) -> Ended {
        let mut runner =
            Runner::new(self.router.connection()?, &self.name).capacity(self.capacity).tags(self.tags.clone());
        if let Some(id) = &self.system_id {
            runner = runner.system_id(id);
        }
        for (kind, reason) in &self.taint {
            runner = runner.taint(*kind, reason);
        }
        if let Some(scratch) = &self.scratch {
            if !scratch.is_dir() {
                return Err(Failure::new(format_args!("--scratch {}: there is no such directory", scratch.display())));
            }
            runner = runner.scratch(scratch);
        }
        // A job may end while signals are delivered: the future is large, and lives as long as the program.
        Box::pin(runner.run(signals::shutdown_with_terminal()?)).await.map_err(Failure::new)?;
        Ok(Exit::Good)
    }
}

fn taint(text: &str) -> Result<(TaintKind, String), String> {
    let (kind, reason) = text.split_once(':').unwrap_or((text, ""));
    let kind = TaintKind::parse(kind).ok_or("a taint is `leadership` or `jobs`, with or without `: ` and a reason")?;
    let reason = reason.trim();
    if reason.chars().count() > 200 || reason.chars().any(char::is_control) {
        return Err("the reason of a taint is one line of at most 200 characters".to_owned());
    }
    Ok((kind, reason.to_owned()))
}
