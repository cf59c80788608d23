//! The life of one runner: attach, serve, come back.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jobgate_proto::runner::v1::{
    GatewayMessage, Hello, RunnerMessage, Welcome, gateway_message, runner_gateway_client::RunnerGatewayClient,
    runner_message,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};

use super::{
    Runner, RunnerError, Shutdown, backoff,
    execution::{Event, Execution, Key},
    leases::{Effect, Leases, Stop, message},
};

/// How long the router may take to welcome us.
const WELCOME: Duration = Duration::from_secs(10);

/// How long the results of killed jobs may take to be recorded.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A runner that lost its place so often within so long has a double.
const MAX_DISPLACED: usize = 2;
const DISPLACED: Duration = Duration::from_secs(60);

/// Messages on their way out before output waits.
const OUTGOING: usize = 64;

/// A job that prints nothing for so long is said to live. The router drops one that it does not hear of for 30 min.
const QUIET: Duration = Duration::from_secs(60);

/// A router that makes us say more than this without listening is not well.
const MAX_UNSENT: usize = 10_000;

pub(super) struct Session {
    runner: Runner,
    shutdown: watch::Receiver<Shutdown>,
    told: Shutdown,
    leases: Leases,
    jobs: JoinSet<()>,
    stops: HashMap<Key, CancellationToken>,
    /// For the jobs.
    report: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    outbox: VecDeque<RunnerMessage>,
    /// The first welcome proves that URL, token and name are right: after it, nothing is given up.
    welcomed: bool,
    /// When another stream took the place of ours.
    displaced: Vec<Instant>,
    /// When killed jobs have had time enough to be reported.
    last_moment: Option<Instant>,
}

struct Stream {
    out: mpsc::Sender<RunnerMessage>,
    incoming: Streaming<GatewayMessage>,
    heartbeat: Duration,
}

impl Session {
    pub(super) fn new(runner: Runner, shutdown: watch::Receiver<Shutdown>) -> Self {
        let (report, events) = mpsc::channel(32);
        let leases = Leases::new(runner.capacity, Instant::now());
        Self {
            runner,
            shutdown,
            told: Shutdown::Not,
            leases,
            jobs: JoinSet::new(),
            stops: HashMap::new(),
            report,
            events,
            outbox: VecDeque::new(),
            welcomed: false,
            displaced: Vec::new(),
            last_moment: None,
        }
    }

    pub(super) async fn run(mut self) -> Result<(), RunnerError> {
        while let Some(stream) = self.attach().await? {
            let status = self.serve(stream).await;
            self.leases.detached();
            self.outbox.clear();
            match status {
                None => break,
                Some(status) if status.code() == Code::Aborted && self.is_displaced(Instant::now()) => {
                    return Err(RunnerError::Replaced { system_id: self.runner.system_id, message: said(&status) });
                }
                Some(status) => tracing::warn!(reason = %said(&status), "detached from the router; attaching again"),
            }
        }
        match self.leases.len() {
            0 => Ok(()),
            results => Err(RunnerError::Undelivered { results }),
        }
    }

    /// A router also ends a stream when the runner's configuration changes, so once is not enough to give up. Two processes
    /// with one id would displace each other for ever.
    fn is_displaced(&mut self, now: Instant) -> bool {
        self.displaced.retain(|when| now.duration_since(*when) < DISPLACED);
        self.displaced.push(now);
        self.displaced.len() > MAX_DISPLACED
    }

    /// Tries until it works; `None` when there is nothing left to attach for.
    async fn attach(&mut self) -> Result<Option<Stream>, RunnerError> {
        for attempt in 0.. {
            let trial = open(&self.runner, &self.leases);
            let result = tokio::select! {
                result = trial => result,
                () = self.idle() => return Ok(None),
            };
            match result {
                Ok((stream, welcome)) => return self.welcome(stream, &welcome).map(Some),
                Err(status) if !self.welcomed && is_final(&status) => {
                    return Err(RunnerError::Refused {
                        url: self.runner.connection.url().to_owned(),
                        message: said(&status),
                    });
                }
                Err(status) => {
                    let url = self.runner.connection.url();
                    tracing::warn!(url, reason = %said(&status), "cannot attach to the router; trying again");
                }
            }
            tokio::select! {
                () = sleep(backoff::wait(attempt)) => {}
                () = self.idle() => return Ok(None),
            }
        }
        Ok(None)
    }

