//! How many jobs go through when more are submitted than do: durable, admitted, assigned, finished.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    Result,
    dispatch::{DOCUMENT, fleet_shape},
    fixtures,
    fleet::Fleet,
    measure::{Effort, closed_loop, median, used},
    queue::Committer,
    site::{self, Jobs, Setup, Site},
    table::{self, Row},
};

/// Submissions in flight.
const IN_FLIGHT: usize = 256;
/// What a job adds to its document in the log, where that cannot be read from the disk.
const ROWS: usize = 600;
const LIMIT: Duration = Duration::from_secs(120);

/// One way to saturate a router.
struct Way {
    what: &'static str,
    setup: Setup,
    /// Documents in a submission.
    documents: usize,
    /// With a target.
    counts: bool,
}

/// What turns gave.
#[derive(Default)]
struct Turns {
    rates: Vec<f64>,
    /// Time of the router's processors for a job, in µs.
    cpu: Vec<f64>,
    ratios: Vec<f64>,
    floors: Vec<f64>,
}

const WAYS: [Way; 4] = [
    Way {
        what: "nobody asked",
        setup: Setup { policy: false, tls: false, one_thread: false },
        documents: 1,
        counts: true,
    },
    Way {
        what: "one YAML policy",
        setup: Setup { policy: true, tls: false, one_thread: false },
        documents: 1,
        counts: true,
    },
    Way {
        what: "nobody asked, 16 documents a submission",
        setup: Setup { policy: false, tls: false, one_thread: false },
        documents: 16,
        counts: false,
    },
    Way {
        what: "nobody asked, router with one thread",
        setup: Setup { policy: false, tls: false, one_thread: true },
        documents: 1,
        counts: false,
    },
];

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let (rounds, count) = if effort == Effort::Smoke { (1, 320) } else { (5, 24_000) };
    let folder = site::folder()?;
    let size = if effort == Effort::Smoke { 4 << 20 } else { 256 << 20 };
    let committer = Committer::start(folder.path(), size)?;
    let mut all: [Turns; WAYS.len()] = Default::default();
    let mut bytes = DOCUMENT + ROWS;
    for round in 0..=rounds {
        for (way, turns) in WAYS.iter().zip(&mut all) {
            let site = Site::start(way.setup)?;
            let mut fleet = Fleet::attach(&site.router.url(), fleet_shape()).await?;
            let jobs = site.jobs().await?;
            saturate(&jobs, &mut fleet, count / 10, way.documents).await?;
            let (before, log) = (used(&site.router.id().to_string()), site.log_bytes()?);
            let rate = saturate(&jobs, &mut fleet, count, way.documents).await?;
            let cpu = used(&site.router.id().to_string()) - before;
            let written = (site.log_bytes()? - log) as usize / count;
            if written > 0 {
                bytes = written;
            }
            let floor = commits(&committer, bytes, count).await?;
            if round > 0 {
                turns.rates.push(rate);
                turns.cpu.push(cpu / count as f64);
                turns.floors.push(floor);
                turns.ratios.push(rate / floor);
            }
        }
    }
    let mut rows = Vec::new();
    for (way, turns) in WAYS.iter().zip(all) {
        let rate = median(turns.rates);
        let floor = Some(table::rate(median(turns.floors)));
        let what = format!("jobs/s submitted, admitted, assigned, durable, 512 runners, {}", way.what);
        let row =
            Row::against(what, floor, table::rate(rate), "≥ 15 k/s", rate >= 15_000.0).ratio(median(turns.ratios));
        rows.push(if way.counts { row } else { row.beside() });
        let cpu = table::time(median(turns.cpu));
        rows.push(
            Row::against(format!("processor time of the router for such a job, {}", way.what), None, cpu, "–", true)
                .beside(),
        );
    }
    rows.push(
        Row::against(
            format!("the floor: {IN_FLIGHT} at once write {bytes} bytes each, all that wait in one commit"),
            None,
            "",
            "–",
            true,
        )
        .beside(),
    );
    Ok(rows)
}

/// Jobs per second, from the first submission until a runner has the last.
pub(crate) async fn saturate(jobs: &Jobs, fleet: &mut Fleet, count: usize, documents: usize) -> Result<f64> {
    let submissions = count / documents;
    let bodies: Vec<_> = (0..submissions).map(|number| body(number, documents)).collect();
    let begun = Instant::now();
    let submitting = closed_loop(IN_FLIGHT.min(submissions), submissions, async |number| {
        let made = jobs.clone().submit(bodies[usize::try_from(number)?].clone()).await?;
        if made == documents { Ok(()) } else { Err("not all jobs were submitted".into()) }
    });
    let running = async {
        for _ in 0..submissions * documents {
            fleet.job().await?;
        }
        Ok::<_, crate::Error>(begun.elapsed())
    };
    let both = async { tokio::join!(submitting, running) };
    let (submitted, ran) = tokio::time::timeout(LIMIT, both).await.map_err(|_| "jobs did not go through in time")?;
    submitted?;
    Ok((submissions * documents) as f64 / ran?.as_secs_f64())
}

fn body(number: usize, documents: usize) -> Bytes {
    let document =
        |place| fixtures::numbered_document((number * documents + place) as u64, fixtures::PROJECT, &[], DOCUMENT);
    if documents == 1 {
        return document(0);
    }
    let all: Vec<_> = (0..documents).map(document).collect();
    let mut list = b"[".to_vec();
    list.extend(all.join(&b","[..]));
    list.push(b']');
    list.into()
}

/// Commits per second of so many bytes for each job.
async fn commits(committer: &Committer, bytes: usize, count: usize) -> Result<f64> {
    let (body, done) = (Bytes::from(vec![b'x'; bytes]), Cell::new(0));
    let begun = Instant::now();
    closed_loop(IN_FLIGHT, count, async |_| {
        done.set(done.get() + 1);
        committer.commit(body.clone()).await
    })
    .await?;
    Ok(f64::from(done.get()) / begun.elapsed().as_secs_f64())
}
