//! Measures jobgate beside the floor it stands on, both in turn in one run, and prints the ratios.
//!
//! `cargo run --release -p jobgate-bench` measures everything; `-- --smoke` tries everything in seconds; `-- dialled` measures
//! the rows of that name; `-- profile` runs jobs under `perf`. What the numbers mean is in `docs/benchmarks.md`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints its results")]

mod chain;
mod child;
mod dispatch;
mod echo;
mod fixtures;
mod fleet;
mod gitlab;
mod jobs;
mod machine;
mod measure;
mod memory;
mod pace;
mod policies;
mod profile;
mod questions;
mod queue;
mod recovery;
mod saturated;
mod signal;
mod site;
mod table;

use std::process::ExitCode;

use measure::Effort;
use mimalloc::MiMalloc;
use table::{Row, Table};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The allocator of `jobgate`, so that what is measured is what is run. The floors have it too.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Groups of rows, in the order of the table.
const GROUPS: [&str; 17] = [
    "policies",
    "dialled",
    "attached",
    "chain",
    "delivery",
    "jobs",
    "dispatch",
    "saturated",
    "machine",
    "shares",
    "memory",
    "recovery",
    "signal",
    "gitlab",
    "gitlab-bodies",
    "gitlab-idle",
    "gitlab-grpc",
];

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let ended = match child::role(&args) {
        Some((role, args)) => child::run(role, args),
        None => lead(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jobgate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lead(args: &[String]) -> Result<()> {
    let smoke = args.iter().any(|arg| arg == "--smoke");
    let effort = if smoke { Effort::Smoke } else { Effort::Full };
    let wanted: Vec<_> = args.iter().filter(|arg| *arg != "--smoke").map(String::as_str).collect();
    if let ["profile", what @ ..] = &wanted[..] {
        pace::sleep_exactly();
        return single_thread()?.block_on(profile::run(what));
    }
    if let Some(unknown) = wanted.iter().find(|word| !GROUPS.contains(word)) {
        return Err(format!("`{unknown}` is none of {GROUPS:?}, `profile`, `--smoke`").into());
    }
    pace::sleep_exactly();
    let runtime = single_thread()?;
    let mut table = Table::begin(effort);
    for group in GROUPS.into_iter().filter(|group| wanted.is_empty() || wanted.contains(group)) {
        eprintln!("measuring: {group}");
        table.extend(runtime.block_on(measure_group(group, effort))?);
    }
    table.print();
    Ok(())
}

async fn measure_group(group: &str, effort: Effort) -> Result<Vec<Row>> {
    match group {
        "policies" => policies::rows(effort).await,
        "dialled" => questions::dialled(effort).await,
        "attached" => questions::attached(effort).await,
        "chain" => chain::rows(effort).await,
        "delivery" => jobs::delivery(effort).await,
        "jobs" => jobs::jobs(effort).await,
        "dispatch" => dispatch::rows(effort).await,
        "saturated" => saturated::rows(effort).await,
        "machine" => machine::rows(effort),
        "shares" => machine::shares(effort),
        "memory" => memory::rows(effort).await,
        "recovery" => recovery::rows(effort).await,
        "signal" => signal::rows(effort).await,
        "gitlab" => gitlab::polls(effort).await,
        "gitlab-bodies" => gitlab::bodies(effort).await,
        "gitlab-idle" => gitlab::idle(effort),
        _ => gitlab::grpc(effort).await,
    }
}

/// One thread on each side is ahead of more on a machine of two cores, for floor and ours alike.
pub(crate) fn single_thread() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
