//! How soon a runner has a job, when jobs come at a fixed rate: ours, what it stands on, and queues that are polled.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    Result,
    child::Server,
    echo::{
        self, Bare, EchoClient, Payload,
        wire::{PollRequest, queue_client::QueueClient},
    },
    fixtures,
    fleet::{Fleet, Shape},
    measure::{Effort, median},
    pace::{self, Ticks, Times, WARM_UP},
    queue::Committer,
    site::{self, RUNNER, Setup, Site},
    table::{self, Row},
};

/// Idle runners, and the connections they share.
pub(crate) const RUNNERS: usize = 512;
pub(crate) const CONNECTIONS: usize = 64;
/// Bytes of a job's document: as in the lab that the targets come from.
pub(crate) const DOCUMENT: usize = 400;
/// What a job adds to its document in the log, where that cannot be read from the disk.
const ROWS: usize = 600;
/// Bytes of the answer to a submission.
const SUBMITTED: u64 = 38;
/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn fleet_shape() -> Shape<'static> {
    Shape { token: RUNNER, streams: RUNNERS, connections: CONNECTIONS, capacity: 1 }
}

/// Times from when a job was due until a runner has it, and until its submission was answered.
pub(crate) struct Turn {
    pub(crate) delivered: Times,
    answered: Times,
}

/// Jobs at a fixed rate: `submit` sends one, `next` gives the next one that has arrived.
async fn deliver<S, W, N>(rate: u64, count: u64, submit: S, mut next: N) -> Result<Turn>
where
    S: Fn(Bytes) -> W,
    W: Future<Output = Result<()>> + Send + 'static,
    N: AsyncFnMut() -> Result<(u64, Instant)>,
{
    let documents: Vec<_> =
        (0..count).map(|number| fixtures::numbered_document(number, fixtures::PROJECT, &[], DOCUMENT)).collect();
    let mut ticks = Ticks::start(rate, count);
    let due = ticks.schedule();
    let submitting = async {
        let (mut calls, mut answered) = (JoinSet::new(), pace::times()?);
        while let Some(number) = ticks.next().await {
            let call = submit(documents[usize::try_from(number)?].clone());
            calls.spawn(async move {
                call.await?;
                Ok::<_, crate::Error>((number, due(number).elapsed()))
            });
        }
        while let Some(call) = calls.join_next().await {
            let (number, took) = call??;
            if number >= count / WARM_UP {
                pace::add(&mut answered, took);
            }
        }
        Ok::<_, crate::Error>(answered)
    };
    let running = async {
        let mut delivered = pace::times()?;
        for _ in 0..count {
            let (number, at) = next().await?;
            if number >= count / WARM_UP {
                pace::add(&mut delivered, at.saturating_duration_since(due(number)));
            }
        }
        Ok::<_, crate::Error>(delivered)
    };
    let both = async { tokio::join!(submitting, running) };
    let (answered, delivered) = tokio::time::timeout(LIMIT, both).await.map_err(|_| "jobs did not arrive in time")?;
    Ok(Turn { delivered: delivered?, answered: answered? })
}

/// A router and its idle runners.
pub(crate) struct Ours {
    pub(crate) site: Site,
    pub(crate) jobs: site::Jobs,
    pub(crate) fleet: Fleet,
}

impl Ours {
    pub(crate) async fn start(setup: Setup) -> Result<Self> {
        let site = Site::start(setup)?;
        let fleet = Fleet::attach(&site.router.url(), fleet_shape()).await?;
        Ok(Self { jobs: site.jobs().await?, site, fleet })
    }

    pub(crate) async fn turn(&mut self, rate: u64, count: u64) -> Result<Turn> {
        let Self { jobs, fleet, .. } = self;
        let submit = |document| {
            let mut jobs = jobs.clone();
            async move {
                jobs.submit(document).await?;
                Ok(())
            }
        };
        deliver(rate, count, submit, async || fleet.job().await).await
    }
}

/// A queue that is polled, in a process of its own.
struct Polled {
    client: QueueClient<tonic::transport::Channel>,
    server: Server,
    _folder: tempfile::TempDir,
}

/// Who polls, and how.
#[derive(Clone, Copy)]
struct Polling {
    pollers: u32,
    /// Jobs taken at once.
    most: u32,
    /// How often each of them asks; `None`: its question waits until there is a job, and the next one follows at once.
    every: Option<Duration>,
}

