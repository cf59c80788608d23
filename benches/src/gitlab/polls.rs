//! Polls that bring a job: through a plain proxy, and through a router that has it admitted by three policies, with its state
//! on the disk.

use std::cell::RefCell;

use bytes::Bytes;

use super::{Sides, client::Runner};
use crate::{
    Result, fixtures,
    measure::{Effort, Sample, closed_loop, compare, median, used},
    policies::{decisions, policy},
    queue::Committer,
    site,
    table::{self, Row},
};

/// Runners, each with a connection and a token of its own.
pub(super) struct Fleet(RefCell<Vec<Runner>>);

impl Fleet {
    pub(super) async fn connect(address: &str, count: usize) -> Result<Self> {
        let mut runners = Vec::with_capacity(count);
        for number in 0..count {
            runners.push(Runner::connect(address, number).await?);
        }
        Ok(Self(RefCell::new(runners)))
    }

    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Has a runner that does nothing else do something.
    pub(super) async fn with<T>(&self, work: impl AsyncFnOnce(&mut Runner) -> Result<T>) -> Result<T> {
        let runner = self.0.borrow_mut().pop();
        let mut runner = runner.ok_or("all runners are busy")?;
        let done = work(&mut runner).await?;
        self.0.borrow_mut().push(runner);
        Ok(done)
    }

    /// So many jobs, all runners at once; gives their numbers as well. `server` is who is in front of GitLab.
    pub(super) async fn jobs(&self, calls: usize, server: u32) -> Result<(Sample, Vec<u64>)> {
        let jobs = RefCell::new(Vec::with_capacity(calls));
        let in_flight = self.len();
        let before = used(&server.to_string());
        let mut sample = closed_loop(in_flight, calls, async |_| {
            let job = self.with(async |runner| runner.job().await).await?;
            jobs.borrow_mut().push(job);
            Ok(())
        })
        .await?;
        sample.cpu = (used(&server.to_string()) - before) / calls as f64;
        Ok((sample, jobs.into_inner()))
    }

    /// Each of these jobs is taken up by a runner, as far as the router sees.
    pub(super) async fn confirm(&self, jobs: &[u64]) -> Result<()> {
        let in_flight = self.len();
        let confirm = async |number| {
            let job = jobs[number as usize];
            self.with(async |runner| runner.confirm(job).await).await
        };
        closed_loop(in_flight, jobs.len(), confirm).await?;
        Ok(())
    }
}

/// Floor and ours, with as many runners.
struct Pair {
    sides: Sides,
    floor: Fleet,
    ours: Fleet,
}

impl Pair {
    async fn start(after_ms: u64, runners: usize) -> Result<Self> {
        let sides = Sides::start("job", after_ms)?;
        let floor = Fleet::connect(&sides.proxy.said, runners).await?;
        let ours = Fleet::connect(&sides.router.router.said, runners).await?;
        Ok(Self { sides, floor, ours })
    }

    /// A turn of each.
    async fn turn(&self, calls: usize) -> Result<(Sample, Sample)> {
        let (floor, _) = self.floor.jobs(calls, self.sides.proxy.id()).await?;
        let (ours, jobs) = self.ours.jobs(calls, self.sides.router.router.id()).await?;
        // Else they are given up after a minute, in the middle of something else.
        self.ours.confirm(&jobs).await?;
        Ok((floor, ours))
    }

    /// What the router writes for each job.
    async fn written(&self, calls: usize) -> Result<usize> {
        let before = self.sides.router.log_bytes()?;
        let (_, jobs) = self.ours.jobs(calls, self.sides.router.router.id()).await?;
        let written = (self.sides.router.log_bytes()? - before) / calls as u64;
        self.ours.confirm(&jobs).await?;
        Ok(usize::try_from(written)?.max(1))
    }
}

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let counts: &[(usize, usize)] =
        if effort == Effort::Smoke { &[(1, 8), (8, 32)] } else { &[(1, 100), (32, 2_000), (256, 8_000)] };
    for (runners, calls) in counts {
        rows.extend(after_a_while(*runners, *calls, effort).await?);
    }
    let counts: &[(usize, usize)] = if effort == Effort::Smoke { &[(1, 32)] } else { &[(1, 1_000), (32, 4_000)] };
    for (runners, calls) in counts {
        rows.extend(at_once(*runners, *calls, effort).await?);
    }
    Ok(rows)
}

