use crate::output::{Ended, Exit, Output};

/// Print a JSON Schema, for editors
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// The schema of YAML policies
    #[command(after_help = "Example:\n  jobgate schema policy > policy.schema.json")]
    Policy,
}

impl Command {
    pub(super) fn run(&self, output: &mut Output) -> Ended {
        match self {
            Self::Policy => output.json(&jobgate_controllers::schema())?,
        }
        Ok(Exit::Good)
    }
}
