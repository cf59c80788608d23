use std::{
    io::Read,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::look::{follow, list, text};
use crate::{
    client::RouterArgs,
    output::{Ended, Exit, Failure, Output},
};

/// Submit job documents to the router's own queue
///
/// A file holds one job document or a list of them, JSON or YAML. All of its jobs are submitted, or none.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jobgate submit job.json --wait
  jq '{gitlab: .}' response.json | jobgate submit - --token-file ci.token")]
pub(super) struct Args {
    /// File of job documents; - for standard input
    file: PathBuf,
    /// Follow the jobs to their end: exit with 0 when all succeeded, with 1 when not
    #[arg(long)]
    wait: bool,
    /// Makes repeating harmless: with the same key, the same documents are submitted once
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    router: RouterArgs,
}

impl Args {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let client = self.router.client()?;
        let documents = read(&self.file)?;
        let submitted = client.submit(documents, self.idempotency_key.as_deref()).await?;
        let ids: Vec<_> = list(&submitted, "jobs").iter().map(|job| text(&job["id"])).collect();
        if !self.wait {
            match output.is_json() {
                true => output.json(&submitted)?,
                false => {
                    let rows = list(&submitted, "jobs").iter().map(|job| [text(&job["id"]), text(&job["state"])]);
                    output.table(&["id", "state"], rows, "no jobs")?;
                }
            }
            return Ok(Exit::Good);
        }
        let ended = follow(&client, ids, output).await?;
        let succeeded = ended.iter().filter(|job| job["state"] == "success").count();
        if !output.is_json() && ended.len() > 1 {
            output.line(format_args!("{succeeded} of {} jobs succeeded", ended.len()))?;
        }
        Ok(if succeeded == ended.len() { Exit::Good } else { Exit::No })
    }
}

/// What messages call a file that may be standard input.
pub(super) fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

/// A file, or standard input for `-`.
pub(super) fn read(path: &Path) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes),
        false => std::fs::read(path),
    };
    read.map(Bytes::from).map_err(|error| Failure::new(format_args!("cannot read {}: {error}", name(path))))
}
