use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jobgate_proto::runner::v1::{self as wire, gateway_message, runner_gateway_server::RunnerGateway};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::message;
use crate::{
    faces::{Limits, auth::RunnerIdentity},
    handle::{CoreError, Handle, RunnerEvent, RunnerOrder, Session},
    job::{JobId, Lease},
};

/// How often a runner sends its heartbeat, and how long it lives without ours.
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(30);
/// Messages that may wait in front of a runner's connection.
const OUTGOING: usize = 64;
/// Output is but a sign of life of its job: it is passed on once in so long.
const OUTPUT_EVERY: Duration = Duration::from_secs(1);
/// Jobs whose output is remembered for that.
const OUTPUT_JOBS: usize = 1024;

type Outgoing = mpsc::Sender<Result<wire::GatewayMessage, Status>>;

/// `jobgate.runner.v1.RunnerGateway`: each stream is a task between the connection and the task that owns the state.
pub(super) struct Gateway {
    handle: Handle,
    hello: Duration,
    silence: Duration,
    write_stall: Duration,
    closing: CancellationToken,
}

impl Gateway {
    pub(super) fn new(handle: Handle, limits: &Limits, closing: CancellationToken) -> Self {
        let Limits { hello, runner_silence: silence, write_stall, .. } = *limits;
        Self { handle, hello, silence, write_stall, closing }
    }
}

#[tonic::async_trait]
impl RunnerGateway for Gateway {
    type AttachStream = ReceiverStream<Result<wire::GatewayMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::RunnerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let identity = request.extensions().get::<RunnerIdentity>().cloned();
        let identity = identity.ok_or_else(|| Status::unauthenticated("nobody said whose stream this is"))?;
        if self.closing.is_cancelled() {
            return Err(ended(&CoreError::Closing));
        }
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let link = Link {
            handle: self.handle.clone(),
            incoming: request.into_inner(),
            out,
            hello: self.hello,
            silence: self.silence,
            write_stall: self.write_stall,
            closing: self.closing.clone(),
        };
        // Some clients send nothing before they have the head of the answer: it goes out now, the hello is awaited behind it.
        tokio::spawn(link.run(identity));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// How a stream that ends by our will ends.
pub(super) fn ended(error: &CoreError) -> Status {
    let message = error.to_string();
    match error {
        CoreError::Closing | CoreError::StoreUnavailable | CoreError::RunnerChanged => Status::unavailable(message),
        CoreError::NotAttached | CoreError::Superseded => Status::aborted(message),
        CoreError::Silent => Status::deadline_exceeded(message),
        CoreError::QueueFull { .. } => Status::resource_exhausted(message),
        _ => Status::invalid_argument(message),
    }
}

/// One stream.
struct Link {
    handle: Handle,
    incoming: Streaming<wire::RunnerMessage>,
    out: Outgoing,
    hello: Duration,
    silence: Duration,
    write_stall: Duration,
    closing: CancellationToken,
}

impl Link {
    async fn run(mut self, identity: RunnerIdentity) {
        let leases = Leases::default();
        let (session, orders) = match self.attach(&identity, &leases).await {
            Ok(attached) => attached,
            Err(status) => return self.end(status).await,
        };
        tracing::info!(runner = %identity.0.name, "runner attached");
        let Self { handle, incoming, out, silence, write_stall, closing, .. } = self;
        let teller = Teller { out: &out, stall: write_stall, leases: &leases, drained: false };
        let end = tokio::select! {
            end = listen(&handle, session, incoming, silence, &leases) => end,
            end = teller.tell(orders, closing) => end,
            () = out.closed() => None,
        };
        handle.detach(session).await;
        tracing::info!(runner = %identity.0.name, end = end.as_ref().map(Status::message), "runner detached");
        if let Some(status) = end {
            // The runner may be gone already, or take nothing.
            let _ = timeout(write_stall, out.send(Err(status))).await;
        }
    }

