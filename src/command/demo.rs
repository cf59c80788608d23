use super::signals;
use crate::output::{Ended, Exit, Output};

/// See it work: the whole system in this one process, for a few seconds
///
/// Two dozen job documents as GitLab hands them out, of three projects; controllers in Rego, YAML and Rust at three levels, one
/// in dry run, one attached over gRPC, one that nobody answers for; a runner that executes what was admitted. Prints every
/// decision as it falls and a closing table, and leaves nothing behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate demo")]
pub(super) struct Args {}

impl Args {
    pub(super) async fn run(&self, output: &mut Output) -> Ended {
        let interrupted = signals::first(signals::shutdown()?);
        Box::pin(crate::demo::run(output, interrupted)).await?;
        Ok(Exit::Good)
    }
}
