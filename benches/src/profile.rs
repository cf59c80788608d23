//! Where a router spends its time, told by `perf`.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    Result,
    dispatch::Ours,
    gitlab, machine,
    measure::used,
    memory, pace, saturated,
    site::{Setup, Site, resident},
    table,
};

/// Jobs under `perf`: as many as go through, or 1,000 in a second; or runners that do nothing.
pub(crate) async fn run(what: &[&str]) -> Result<()> {
    match what {
        ["machine", runners, waiting] => machine::run(runners.parse()?, waiting.parse()?),
        ["idle", runners] => idle(runners.parse()?),
        ["growth", thousands] => growth(thousands.parse()?).await,
        ["gitlab", what, runners] => in_front_of_gitlab(what, runners.parse()?).await,
        _ => jobs(what).await,
    }
}

async fn jobs(what: &[&str]) -> Result<()> {
    let one_thread = what.contains(&"one-thread");
    let policy = what.contains(&"policy");
    let mut ours = Ours::start(Setup { one_thread, policy, ..Setup::default() }).await?;
    let process = ours.site.router.id();
    saturated::saturate(&ours.jobs, &mut ours.fleet, 4_000, 1).await?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("perf.data");
    let mut perf = record(process, &data)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, own) = (used(&process.to_string()), used("self"));
    let (count, found) = if what.contains(&"dispatch") {
        let turn = ours.turn(1_000, 10_000).await?;
        let [p50, p99] = [0.5, 0.99].map(|quantile| table::time(pace::at(&turn.delivered, quantile)));
        (10_000, format!("p50 {p50}, p99 {p99}"))
    } else {
        let count = 40_000;
        (count, table::rate(saturated::saturate(&ours.jobs, &mut ours.fleet, count, 1).await?))
    };
    let each = (used(&process.to_string()) - before) / f64::from(u32::try_from(count)?);
    let own = (used("self") - own) / f64::from(u32::try_from(count)?);
    // Perf ends with the process it looks at.
    drop(ours);
    perf.wait()?;
    let (each, own) = (table::time(each), table::time(own));
    println!("{count} jobs, {found}; processor time for each: {each} of the router, {own} of submitter and runners");
    report(&data)
}

/// Resident memory of a router while many thousand jobs go through: what each leaves behind.
async fn growth(thousands: usize) -> Result<()> {
    const STEP: usize = 50;
    let mut ours = Ours::start(Setup { policy: true, ..Setup::default() }).await?;
    let process = ours.site.router.id();
    for step in 1..=thousands.div_ceil(STEP) {
        saturated::saturate(&ours.jobs, &mut ours.fleet, STEP * 1_000, 1).await?;
        println!("{} thousand jobs: {}", step * STEP, table::bytes(resident(process)?));
    }
    Ok(())
}

/// Polls that bring a job, or another call of runners that jobgate passes on.
async fn in_front_of_gitlab(what: &str, runners: usize) -> Result<()> {
    let ours = gitlab::Ours::start(what, runners).await?;
    let process = ours.router.router.id();
    let count = if ["upload", "download"].contains(&what) { 300 } else { 40_000 };
    ours.calls(count / 20).await?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("perf.data");
    let mut perf = record(process, &data)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = used(&process.to_string());
    let sample = ours.calls(count).await?;
    let each = (used(&process.to_string()) - before) / count as f64;
    drop(ours);
    perf.wait()?;
    let (rate, p50, each) = (table::rate(sample.rate), table::time(sample.p50), table::time(each));
    println!("{count} calls, {rate}, p50 {p50}; processor time of the router for each: {each}");
    report(&data)
}

fn idle(runners: usize) -> Result<()> {
    let site = Site::start(Setup::default())?;
    let process = site.router.id();
    let holding = memory::held("runners", &site.router.url(), process, runners, &site, false)?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("perf.data");
    let mut perf = record(process, &data)?;
    let before = used(&process.to_string());
    std::thread::sleep(Duration::from_secs(20));
    let percent = (used(&process.to_string()) - before) / 20e4;
    drop(holding);
    drop(site);
    perf.wait()?;
    println!("{runners} idle runners: {percent:.2} % of a core");
    report(&data)
}

fn record(process: u32, data: &Path) -> Result<Child> {
    let perf = Command::new("perf")
        .args(["record", "-q", "-F", "499", "--call-graph", "dwarf,16384", "-p", &process.to_string(), "-o"])
        .arg(data)
        .stdin(Stdio::null())
        .spawn();
    Ok(perf.map_err(|error| format!("`perf` (Debian: linux-perf) cannot be started: {error}"))?)
}

fn report(data: &Path) -> Result<()> {
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
            .arg(data)
            .status()?;
    }
    if let Some(keep) = std::env::var_os("BENCH_PERF_DATA") {
        std::fs::copy(data, keep)?;
    }
    Ok(())
}