    async fn attach(
        &mut self,
        identity: &RunnerIdentity,
        leases: &Leases,
    ) -> Result<(Session, mpsc::Receiver<RunnerOrder>), Status> {
        let first = timeout(self.hello, self.incoming.message()).await;
        let first = first.map_err(|_| Status::invalid_argument("no hello came in time"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream ended without a hello"))?;
        let hello = message::hello(identity, first)?;
        leases.held().extend(hello.leases.iter().map(|held| (held.job.clone(), held.lease)));
        let attached = self.handle.attach(hello).await.map_err(|error| ended(&error))?;
        let welcome = wire::Welcome {
            runner: identity.0.name.to_string(),
            router_version: env!("CARGO_PKG_VERSION").to_owned(),
            heartbeat_interval: HEARTBEAT.try_into().ok(),
            silence_limit: SILENCE.try_into().ok(),
        };
        let welcome = wire::GatewayMessage { message: Some(gateway_message::Message::Welcome(welcome)) };
        // First in an empty channel; its reader may be gone, which the next step finds out.
        let _ = self.out.send(Ok(welcome)).await;
        Ok(attached)
    }

    async fn end(self, status: Status) {
        tracing::debug!(message = status.message(), "a runner's stream was refused");
        let _ = self.out.send(Err(status)).await;
    }
}

/// The jobs a runner has, to know when it is drained.
#[derive(Default)]
struct Leases {
    held: Mutex<HashSet<(JobId, Lease)>>,
    fewer: Notify,
}

impl Leases {
    fn held(&self) -> MutexGuard<'_, HashSet<(JobId, Lease)>> {
        // Nothing panics between a lock and its end.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self, job: &JobId, lease: Lease) {
        self.held().remove(&(job.clone(), lease));
        self.fewer.notify_one();
    }
}

/// Passes on what the runner says, until it says no more.
async fn listen(
    handle: &Handle,
    session: Session,
    mut incoming: Streaming<wire::RunnerMessage>,
    silence: Duration,
    leases: &Leases,
) -> Option<Status> {
    let mut output = HashMap::<(JobId, Lease), Instant>::new();
    loop {
        let message = match timeout(silence, incoming.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return None,
            // Too large, or unreadable; a connection that broke takes no answer.
            Ok(Err(status)) => return Some(status),
            Err(_) => return Some(Status::deadline_exceeded("no heartbeat came in time")),
        };
        let event = match message::event(message) {
            Ok(Some(event)) => event,
            Ok(None) => continue,
            Err(status) => return Some(status),
        };
        match &event {
            RunnerEvent::Output(job, lease) if !is_due(&mut output, job, *lease) => continue,
            RunnerEvent::Refused(job, lease, _) => leases.gone(job, *lease),
            _ => {}
        }
        if let Err(error) = handle.runner(session, event).await {
            return Some(ended(&error));
        }
    }
}

fn is_due(output: &mut HashMap<(JobId, Lease), Instant>, job: &JobId, lease: Lease) -> bool {
    let key = (job.clone(), lease);
    if output.get(&key).is_some_and(|last| last.elapsed() < OUTPUT_EVERY) {
        return false;
    }
    if output.len() >= OUTPUT_JOBS {
        output.clear();
    }
    output.insert(key, Instant::now());
    true
}

/// Passes on what the runner is told.
struct Teller<'a> {
    out: &'a Outgoing,
    stall: Duration,
    leases: &'a Leases,
    drained: bool,
}

impl Teller<'_> {
    /// Ends with the orders or, when the router shuts down, as soon as the runner has no job left.
    async fn tell(mut self, mut orders: mpsc::Receiver<RunnerOrder>, closing: CancellationToken) -> Option<Status> {
        let mut closed = false;
        loop {
            if closed && self.drained && self.leases.held().is_empty() {
                return Some(ended(&CoreError::Closing));
            }
            let order = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => order,
                    None => return Some(ended(&CoreError::Closing)),
                },
                () = closing.cancelled(), if !closed => {
                    closed = true;
                    RunnerOrder::Drain
                }
                () = self.leases.fewer.notified() => continue,
            };
            if let Err(end) = self.pass_on(order).await {
                return end;
            }
        }
    }

    async fn pass_on(&mut self, order: RunnerOrder) -> Result<(), Option<Status>> {
        match &order {
            RunnerOrder::Drain if self.drained => return Ok(()),
            RunnerOrder::Drain => self.drained = true,
            RunnerOrder::Assign { job, lease, .. } => drop(self.leases.held().insert((job.clone(), *lease))),
            RunnerOrder::Recorded(job, lease) => self.leases.gone(job, *lease),
            _ => {}
        }
        let message = message::order(order).map_err(Some)?;
        match timeout(self.stall, self.out.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(None),
            Err(_) => Err(Some(Status::resource_exhausted("this runner takes too long to take what it is told"))),
        }
    }
}
