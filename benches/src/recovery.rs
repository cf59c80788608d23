//! A router is killed under load and started again.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{
    Result, fixtures,
    fleet::{Fleet, Held, Seen, Shape},
    measure::{Effort, closed_loop},
    pace::Ticks,
    site::{LATER, LATER_TAG, RUNNER, Setup, Site},
    table::Row,
};

/// Bytes of a document.
pub(crate) const DOCUMENT: usize = 2048;
/// Documents of one submission while the queue is filled.
const AT_ONCE: u64 = 64;
/// Jobs that come while the router lives and dies have numbers from here on.
const LIVE: u64 = 100_000_000;
const RATE: u64 = 1_000;
/// Longest time until all jobs have gone to runners: leases that nobody took up again pass on after a minute.
const DRAIN: Duration = Duration::from_secs(400);

/// Submits so many jobs that no runner can take yet.
pub(crate) async fn fill(site: &Site, waiting: u64) -> Result<()> {
    let jobs = site.jobs().await?;
    let submissions = usize::try_from(waiting / AT_ONCE)?;
    closed_loop(16.min(submissions), submissions, async |number| {
        let documents: Vec<_> = (0..AT_ONCE)
            .map(|place| {
                fixtures::numbered_document(number * AT_ONCE + place, fixtures::PROJECT, &[LATER_TAG], DOCUMENT)
            })
            .collect();
        let mut list = b"[".to_vec();
        list.extend(documents.join(&b","[..]));
        list.push(b']');
        jobs.clone().submit(list.into()).await?;
        Ok(())
    })
    .await?;
    Ok(())
}

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let runs: &[(u64, f64)] =
        if effort == Effort::Smoke { &[(640, 10.0)] } else { &[(100_032, 2.0), (1_000_000, 10.0)] };
    let mut rows = Vec::new();
    for (waiting, most) in runs {
        rows.extend(run(*waiting, *most, effort).await?);
    }
    Ok(rows)
}

/// What became of the jobs.
#[derive(Default)]
struct Ledger {
    acknowledged: HashSet<u64>,
    /// How often each job came to a runner without being taken back, and how often its result was recorded.
    came: HashMap<u64, u32>,
    recorded: HashMap<u64, u32>,
}

impl Ledger {
    fn note(&mut self, seen: &Seen) {
        match seen {
            Seen::Job(number, _) => *self.came.entry(*number).or_default() += 1,
            Seen::Recorded(number) => *self.recorded.entry(*number).or_default() += 1,
            Seen::Void(number) => {
                let came = self.came.entry(*number).or_default();
                *came = came.saturating_sub(1);
            }
            Seen::Signal { .. } => {}
        }
    }

    fn missing(&self) -> usize {
        self.acknowledged.iter().filter(|number| !self.recorded.contains_key(number)).count()
    }

    fn doubled(&self) -> usize {
        let twice = |counts: &HashMap<u64, u32>| counts.values().filter(|count| **count > 1).count();
        twice(&self.recorded).max(twice(&self.came))
    }
}

async fn run(waiting: u64, most: f64, effort: Effort) -> Result<Vec<Row>> {
    let site = Site::start(Setup::default())?;
    let begun = Instant::now();
    fill(&site, waiting).await?;
    let filled = begun.elapsed();
    let mut ledger = Ledger::default();
    ledger.acknowledged.extend(0..waiting / AT_ONCE * AT_ONCE);

    let shape = Shape { token: RUNNER, streams: 64, connections: 8, capacity: 1 };
    let held = Held::default();
    let mut fleet = Fleet::attach_with(&site.router.url(), shape, held.clone()).await?;
    let seconds = if effort == Effort::Smoke { 1 } else { 5 };
    let jobs = site.jobs().await?;
    let mut ticks = Ticks::start(RATE, RATE * 60);
    let mut submissions = JoinSet::new();
    let end = tokio::time::sleep(Duration::from_secs(seconds));
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            Some(number) = ticks.next() => {
                let (mut jobs, number) = (jobs.clone(), LIVE + number);
                let document: Bytes = fixtures::numbered_document(number, fixtures::PROJECT, &[], DOCUMENT);
                submissions.spawn(async move { jobs.submit(document).await.map(|_| number) });
            }
            Some(answered) = submissions.join_next() => ledger.acknowledged.extend(answered?.ok()),
            seen = fleet.next() => ledger.note(&seen?),
        }
    }
    // In the midst of it.
    let (site, took) = tokio::task::spawn_blocking(move || site.crash()).await??;
    while let Some(answered) = submissions.join_next().await {
        ledger.acknowledged.extend(answered?.ok());
    }
    while let Ok(seen) = fleet.seen.try_recv() {
        ledger.note(&seen);
    }
    drop(fleet);

    let begun = Instant::now();
    let mut fleet = Fleet::attach_with(&site.router.url(), shape, held).await?;
    let later = Shape { token: LATER, streams: 64, connections: 16, capacity: 16 };
    let mut drain = Fleet::attach(&site.router.url(), later).await?;
    let drained = async {
        let mut checked = Instant::now();
        loop {
            let seen = tokio::select! {
                seen = fleet.next() => Some(seen?),
                seen = drain.next() => Some(seen?),
                () = tokio::time::sleep(Duration::from_millis(200)) => None,
            };
            let idle = seen.is_none();
            if let Some(seen) = seen {
                ledger.note(&seen);
            }
            if (idle || checked.elapsed() > Duration::from_secs(2)) && ledger.missing() == 0 {
                return Ok::<_, crate::Error>(());
            }
            if checked.elapsed() > Duration::from_secs(2) {
                checked = Instant::now();
            }
        }
    };
    // What does not come in time is lost.
    let limit = if effort == Effort::Smoke { Duration::from_secs(75) } else { DRAIN };
    if let Ok(drained) = tokio::time::timeout(limit, drained).await {
        drained?;
    }
    let drained = begun.elapsed();
    let (lost, doubled) = (ledger.missing(), ledger.doubled());
    let seconds = took.as_secs_f64();
    let what = format!("killed at 1,000 jobs/s with {waiting} waiting");
    let ours = format!("{seconds:.2} s");
    Ok(vec![
        Row::against(format!("{what}: ready again"), None, ours, format!("≤ {most} s"), seconds <= most),
        Row::against(
            format!("{what}: lost, doubled, of {} acknowledged", ledger.acknowledged.len()),
            None,
            format!("{lost}, {doubled}"),
            "0, 0",
            lost + doubled == 0,
        ),
        Row::against(
            format!("{what}: time to fill the queue before, and to hand it all out afterwards"),
            None,
            format!("{:.1} s, {:.1} s", filled.as_secs_f64(), drained.as_secs_f64()),
            "–",
            true,
        )
        .beside(),
    ])
}
