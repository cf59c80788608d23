use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::output::{Ended, Exit, Output};

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  jobgate completions bash > ~/.local/share/bash-completion/completions/jobgate")]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

impl Args {
    pub(super) fn run(&self, _output: &mut Output) -> Ended {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "jobgate", &mut text);
        std::io::stdout().write_all(&text)?;
        Ok(Exit::Good)
    }
}
