//! Kills at any moment, under load and with a GitLab that has faults.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, time::timeout};

use crate::{
    gitlab::{Endpoint, GitLab, Outage},
    gitlab_runner::Way,
    jobgate::{HandOuts, Jobgate, NAMES, TOKEN, world},
    ledger::Ledger,
    peers::{Manager, faults, push},
    sums::Sums,
};

/// The second runner. Several managers share each token.
const OTHER: &str = "glrt-token-of-gpu-2";
const MANAGERS: usize = 8;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(100);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_nothing_is_delivered_twice_or_unadmitted_or_left_running() {
    let kills = number("JOBGATE_KILLS").map_or(30, |kills| (kills / 3).max(1));
    let seed = number("JOBGATE_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000));
    eprintln!("seed {seed}: {kills} kills to come");
    let began = Instant::now();
    let mut dice = SmallRng::seed_from_u64(seed);
    let (gitlab, mut jobgate) = world(NAMES).await;
    gitlab.runner(OTHER);
    let (ledger, stop) = (Arc::new(Ledger::default()), watch::Sender::new(false));
    let pushing = tokio::spawn(push(gitlab.clone(), ledger.clone(), stop.subscribe(), seed));
    let managers: Vec<_> =
        (0..MANAGERS).map(|n| tokio::spawn(manager(n, seed, &jobgate, &ledger, &stop).run())).collect();

    let mut restarts = Vec::new();
    for _ in 0..kills {
        let gates = faults(&gitlab, &mut dice);
        moment(&gitlab, &ledger, &mut dice).await;
        jobgate.kill();
        gates.iter().for_each(crate::gitlab::Gate::open);
        let began = Instant::now();
        // What is to be finished meets an outage right after the start, sometimes.
        let down = dice.random_ratio(1, 4);
        if down {
            gitlab.outage(Outage::Status(503)).await;
        }
        let before = gitlab.total();
        jobgate.start();
        restarts.push(began.elapsed());
        if down {
            // Whatever comes first: with every runner at work nobody asks for a job, and so not whose its token is.
            gitlab.more(before).await;
            gitlab.outage(Outage::Over).await;
        }
    }
    gitlab.quiet();
    stop.send_replace(true);
    let jobs = pushing.await.unwrap();
    // Polls that GitLab holds end; those that come later know an older value, and are not held.
    [TOKEN, OTHER].iter().for_each(|token| gitlab.queue_changed(token));
    for manager in managers {
        timeout(PATIENCE, manager).await.expect("a runner never comes to its end").unwrap();
    }
    let killing = began.elapsed();
    all_over(&gitlab, &jobgate).await;

    let sums = Sums::of(&gitlab, &jobgate, &ledger).await;
    restarts.sort();
    eprintln!(
        "seed {seed}: {kills} kills in {killing:.0?}, all over after {:.0?}; {jobs} jobs; {sums}; bound of answers not yet \
         written {}; a restart took {:.0?} in the middle, {:.0?} at most",
        began.elapsed(),
        kills * MANAGERS as u64,
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1],
    );
    sums.check(kills * MANAGERS as u64);
    assert!(sums.delivered as u64 > kills, "there was too little load to say anything");
    assert_eq!(gitlab.breaches(), 0);
    jobgate.stop();
}

fn manager(n: usize, seed: u64, jobgate: &Jobgate, ledger: &Arc<Ledger>, stop: &watch::Sender<bool>) -> Manager {
    Manager {
        token: [TOKEN, OTHER][n % 2],
        system_id: format!("s_{n:012x}"),
        way: if n.is_multiple_of(3) { Way::Router } else { Way::Rest },
        urls: jobgate.urls(),
        stopped: stop.subscribe(),
        ledger: ledger.clone(),
        dice: SmallRng::seed_from_u64(seed.wrapping_mul(31) + n as u64),
    }
}

/// When jobgate is killed: after so many answers and steps of jobs, or as GitLab gets one of its next calls.
async fn moment(gitlab: &GitLab, ledger: &Ledger, dice: &mut SmallRng) {
    let more = dice.random_range(1..30);
    let came = |endpoint| gitlab.counted(endpoint, gitlab.count(endpoint) + more);
    match dice.random_range(0..5) {
        0 | 1 => timeout(PATIENCE, ledger.more(2 * more)).await.expect("nothing gets on"),
        2 => came(Endpoint::Request).await,
        3 => came(Endpoint::Update).await,
        _ => came(Endpoint::Trace).await,
    }
}

/// Waits until jobgate has nothing left to do. Jobs that it has decided about end: those whose runner has died when that
/// has been silent for a minute. Then those are finished of which only the beginning was written.
async fn all_over(gitlab: &GitLab, jobgate: &Jobgate) {
    for job in gitlab.ledger() {
        if !job.assignments.is_empty() && !job.status.is_final() && !jobgate.decisions(job.id).await.is_empty() {
            gitlab.ended(job.id).await;
        }
    }
    jobgate.until(HandOuts::default()).await;
}