impl Polled {
    async fn start(effort: Effort) -> Result<Self> {
        let folder = site::folder()?;
        let mebibytes = if effort == Effort::Smoke { "4" } else { "256" };
        let server = Server::start("queue", &[&folder.path().display().to_string(), mebibytes])?;
        let client = QueueClient::new(echo::connect(&server.url()).await?);
        Ok(Self { client, server, _folder: folder })
    }

    async fn turn(&self, polling: Polling, rate: u64, count: u64) -> Result<Turn> {
        let (arrive, mut arrived) = mpsc::unbounded_channel();
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS.min(polling.pollers as usize) {
            channels.push(QueueClient::new(echo::connect(&self.server.url()).await?));
        }
        let mut pollers = JoinSet::new();
        for number in 0..polling.pollers {
            let (mut client, arrive) = (channels[number as usize % channels.len()].clone(), arrive.clone());
            pollers.spawn(async move {
                let wait = polling.every.is_none();
                let period = polling.every.unwrap_or(Duration::from_millis(1));
                let mut next = tokio::time::Instant::now() + period * number / polling.pollers;
                loop {
                    if !wait {
                        tokio::time::sleep_until(next).await;
                        next += period;
                    }
                    let request = PollRequest { most: polling.most, wait };
                    let Ok(answer) = client.poll(request).await else { return };
                    let at = Instant::now();
                    for document in answer.into_inner().documents {
                        let number = fixtures::number_of(&document).unwrap_or(u64::MAX);
                        if arrive.send((number, at)).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        let submit = |document| {
            let mut client = self.client.clone();
            async move {
                client.submit(Payload { number: SUBMITTED, body: document }).await?;
                Ok(())
            }
        };
        deliver(rate, count, submit, async || arrived.recv().await.ok_or_else(|| "all pollers are gone".into())).await
    }
}

/// The three floors, one after the other: a commit, a unary echo, an echo in a stream.
struct Floor {
    committer: Committer,
    unary: EchoClient<tonic::transport::Channel>,
    stream: Bare,
    _processes: (Server, Server),
    _folder: tempfile::TempDir,
}

impl Floor {
    async fn start(effort: Effort) -> Result<Self> {
        let folder = site::folder()?;
        let size = if effort == Effort::Smoke { 4 << 20 } else { 64 << 20 };
        let committer = Committer::start(folder.path(), size)?;
        let echo = Server::start("echo", &[])?;
        let unary = EchoClient::new(echo::connect(&echo.url()).await?);
        let (stream, dialler) = Bare::open().await?;
        Ok(Self { committer, unary, stream, _processes: (echo, dialler), _folder: folder })
    }

    /// Median and 99th percentile of each, in µs.
    async fn turn(&mut self, rate: u64, count: u64, committed: usize) -> Result<[(f64, f64); 3]> {
        let Self { committer, unary, stream, .. } = self;
        let bytes = Bytes::from(vec![b'x'; committed]);
        let document = fixtures::numbered_document(0, fixtures::PROJECT, &[], DOCUMENT);
        let commit = pace::alone(rate, count, async |_| committer.commit(bytes.clone()).await).await?;
        let unary = pace::alone(rate, count, async |_| {
            unary.unary(Payload { number: SUBMITTED, body: document.clone() }).await?;
            Ok(())
        })
        .await?;
        let stream = pace::alone(rate, count, async |_| stream.bytes.once(&document).await).await?;
        Ok([commit, unary, stream].map(|times| (pace::at(&times, 0.5), pace::at(&times, 0.99))))
    }
}

/// p50 and p99 of turns.
#[derive(Default)]
struct Turns(Vec<(f64, f64)>);

impl Turns {
    fn add(&mut self, times: &Times) {
        self.0.push((pace::at(times, 0.5), pace::at(times, 0.99)));
    }

    fn p50(&self) -> f64 {
        median(self.0.iter().map(|turn| turn.0))
    }

    fn p99(&self) -> f64 {
        median(self.0.iter().map(|turn| turn.1))
    }

    fn row(&self, what: &str) -> Row {
        let text = format!("p50 {}, p99 {}", table::time(self.p50()), table::time(self.p99()));
        Row::against(what, None, text, "–", true).beside()
    }
}

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let smoke = effort == Effort::Smoke;
    let (rounds, seconds) = if smoke { (1, 0) } else { (5, 3) };
    let count = |rate: u64| if seconds == 0 { 100 } else { rate * seconds };
    let mut ours = Ours::start(Setup::default()).await?;
    let mut alone = Ours::start(Setup { one_thread: true, ..Setup::default() }).await?;
    let mut floor = Floor::start(effort).await?;
    let polled = Polled::start(effort).await?;
    let long = Polling { pollers: u32::try_from(RUNNERS)?, most: 1, every: None };
    let period = Duration::from_millis(if smoke { 300 } else { 3000 });
    let managed = Polling { pollers: 1, most: u32::MAX, every: Some(period) };
    let fleet = Polling { pollers: u32::try_from(RUNNERS)?, most: 16, every: Some(period) };

    let mut committed = DOCUMENT + ROWS;
    let (mut slow, mut answered, mut fast, mut one, mut polls, mut fast_polls) = Default::default();
    let (slow, answered, fast, one): (&mut Turns, &mut Turns, &mut Turns, &mut Turns) =
        (&mut slow, &mut answered, &mut fast, &mut one);
    let (polls, fast_polls): (&mut Turns, &mut Turns) = (&mut polls, &mut fast_polls);
    let (mut floors, mut ratios, mut to_polls) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let before = ours.site.log_bytes()?;
        let turn = ours.turn(1_000, count(1_000)).await?;
        if round == 0 {
            let written = usize::try_from((ours.site.log_bytes()? - before) / count(1_000))?;
            committed = if written > 0 { written } else { committed };
        }
        let bare = floor.turn(1_000, count(1_000), committed).await?;
        let poll = polled.turn(long, 1_000, count(1_000)).await?;
        let at_5000 = ours.turn(5_000, count(5_000)).await?;
        let poll_5000 = polled.turn(long, 5_000, count(5_000)).await?;
        let one_thread = alone.turn(1_000, count(1_000)).await?;
        // The first turn warms up.
        if round > 0 {
            let sum: f64 = bare.iter().map(|part| part.0).sum();
            ratios.push(pace::at(&turn.delivered, 0.5) / sum);
            to_polls.push(pace::at(&turn.delivered, 0.5) / pace::at(&poll.delivered, 0.5));
            floors.push(bare);
            slow.add(&turn.delivered);
            answered.add(&turn.answered);
            fast.add(&at_5000.delivered);
            one.add(&one_thread.delivered);
            polls.add(&poll.delivered);
            fast_polls.add(&poll_5000.delivered);
        }
    }
    let (mut by_manager, mut by_fleet) = (Turns::default(), Turns::default());
    let long_enough = if smoke { 300 } else { 9_000 };
    by_manager.add(&polled.turn(managed, 1_000, long_enough).await?.delivered);
    by_fleet.add(&polled.turn(fleet, 1_000, long_enough).await?.delivered);

    let part = |place: usize| median(floors.iter().map(|floor: &[(f64, f64); 3]| floor[place].0));
    let tail = |place: usize| median(floors.iter().map(|floor: &[(f64, f64); 3]| floor[place].1));
    let (p50, p99) = ((0..3).map(part).sum::<f64>(), (0..3).map(tail).sum::<f64>());
    let what = "submit → runner has the job, durable, 512 idle runners";
    let ratio = median(ratios);
    let against = |measure: String, ours: f64, most: f64| {
        let target = format!("≤ {} ms", most / 1e3);
        Row::against(measure, None, table::time(ours), target, ours <= most)
    };
    let to_poll = median(to_polls);
    Ok(vec![
        Row::at_most(format!("{what}, 1,000 jobs/s: p50"), p50, slow.p50(), ratio, 2.0),
        Row::against(
            format!("its floor: a commit of {committed} bytes + a unary echo + an echo in a stream: p50"),
            None,
            [0, 1, 2].map(|place| table::time(part(place))).join(" + "),
            "–",
            true,
        )
        .beside(),
        against(format!("{what}, 1,000 jobs/s: p50"), slow.p50(), 1_000.0),
        against(format!("{what}, 1,000 jobs/s: p99"), slow.p99(), 5_000.0),
        Row::against("its floor: the three 99th percentiles, added", None, table::time(p99), "–", true).beside(),
        answered.row("of which until the submission is answered"),
        one.row(&format!("{what}, 1,000 jobs/s, router with one thread")),
        against(format!("{what}, 5,000 jobs/s: p99"), fast.p99(), 10_000.0),
        fast.row(&format!("{what}, 5,000 jobs/s")),
        Row::at_most("1,000 jobs/s, to a long poll that is woken at once: p50", polls.p50(), slow.p50(), to_poll, 1.0),
        polls.row(
            "1,000 jobs/s through that long poll, 512 pollers, a commit when a job comes and one when it is taken",
        ),
        fast_polls.row("5,000 jobs/s through that long poll"),
        by_manager.row("1,000 jobs/s through a poll every 3 s by one poller that takes all"),
        by_fleet.row("1,000 jobs/s through polls every 3 s by each of 512 pollers that take 16"),
    ])
}