async fn after_a_while(runners: usize, calls: usize, effort: Effort) -> Result<Vec<Row>> {
    let pair = Pair::start(20, runners).await?;
    let rounds = if effort == Effort::Smoke { 1 } else { 7 };
    let mut pairs = Vec::new();
    for round in 0..=rounds {
        let turn = pair.turn(calls).await?;
        // The first turn warms up: tokens are verified, connections made.
        if round > 0 {
            pairs.push(turn);
        }
    }
    let compared = compare(&pairs);
    let what = format!("a job of GitLab after 20 ms, {runners} runners asking: ");
    let row = |measure: &str| format!("{what}{measure}");
    Ok(vec![
        Row::at_most(row("p50"), compared.floor.p50, compared.ours.p50, compared.p50_ratio, 1.15),
        Row::at_least(row("rate"), compared.floor.rate, compared.ours.rate, compared.rate_ratio, 0.9),
        Row::at_most(
            row("processor time of proxy, of router"),
            compared.floor.cpu,
            compared.ours.cpu,
            compared.cpu_ratio,
            1.0,
        )
        .beside(),
    ])
}

async fn at_once(runners: usize, calls: usize, effort: Effort) -> Result<Vec<Row>> {
    let pair = Pair::start(0, runners).await?;
    let folder = site::folder()?;
    let committer = Committer::start(folder.path(), if effort == Effort::Smoke { 4 << 20 } else { 64 << 20 })?;
    let (policy, question) = (policy("eight.yaml", fixtures::YAML)?, fixtures::question());
    let (mut parts, mut pairs, committed) = (Vec::new(), Vec::new(), pair.written(calls).await?);
    for round in 0..=effort.rounds() {
        let (proxied, ours) = pair.turn(calls).await?;
        let bytes = Bytes::from(vec![b'x'; committed]);
        let commit = closed_loop(runners, calls, async |_| committer.commit(bytes.clone()).await).await?;
        let decided = 3.0 * decisions(&policy, &question, calls).await?.p50;
        if round > 0 {
            let p50 = proxied.p50 + commit.p50 + decided;
            parts.push([proxied.p50, commit.p50, decided]);
            pairs.push((Sample { p50, ..proxied }, ours));
        }
    }
    let compared = compare(&pairs);
    let more = median(pairs.iter().map(|(floor, ours)| ours.p50 - floor.p50));
    let what =
        format!("a job of GitLab at once, {runners} {} asking: ", if runners == 1 { "runner" } else { "runners" });
    let mut row = Row::at_most(format!("{what}p50"), compared.floor.p50, compared.ours.p50, more, 200.0);
    row.ratio = format!("{more:+.0} µs");
    row.target = "≤ + 200 µs".into();
    if runners > 1 {
        row = row.beside();
    }
    let part = |place: usize| table::time(median(parts.iter().map(|part: &[f64; 3]| part[place])));
    let floor = [0, 1, 2].map(part).join(" + ");
    let floor = Row::against(
        format!("its floor: plain proxy + a commit of {committed} bytes + three policies"),
        None,
        floor,
        "–",
        true,
    );
    Ok(vec![
        row,
        floor.beside(),
        Row::at_least(
            format!("{what}rate, to the proxy alone"),
            compared.floor.rate,
            compared.ours.rate,
            compared.rate_ratio,
            0.9,
        )
        .beside(),
        Row::at_most(
            format!("{what}processor time of proxy, of router"),
            compared.floor.cpu,
            compared.ours.cpu,
            compared.cpu_ratio,
            1.0,
        )
        .beside(),
    ])
}
