//! A router that is killed again and again while jobs come in and runners work. Afterwards no job is lost, doubled, run twice
//! at once, counted twice or run without having been admitted.
//!
//! `JOBGATE_KILLS` says how often (40 without it, 300 in `.ci/run`), `JOBGATE_SEED` repeats a run's dice.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs, unreachable_pub)]

mod ledger;
mod peers;
#[path = "../support/program.rs"]
mod program;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use jobgate_proto::job::v1::{JobState, ListRequest, WatchRequest, jobs_client::JobsClient};
use ledger::Ledger;
use peers::{Peers, refused, runner, submitter};
use program::{Folder, Server};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, time::timeout};

const CONFIG: &str = "
listen: 127.0.0.1:0
max_jobs: 100000
controllers:
  - { name: names, scope: instance, policy: names.yaml }
";
const POLICY: &str = include_str!("../data/names.yaml");
const SUBMITTERS: usize = 3;
const RUNNERS: usize = 6;
/// Submissions before the soak looks for the first time: twice as many as the router remembers idempotency keys of, since its
/// tables of them grow once more when old keys make room for new ones. That fills what is bounded by a number, and would
/// look like a leak until it is full: keys, decisions and finished jobs to look at, the cache of the store's index.
const FILLING: usize = 200_000;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(200);

/// A router process on a directory that outlives it.
struct Router {
    folder: Folder,
    server: Option<Server>,
    url: watch::Sender<String>,
}

impl Router {
    fn new() -> Self {
        let folder = Folder::new();
        folder.write("jobgate.yaml", CONFIG);
        folder.write("names.yaml", POLICY);
        Self { folder, server: None, url: watch::Sender::new(String::new()) }
    }

    fn start(&mut self) {
        let mut server = Server::start(self.folder.path(), &["serve", "--config", "jobgate.yaml"]);
        let line = server.says("the router listens");
        let address = line.rsplit_once("address=").unwrap().1.trim().to_owned();
        self.url.send_replace(format!("http://{address}"));
        self.server = Some(server);
    }

    fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.signal("KILL");
            let _ = server.ended();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_is_killed_again_and_again_loses_and_doubles_nothing() {
    let number =
        |name: &str, otherwise| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (kills, seed) = (number("JOBGATE_KILLS", 40), number("JOBGATE_SEED", 1));
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut router = Router::new();
    router.start();
    let ledger = Arc::new(Ledger::default());
    let peers = Peers::new(router.url.subscribe(), ledger.clone());
    let submitters: Vec<_> = (0..SUBMITTERS).map(|n| tokio::spawn(submitter(peers.clone(), n, seed))).collect();
    let runners: Vec<_> = (0..RUNNERS).map(|n| tokio::spawn(runner(peers.clone(), n, seed))).collect();

    let mut starts = Vec::new();
    for _ in 0..kills {
        // Killed after so many answers and orders, wherever it is then.
        let after = ledger.events() + dice.random_range(0..60);
        timeout(PATIENCE, ledger.reaches(after)).await.expect("nothing gets on");
        let url = router.url.clone();
        let mut killed = router;
        let began = Instant::now();
        router = tokio::task::spawn_blocking(move || {
            killed.kill();
            killed.start();
            killed
        })
        .await
        .unwrap();
        drop(url);
        starts.push(began.elapsed());
    }
    peers.stop();
    for submitter in submitters {
        timeout(PATIENCE, submitter).await.expect("a submission is never answered").unwrap();
    }

    let acknowledged = ledger.acknowledged();
    let jobs = JobsClient::connect(router.url.borrow().clone()).await.unwrap();
    timeout(PATIENCE, all_over(jobs.clone(), &acknowledged)).await.expect("some jobs never end");
    for runner in runners {
        runner.abort();
    }
    let found = list(jobs.clone()).await;
    let known: HashSet<_> = acknowledged.keys().collect();
    let lost: Vec<_> = acknowledged.keys().filter(|id| !found.contains_key(*id)).collect();
    let doubled: Vec<_> = found.keys().filter(|id| !known.contains(id)).collect();
    let wrong: Vec<_> = acknowledged
        .iter()
        .filter(|(id, forbidden)| {
            let expected = if **forbidden { JobState::Rejected } else { JobState::Success };
            found.get(*id).is_some_and(|state| *state != expected)
        })
        .map(|(id, _)| (id, found[id]))
        .collect();
    let twice = counted_twice(&router.url.borrow().clone(), &acknowledged).await;
    let counts = &ledger.counts;
    let [at_once, unadmitted, assigned] =
        [&counts.twice_at_once, &counts.unadmitted, &counts.assigned].map(|count| count.load(Ordering::SeqCst));
    starts.sort();
    eprintln!(
        "seed {seed}: {kills} kills, {} jobs, {assigned} assignments; jobs lost {}, submitted twice {}, assigned twice at \
         once {at_once}, results counted twice {twice}, unadmitted {unadmitted}; a restart took {:?} in the middle, {:?} \
         at most",
        acknowledged.len(),
        lost.len(),
        doubled.len(),
        starts[starts.len() / 2],
        starts[starts.len() - 1],
    );
    assert!(acknowledged.len() as u64 > kills, "there was too little load to say anything");
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(doubled.is_empty(), "doubled: {doubled:?}");
    assert!(wrong.is_empty(), "ended otherwise than they should: {wrong:?}");
    assert_eq!((at_once, twice, unadmitted), (0, 0, 0));
    let (code, log) = tokio::task::spawn_blocking(move || router.server.take().unwrap().stopped()).await.unwrap();
    assert_eq!(code, Some(0), "{log}");
}

/// Load without an end in sight. `JOBGATE_SOAK` says for how many seconds; without it this is skipped, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_flat_after_warm_up() {
    let Some(seconds) = std::env::var("JOBGATE_SOAK").ok().and_then(|text| text.parse::<u64>().ok()) else {
        eprintln!("skipped: JOBGATE_SOAK does not say for how many seconds");
        return;
    };
    let mut router = Router::new();
    router.start();
    let ledger = Arc::new(Ledger::default());
    let began = Instant::now();
    refused(&router.url.borrow().clone(), FILLING).await;
    eprintln!(
        "{FILLING} refused submissions in {:.0?}, then {} KiB resident",
        began.elapsed(),
        router.server.as_ref().unwrap().resident_kib()
    );
    let peers = Peers::new(router.url.subscribe(), ledger.clone());
    let submitters: Vec<_> = (0..SUBMITTERS).map(|n| tokio::spawn(submitter(peers.clone(), n, 7))).collect();
    let runners: Vec<_> = (0..RUNNERS).map(|n| tokio::spawn(runner(peers.clone(), n, 7))).collect();
    // Twelve looks, a twelfth of the time apart: the first four are warm-up, the rest is compared by halves.
    let mut looks = tokio::time::interval(Duration::from_secs_f64(seconds as f64 / 12.0));
    looks.tick().await;
    let mut resident = Vec::new();
    for _ in 0..12 {
        looks.tick().await;
        resident.push(router.server.as_ref().unwrap().resident_kib());
    }
    peers.stop();
    for task in submitters.into_iter().chain(runners) {
        task.abort();
    }
    let most = |looks: &[u64]| looks.iter().copied().max().unwrap_or_default();
    let (first, second) = (most(&resident[4..8]), most(&resident[8..]));
    eprintln!(
        "{seconds} s, {} jobs acknowledged, {} assignments; resident KiB: {resident:?}",
        ledger.acknowledged().len(),
        ledger.counts.assigned.load(Ordering::SeqCst),
    );
    assert!(second <= first + 8192, "memory grows: {first} KiB, then {second} KiB");
}

/// Waits until all these jobs are over.
async fn all_over(mut jobs: JobsClient<tonic::transport::Channel>, ids: &HashMap<String, bool>) {
    let ids: Vec<_> = ids.keys().cloned().collect();
    for ids in ids.chunks(1000) {
        let mut changes = jobs.watch(WatchRequest { ids: ids.to_vec() }).await.unwrap().into_inner();
        while changes.message().await.unwrap().is_some() {}
    }
}

/// Every job there is.
async fn list(mut jobs: JobsClient<tonic::transport::Channel>) -> HashMap<String, JobState> {
    let (mut found, mut page_token) = (HashMap::new(), String::new());
    loop {
        let request = ListRequest { limit: 1000, page_token, ..ListRequest::default() };
        let page = jobs.list(request).await.unwrap().into_inner();
        for job in page.jobs {
            let state = job.state();
            assert!(found.insert(job.id, state).is_none(), "a job is listed twice");
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

/// How many jobs have more than one end among their events.
async fn counted_twice(url: &str, ids: &HashMap<String, bool>) -> usize {
    let http = reqwest::Client::new();
    let mut twice = 0;
    for id in ids.keys() {
        let answer = http.get(format!("{url}/v1/jobs/{id}/explain")).send().await.unwrap();
        let answer: serde_json::Value = answer.json().await.unwrap();
        let is_end = |event: &&serde_json::Value| {
            ["success", "failed", "rejected", "canceled", "dropped"].contains(&event["state"].as_str().unwrap())
        };
        let ends = answer["events"].as_array().unwrap_or_else(|| panic!("{answer}")).iter().filter(is_end).count();
        assert!(ends > 0, "{answer}");
        twice += usize::from(ends > 1);
    }
    twice
}
