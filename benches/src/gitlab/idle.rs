//! Runners whose polls GitLab holds: what each costs in memory, and all of them in time.

use std::time::{Duration, Instant};

use super::router;
use crate::{
    Result,
    child::Server,
    measure::{Effort, used},
    site::resident,
    table::{self, Row},
};

/// Memory and processor time of who is in front of GitLab.
struct Found {
    /// For each runner.
    memory: f64,
    /// Of one processor, in percent.
    time: f64,
    /// In all.
    resident: f64,
}

pub(crate) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let (runners, hold_ms, seconds) = if effort == Effort::Smoke { (20, 1_000, 2) } else { (5_000, 50_000, 100) };
    let gitlab = Server::start("gitlab", &["hold", &hold_ms.to_string()])?;
    let proxy = Server::start("proxy", &[&gitlab.said])?;
    let floor = held(proxy.id(), &proxy.said, runners, seconds, || Ok(()))?;
    drop((proxy, gitlab));

    let gitlab = Server::start("gitlab", &["hold", &hold_ms.to_string()])?;
    let router = router(&gitlab)?;
    let ours = held(router.router.id(), &router.router.said, runners, seconds, || {
        let metrics = router.get("/metrics")?;
        let open =
            metrics.lines().find_map(|line| line.strip_prefix("jobgate_gitlab_open_polls ")?.parse::<usize>().ok());
        // One or two may be between two polls.
        match open {
            Some(open) if open + 20 >= runners => Ok(()),
            open => Err(format!("{open:?} polls are open, of {runners}").into()),
        }
    })?;
    let hold = hold_ms / 1000;
    let what = format!("{runners} idle runners, polls held for {hold} s");
    let memory = Row::against(
        format!("memory of the router for each of {what}"),
        Some(table::bytes(floor.memory)),
        table::bytes(ours.memory),
        "–",
        true,
    );
    let all = Row::against(
        format!("memory of the router with {what}"),
        Some(table::bytes(floor.resident)),
        table::bytes(ours.resident),
        "–",
        true,
    );
    let time = Row::against(
        format!("a core's time with {what}, over {seconds} s"),
        Some(format!("{:.2} %", floor.time)),
        format!("{:.2} %", ours.time),
        "≤ 2 %",
        ours.time <= 2.0,
    );
    Ok(vec![
        memory.ratio(ours.memory / floor.memory).beside(),
        all.beside(),
        if floor.time > 0.0 { time.ratio(ours.time / floor.time) } else { time },
    ])
}

fn held(server: u32, address: &str, runners: usize, seconds: u64, check: impl Fn() -> Result<()>) -> Result<Found> {
    let before = resident(server)?;
    let _runners = Server::start("gitlab-runners", &[address, &runners.to_string()])?;
    std::thread::sleep(Duration::from_secs(1));
    check()?;
    let after = resident(server)?;
    let (used_before, begun) = (used(&server.to_string()), Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let time = (used(&server.to_string()) - used_before) / begun.elapsed().as_secs_f64() / 1e4;
    check()?;
    Ok(Found { memory: (after - before) / runners as f64, time, resident: after })
}
