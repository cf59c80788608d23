//! Bodies on their way through: a job's log, what it uploads and downloads, and what that does to memory.

use bytes::Bytes;

use super::{Sides, fake::PIECE, polls::Fleet};
use crate::{
    Result,
    child::Server,
    measure::{Compared, Effort, Sample, closed_loop, compare, used},
    site::resident,
    table::{self, Row},
};

/// One kind of body.
#[derive(Clone, Copy)]
struct Kind {
    what: &'static str,
    action: Action,
    bytes: u64,
    runners: usize,
    calls: usize,
}

/// What is done with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Trace,
    Upload,
    Download,
}

/// Length of a large body where it only must work.
const SMOKE: u64 = 2_000_000;
/// What the router reads at most at once: hyper-util has one limit for that and for the head of a request.
const AT_ONCE: &str = "32768";

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let smoke = effort == Effort::Smoke;
    let sides = Sides::start("empty", 0)?;
    let large = if smoke { SMOKE } else { 200_000_000 };
    let calls = |full: usize| if smoke { full.min(16) } else { full };
    let kinds = [
        Kind {
            what: "trace PATCH of 4 KB, 1 runner",
            action: Action::Trace,
            bytes: 4_000,
            runners: 1,
            calls: calls(2_000),
        },
        Kind {
            what: "trace PATCH of 4 KB, 32 runners",
            action: Action::Trace,
            bytes: 4_000,
            runners: 32,
            calls: calls(8_000),
        },
        Kind {
            what: "trace PATCH of 1 MB, 8 runners",
            action: Action::Trace,
            bytes: 1_000_000,
            runners: 8,
            calls: calls(400),
        },
        Kind {
            what: "upload of 200 MB, chunked, 1 runner",
            action: Action::Upload,
            bytes: large,
            runners: 1,
            calls: 1,
        },
        Kind { what: "download of 200 MB, 1 runner", action: Action::Download, bytes: large, runners: 1, calls: 1 },
    ];
    let rounds = if smoke { 1 } else { 9 };
    let mut rows = memory(effort).await?;
    for kind in kinds {
        let found = compared(&sides.proxy, &sides.router.router, kind, rounds).await?;
        rows.push(rate_row(&format!("{}: rate", kind.what), kind, found));
        let what = format!("{}: processor time of proxy, of router", kind.what);
        rows.push(Row::at_most(what, found.floor.cpu, found.ours.cpu, found.cpu_ratio, 1.0).beside());
        if kind.action == Action::Upload {
            let narrow = Server::start("proxy", &[&sides.gitlab.said, AT_ONCE])?;
            let found = compared(&narrow, &sides.router.router, kind, rounds).await?;
            let what = format!("{}: rate, to a proxy that reads 32 KiB at once, as the router does", kind.what);
            rows.push(rate_row(&what, kind, found).beside());
        }
    }
    Ok(rows)
}

/// Both sides in turn.
async fn compared(floor: &Server, ours: &Server, kind: Kind, rounds: usize) -> Result<Compared> {
    let (floor_fleet, our_fleet) =
        (Fleet::connect(&floor.said, kind.runners).await?, Fleet::connect(&ours.said, kind.runners).await?);
    let mut pairs = Vec::new();
    for round in 0..=rounds {
        let pair = (turn(&floor_fleet, kind, floor.id()).await?, turn(&our_fleet, kind, ours.id()).await?);
        if round > 0 {
            pairs.push(pair);
        }
    }
    Ok(compare(&pairs))
}

/// In bytes a second.
fn rate_row(what: &str, kind: Kind, found: Compared) -> Row {
    let show = |rate: f64| format!("{:.0} MB/s", rate * kind.bytes as f64 / 1e6);
    let mut row = Row::at_least(what, found.floor.rate, found.ours.rate, found.rate_ratio, 0.95);
    (row.floor, row.ours) = (show(found.floor.rate), show(found.ours.rate));
    row
}

async fn turn(fleet: &Fleet, kind: Kind, server: u32) -> Result<Sample> {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let whole =
        if kind.action == Action::Trace { Bytes::from(vec![b'x'; usize::try_from(kind.bytes)?]) } else { Bytes::new() };
    let before = used(&server.to_string());
    let mut sample = closed_loop(kind.runners, kind.calls, async |_| {
        fleet
            .with(async |runner| match kind.action {
                Action::Trace => runner.trace(whole.clone()).await,
                Action::Upload => runner.upload(&piece, kind.bytes).await,
                Action::Download => runner.download(kind.bytes).await,
            })
            .await
    })
    .await?;
    sample.cpu = (used(&server.to_string()) - before) / kind.calls as f64;
    Ok(sample)
}

/// Resident memory before, and the most of it while artifacts of several sizes are uploaded.
async fn memory(effort: Effort) -> Result<Vec<Row>> {
    let sides = Sides::start("empty", 0)?;
    let sizes: &[u64] =
        if effort == Effort::Smoke { &[200_000, SMOKE] } else { &[20_000_000, 200_000_000, 1_000_000_000] };
    let mut texts = Vec::new();
    let mut most = Vec::new();
    for (process, address) in
        [(sides.proxy.id(), &sides.proxy.said), (sides.router.router.id(), &sides.router.router.said)]
    {
        let fleet = Fleet::connect(address, 1).await?;
        let mut text = vec![table::bytes(resident(process)?)];
        let mut peaks = Vec::new();
        for bytes in sizes {
            // Begins anew to look for the most.
            std::fs::write(format!("/proc/{process}/clear_refs"), "5")?;
            let kind = Kind { what: "", action: Action::Upload, bytes: *bytes, runners: 1, calls: 1 };
            turn(&fleet, kind, process).await?;
            let peak = crate::site::most_resident(process)?;
            peaks.push(peak);
            text.push(table::bytes(peak));
        }
        texts.push(text.join(", "));
        most.push(peaks[peaks.len() - 1] - peaks[0]);
    }
    let sizes: Vec<_> = sizes.iter().map(|bytes| table::bytes(*bytes as f64)).collect();
    let what = format!("memory before, and at most during an upload of {}", sizes.join(", "));
    // A large one may take no more than a small one does, give or take what buffers are.
    let flat = most[1] <= 2e6;
    let mut texts = texts.into_iter();
    let floor = texts.next();
    Ok(vec![Row::against(what, floor, texts.next().unwrap_or_default(), "last ≤ first + 2 MB", flat)])
}