    fn welcome(&mut self, stream: Stream, welcome: &Welcome) -> Result<Stream, RunnerError> {
        if welcome.runner != self.runner.name {
            let (name, token_of) = (self.runner.name.clone(), welcome.runner.clone());
            return Err(RunnerError::OtherName { name, token_of });
        }
        self.welcomed = true;
        tracing::info!(runner = %welcome.runner, router = %welcome.router_version, "attached");
        let effects = self.leases.attached(welcome, Instant::now());
        self.perform(effects);
        Ok(stream)
    }

    /// While detached: watches over the silence limit and the shutdown. Ends when there is nothing left to attach for.
    async fn idle(&mut self) {
        loop {
            if self.is_done() || (self.leases.is_draining() && self.leases.is_silenced()) {
                return;
            }
            let silent_at = self.leases.silent_at();
            tokio::select! {
                () = sleep_until(silent_at), if !self.leases.is_silenced() => self.silence(),
                () = moment(self.last_moment) => return,
                shutdown = news(&mut self.shutdown, self.told) => self.shut_down(shutdown),
            }
        }
    }

    /// Serves one stream to its end: with its status, or with `None` when the runner is done.
    async fn serve(&mut self, mut stream: Stream) -> Option<Status> {
        let mut heartbeat = interval(stream.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_done() {
            tokio::select! {
                room = sendable(&stream.out), if !self.outbox.is_empty() => {
                    let sent = self.outbox.pop_front().is_none_or(|next| room && stream.out.try_send(next).is_ok());
                    if !sent {
                        return Some(stream.end().await);
                    }
                }
                incoming = stream.incoming.message() => match incoming {
                    Ok(Some(message)) => {
                        tell(&message);
                        let effects = self.leases.message(message, Instant::now());
                        self.perform(effects);
                    }
                    Ok(None) => return Some(Status::unavailable("the router ended the stream")),
                    Err(status) => return Some(status),
                },
                Some(event) = self.events.recv(), if self.outbox.is_empty() => self.event(event),
                _ = heartbeat.tick() => self.outbox.push_back(self.leases.heartbeat()),
                () = sleep_until(self.leases.silent_at()) => {
                    self.silence();
                    return Some(Status::deadline_exceeded("no word from the router for too long"));
                }
                () = moment(self.last_moment) => return None,
                shutdown = news(&mut self.shutdown, self.told) => self.shut_down(shutdown),
            }
            if self.outbox.len() > MAX_UNSENT {
                return Some(Status::resource_exhausted("the router talks and does not listen"));
            }
        }
        None
    }

    fn is_done(&self) -> bool {
        self.leases.is_draining() && self.leases.is_empty() && self.outbox.is_empty()
    }

    fn silence(&mut self) {
        let effects = self.leases.silence(Instant::now());
        if !effects.is_empty() {
            tracing::error!(jobs = effects.len(), "no word from the router for too long; killing all jobs");
        }
        self.perform(effects);
    }

    fn shut_down(&mut self, shutdown: Shutdown) {
        self.told = shutdown;
        let mut effects = Vec::new();
        if !self.leases.is_draining() {
            tracing::info!(jobs = self.leases.len(), "draining: no new jobs, running ones end first");
            effects.extend(self.leases.drain());
        }
        if shutdown == Shutdown::Now && self.last_moment.is_none() {
            tracing::warn!(jobs = self.leases.len(), "killing all jobs");
            self.last_moment = Some(Instant::now() + LAST_WORDS);
            effects.extend(self.leases.stop_all(&Stop::Shutdown));
        }
        self.perform(effects);
    }

    fn event(&mut self, event: Event) {
        let effects = match event {
            Event::Started(key) => self.leases.started(&key),
            Event::Output(key, data) => {
                let (job_id, lease) = (key.job_id.to_string(), key.lease);
                let output = jobgate_proto::runner::v1::Output { job_id, lease, data };
                self.outbox.push_back(message(runner_message::Message::Output(output)));
                return;
            }
            Event::Ended(key, end) => {
                tracing::info!(job = %key.job_id, lease = key.lease, success = end.success, reason = %end.reason, "job ended");
                self.stops.remove(&key);
                self.leases.ended(&key, end)
            }
        };
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        while self.jobs.try_join_next().is_some() {}
        for effect in effects {
            match effect {
                Effect::Send(message) => self.outbox.push_back(message),
                Effect::Run { key, script, timeout, fence } => {
                    tracing::info!(job = %key.job_id, lease = key.lease, "job accepted");
                    let stop = CancellationToken::new();
                    self.stops.insert(key.clone(), stop.clone());
                    let (scratch, events) = (self.runner.scratch.clone(), self.report.clone());
                    let execution = Execution { key, script, timeout, fence, quiet: QUIET, scratch, stop, events };
                    self.jobs.spawn(execution.run());
                }
                Effect::Stop { key, why } => {
                    tracing::info!(job = %key.job_id, lease = key.lease, %why, "stopping the job");
                    self.stops.get(&key).inspect(|stop| stop.cancel());
                }
            }
        }
    }
}

impl Stream {
    /// Why the router takes no more messages.
    async fn end(&mut self) -> Status {
        loop {
            match timeout(WELCOME, self.incoming.message()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Err(status)) => return status,
                Ok(Ok(None)) | Err(_) => return Status::unavailable("the router ended the stream"),
            }
        }
    }
}

