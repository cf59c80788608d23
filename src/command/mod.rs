//! The command line: one file per command.

mod completions;
mod config;
mod conformance;
mod controller;
mod demo;
mod look;
mod policy;
mod runner;
mod schema;
mod serve;
mod signals;
mod store;
mod submit;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::output::{Colour, Ended, Failure, Output, stderr_colour};

/// The program: reads its arguments, does what they say, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut output = Output::stdout(cli.global.json, cli.global.color);
    match cli.run(&mut output) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.print(stderr_colour(cli.global.color)).into(),
    }
}

/// Decides whether a CI job may run, before any runner gets it
#[derive(Debug, Parser)]
#[command(name = "jobgate", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Everywhere")]
struct Global {
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    color: Colour,
    /// What to log, as `info` or `warn,jobgate_router=debug` [default: info for servers, else warn]
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// How to log, to stderr: text or json
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

const AFTER_HELP: &str = "\
Exit status: 0 good or admitted, 1 rejected, failed or not conforming, 2 broken input or no answer.

Examples:
  jobgate demo
  jobgate policy eval --policy policies/ --job job.json --explain
  jobgate submit job.json --wait";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Serve(serve::Args),
    Controller(controller::Args),
    #[command(subcommand)]
    Policy(policy::Command),
    Submit(submit::Args),
    Jobs(look::Jobs),
    Cancel(look::Cancel),
    Decisions(look::Decisions),
    Controllers(look::Controllers),
    Runners(look::Runners),
    Queue(look::Queue),
    Runner(runner::Args),
    Conformance(conformance::Args),
    #[command(subcommand)]
    Config(config::Command),
    #[command(subcommand)]
    Store(store::Command),
    #[command(subcommand)]
    Schema(schema::Command),
    Completions(completions::Args),
}

impl Cli {
    fn run(&self, output: &mut Output) -> Ended {
        self.log()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format_args!("cannot start: {error}")))?;
        let ended = runtime.block_on(self.command.run(output));
        // What still blocks (a name being looked up) must not hold the end up.
        runtime.shutdown_background();
        ended
    }

    fn log(&self) -> Result<(), Failure> {
        let text = self.global.log.as_deref().unwrap_or(self.command.log_level());
        let filter = EnvFilter::builder().parse(text).map_err(|error| {
            Failure::new(format_args!("--log `{text}`: {error}")).help("write a level, or `target=level,target=level`")
        })?;
        let colour = stderr_colour(self.global.color);
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
        match self.global.log_format {
            LogFormat::Text => builder.with_target(false).init(),
            LogFormat::Json => builder.json().init(),
        }
        Ok(())
    }
}

impl Command {
    /// Those that run until they are told to stop say what they do. The demo has a controller that nobody answers for, and says
    /// so by itself.
    fn log_level(&self) -> &'static str {
        match self {
            Self::Serve(_) | Self::Controller(_) | Self::Runner(_) => "info",
            Self::Demo(_) => "error",
            _ => "warn",
        }
    }

    async fn run(&self, output: &mut Output) -> Ended {
        match self {
            Self::Demo(args) => args.run(output).await,
            Self::Serve(args) => args.run(output).await,
            Self::Controller(args) => args.run(output).await,
            Self::Policy(command) => command.run(output).await,
            Self::Submit(args) => args.run(output).await,
            Self::Jobs(args) => args.run(output).await,
            Self::Cancel(args) => args.run(output).await,
            Self::Decisions(args) => args.run(output).await,
            Self::Controllers(args) => args.run(output).await,
            Self::Runners(args) => args.run(output).await,
            Self::Queue(args) => args.run(output).await,
            Self::Runner(args) => args.run(output).await,
            Self::Conformance(args) => args.run(output).await,
            Self::Config(command) => command.run(output),
            Self::Store(command) => command.run(output),
            Self::Schema(command) => command.run(output),
            Self::Completions(args) => args.run(output),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_a_hundred_columns_and_every_command_has_an_example() {
        let mut cli = Cli::command();
        cli.build();
        let mut open: Vec<_> = cli.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect();
        while let Some(mut command) = open.pop() {
            let text = command.render_long_help().to_string();
            for line in text.lines() {
                assert!(line.chars().count() <= 100, "{}: {line}", command.get_name());
            }
            let subcommands = command.get_subcommands().filter(|command| command.get_name() != "help");
            let subcommands: Vec<_> = subcommands.cloned().collect();
            let example =
                format!("jobgate {}", command.get_bin_name().unwrap_or_default().trim_start_matches("jobgate "));
            let example = example.trim_end();
            assert!(
                !subcommands.is_empty()
                    || text.contains(&format!("Example:\n  {example}"))
                    || text.contains(&format!("Examples:\n  {example}")),
                "no example of `{example}`:\n{text}"
            );
            open.extend(subcommands);
        }
    }
}
