//! Where a router spends its time, told by `perf`.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use crate::{Result, dispatch::Ours, machine, measure::used, pace, saturated, site::Setup, table};

/// Jobs under `perf`: as many as go through, or 1,000 in a second.
pub(crate) async fn run(what: &[&str]) -> Result<()> {
    if let ["machine", runners, waiting] = what {
        return machine::run(runners.parse()?, waiting.parse()?);
    }
    let one_thread = what.contains(&"one-thread");
    let policy = what.contains(&"policy");
    let mut ours = Ours::start(Setup { one_thread, policy, ..Setup::default() }).await?;
    let process = ours.site.router.id();
    let saturated = !what.contains(&"dispatch");
    saturated::saturate(&ours.jobs, &mut ours.fleet, 4_000, 1).await?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("perf.data");
    let mut perf = Command::new("perf")
        .args(["record", "-q", "-F", "499", "--call-graph", "dwarf,16384", "-p", &process.to_string(), "-o"])
        .arg(&data)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("`perf` (Debian: linux-perf) cannot be started: {error}"))?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, own) = (used(&process.to_string()), used("self"));
    let (count, found) = if saturated {
        let count = 40_000;
        (count, table::rate(saturated::saturate(&ours.jobs, &mut ours.fleet, count, 1).await?))
    } else {
        let turn = ours.turn(1_000, 10_000).await?;
        let [p50, p99] = [0.5, 0.99].map(|quantile| table::time(pace::at(&turn.delivered, quantile)));
        (10_000, format!("p50 {p50}, p99 {p99}"))
    };
    let each = (used(&process.to_string()) - before) / count as f64;
    let own = (used("self") - own) / count as f64;
    // It ends with the process it looks at.
    drop(ours);
    perf.wait()?;
    let (each, own) = (table::time(each), table::time(own));
    println!("{count} jobs, {found}; processor time for each: {each} of the router, {own} of submitter and runners");
    for order in ["pid", "dso", "pid,sym"] {
        Command::new("perf")
            .args([
                "report",
                "--stdio",
                "--no-children",
                "-g",
                "none",
                "--percent-limit",
                "0.5",
                "-F",
                "overhead",
                "-s",
            ])
            .args([order, "-i"])
            .arg(&data)
            .status()?;
    }
    if let Some(keep) = std::env::var_os("BENCH_PERF_DATA") {
        std::fs::copy(&data, keep)?;
    }
    Ok(())
}