/// One attempt: connects, says hello, and waits for the welcome.
fn open(runner: &Runner, leases: &Leases) -> impl Future<Output = Result<(Stream, Welcome), Status>> + use<> {
    let (connection, name, tags) = (runner.connection.clone(), runner.name.clone(), runner.tags.join(","));
    let hello = Hello {
        system_id: runner.system_id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        platform: platform(),
        executor: "shell".to_owned(),
        capacity: runner.capacity,
        leases: leases.held(),
        taints: runner.taints.iter().map(|(kind, reason)| taint(kind.as_str(), reason)).collect(),
    };
    async move {
        let attempt = async {
            let endpoint = connection.endpoint().map_err(|error| Status::invalid_argument(described(&error)))?;
            let channel = endpoint.connect().await.map_err(|error| Status::unavailable(described(&error)))?;
            let (out, messages) = mpsc::channel(OUTGOING);
            let _ = out.send(message(runner_message::Message::Hello(hello))).await;
            let mut call = connection.call(ReceiverStream::new(messages));
            if !connection.has_token() {
                introduce(&mut call, &name, &tags)?;
            }
            let mut incoming = RunnerGatewayClient::new(channel).attach(call).await?.into_inner();
            match incoming.message().await?.and_then(|first| first.message) {
                Some(gateway_message::Message::Welcome(welcome)) => {
                    Ok((Stream { out, incoming, heartbeat: heartbeat(&welcome) }, welcome))
                }
                _ => Err(Status::unavailable("the router did not begin with a welcome")),
            }
        };
        match timeout(WELCOME, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Status::unavailable(format!("no welcome within {WELCOME:?}"))),
        }
    }
}

/// Logs what needs nothing to be done.
fn tell(message: &GatewayMessage) {
    match &message.message {
        Some(gateway_message::Message::Queue(signal)) => {
            tracing::debug!(waiting = signal.waiting, running = signal.running, "work for runners like this one");
        }
        Some(gateway_message::Message::Draining(_)) => {
            tracing::info!("the router gives no new jobs; running ones go on");
        }
        _ => {}
    }
}

/// As `Hello.taints` has it.
fn taint(kind: &str, reason: &str) -> String {
    if reason.is_empty() { kind.to_owned() } else { format!("{kind}: {reason}") }
}

/// Without a token, as a router in trial mode wants it (`runner.proto`).
fn introduce<T>(call: &mut Request<T>, name: &str, tags: &str) -> Result<(), Status> {
    for (key, text) in [("x-jobgate-runner", name), ("x-jobgate-tags", tags)] {
        let value = text.parse().map_err(|_| Status::invalid_argument(format!("`{text}` is not plain ASCII")))?;
        call.metadata_mut().insert(key, value);
    }
    Ok(())
}

fn heartbeat(welcome: &Welcome) -> Duration {
    let said = welcome.heartbeat_interval.and_then(|every| Duration::try_from(every).ok());
    said.unwrap_or(Duration::from_secs(5)).clamp(Duration::from_millis(100), Duration::from_secs(10))
}

/// Trying again would not help.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented | Code::NotFound
    )
}

fn said(status: &Status) -> String {
    let text = match (status.code(), status.message()) {
        (Code::Unimplemented, _) => "it is not a jobgate router, or serves no native runners",
        (code, "") => code.description(),
        (_, message) => message,
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

/// tonic says only `transport error`; the cause is below it.
fn described(error: &tonic::transport::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

fn platform() -> String {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{machine}", std::env::consts::OS)
}

/// Waits for room; `false` when the stream is over. This task is the only one that sends, so the room stays.
async fn sendable(out: &mpsc::Sender<RunnerMessage>) -> bool {
    out.reserve().await.is_ok()
}

async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What was not told before; never, when nobody can tell it any more.
async fn news(shutdown: &mut watch::Receiver<Shutdown>, told: Shutdown) -> Shutdown {
    let changed = shutdown.wait_for(|now| *now != told).await.map(|now| *now);
    match changed {
        Ok(now) => now,
        Err(_) => std::future::pending().await,
    }
}
