//! Many no-op runners in this process: each job is finished as soon as it comes, and its slot granted again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use jobgate_proto::runner::v1::{
    Accept, Assign, Credit, Finished, GatewayMessage, Heartbeat, HeldLease, Hello, Outcome, QueueSignal, RunnerMessage,
    Started, gateway_message, runner_gateway_client::RunnerGatewayClient, runner_message,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{Result, echo, fixtures, site::with_token};

/// As the router asks for.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What a runner saw.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A job of this number came.
    Job(u64, Instant),
    /// Its result is recorded.
    Recorded(u64),
    /// The router said that a lease it held is void.
    Void(u64),
    /// It was told of its queue.
    Signal { runner: usize, at: Instant, made: Option<SystemTime> },
}

/// What to attach.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub(crate) token: &'a str,
    pub(crate) streams: usize,
    pub(crate) connections: usize,
    pub(crate) capacity: u32,
}

/// Jobs that were finished and whose results are not recorded yet, by stream: they are told again after a break.
pub(crate) type Held = Arc<Mutex<HashMap<usize, HashMap<(String, u64), u64>>>>;

pub(crate) struct Fleet {
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Fleet {
    pub(crate) async fn attach(url: &str, shape: Shape<'_>) -> Result<Self> {
        Self::attach_with(url, shape, Held::default()).await
    }

    /// With what these runners held before.
    pub(crate) async fn attach_with(url: &str, shape: Shape<'_>, held: Held) -> Result<Self> {
        let (see, seen) = mpsc::unbounded_channel();
        let mut tasks = Vec::with_capacity(shape.streams);
        let mut channels = Vec::with_capacity(shape.connections);
        for _ in 0..shape.connections {
            channels.push(echo::connect(url).await?);
        }
        for number in 0..shape.streams {
            let channel = channels[number % channels.len()].clone();
            let mut runner = Runner::attach(channel, shape, number, &held).await?;
            let (see, held) = (see.clone(), held.clone());
            // An error is the end of the router, which whoever counts jobs finds out.
            tasks.push(tokio::spawn(async move { drop(runner.run(&see, &held).await) }));
        }
        Ok(Self { seen, tasks })
    }

    pub(crate) async fn next(&mut self) -> Result<Seen> {
        self.seen.recv().await.ok_or_else(|| "all runners are gone".into())
    }

    /// The next job that comes to one of them.
    pub(crate) async fn job(&mut self) -> Result<(u64, Instant)> {
        loop {
            if let Seen::Job(number, at) = self.next().await? {
                return Ok((number, at));
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

struct Runner {
    number: usize,
    incoming: Streaming<GatewayMessage>,
    outgoing: mpsc::Sender<RunnerMessage>,
}

impl Runner {
    async fn attach(channel: Channel, shape: Shape<'_>, number: usize, held: &Held) -> Result<Self> {
        let (outgoing, queue) = mpsc::channel(64 + 4 * shape.capacity as usize);
        let unrecorded: Vec<_> = lock(held).entry(number).or_default().keys().cloned().collect();
        let leases = unrecorded.iter().cloned().map(|(job_id, lease)| HeldLease { job_id, lease, started: true });
        let hello = Hello {
            system_id: format!("bench-{number}"),
            capacity: shape.capacity,
            leases: leases.collect(),
            ..Hello::default()
        };
        let slots = shape.capacity.saturating_sub(u32::try_from(unrecorded.len())?);
        let mut client = RunnerGatewayClient::new(channel);
        let runner = client.attach(with_token(ReceiverStream::new(queue), shape.token)?);
        say(&outgoing, runner_message::Message::Hello(hello)).await?;
        for (job_id, lease) in unrecorded {
            say(&outgoing, finished(job_id, lease)).await?;
            say(&outgoing, runner_message::Message::Credit(Credit { slots: 1 })).await?;
        }
        if slots > 0 {
            say(&outgoing, runner_message::Message::Credit(Credit { slots })).await?;
        }
        let mut incoming = runner.await?.into_inner();
        // Its welcome.
        incoming.message().await?.ok_or("the router did not welcome a runner")?;
        Ok(Self { number, incoming, outgoing })
    }

    async fn run(&mut self, see: &mpsc::UnboundedSender<Seen>, held: &Held) -> Result<()> {
        let mut heartbeats = tokio::time::interval(HEARTBEAT);
        loop {
            let message = tokio::select! {
                message = self.incoming.message() => message?.and_then(|message| message.message),
                _ = heartbeats.tick() => {
                    let keys: Vec<_> = lock(held).entry(self.number).or_default().keys().cloned().collect();
                    let lease = |(job_id, lease)| HeldLease { job_id, lease, started: true };
                    let leases = keys.into_iter().map(lease).collect();
                    say(&self.outgoing, runner_message::Message::Heartbeat(Heartbeat { leases })).await?;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            let gone = |job_id: String, lease| lock(held).entry(self.number).or_default().remove(&(job_id, lease));
            match message {
                gateway_message::Message::Assign(assign) => self.finish(assign, see, held).await?,
                gateway_message::Message::Recorded(recorded) => {
                    if let Some(number) = gone(recorded.job_id, recorded.lease) {
                        see.send(Seen::Recorded(number))?;
                    }
                }
                gateway_message::Message::Cancel(cancel) => {
                    if let Some(number) = gone(cancel.job_id, cancel.lease) {
                        see.send(Seen::Void(number))?;
                    }
                }
                gateway_message::Message::Queue(signal) => {
                    see.send(Seen::Signal { runner: self.number, at: Instant::now(), made: made(&signal) })?;
                }
                _ => {}
            }
        }
    }

    async fn finish(&self, assign: Assign, see: &mpsc::UnboundedSender<Seen>, held: &Held) -> Result<()> {
        let at = Instant::now();
        let number = fixtures::number_of(&assign.document).ok_or("a document that is none of ours")?;
        see.send(Seen::Job(number, at))?;
        let Assign { job_id, lease, .. } = assign;
        lock(held).entry(self.number).or_default().insert((job_id.clone(), lease), number);
        for message in [
            runner_message::Message::Accept(Accept { job_id: job_id.clone(), lease }),
            runner_message::Message::Started(Started { job_id: job_id.clone(), lease }),
            finished(job_id, lease),
            runner_message::Message::Credit(Credit { slots: 1 }),
        ] {
            say(&self.outgoing, message).await?;
        }
        Ok(())
    }
}

async fn say(to: &mpsc::Sender<RunnerMessage>, message: runner_message::Message) -> Result<()> {
    Ok(to.send(RunnerMessage { message: Some(message) }).await?)
}

fn finished(job_id: String, lease: u64) -> runner_message::Message {
    runner_message::Message::Finished(Finished {
        job_id,
        lease,
        outcome: Outcome::Success.into(),
        exit_code: Some(0),
        reason: String::new(),
    })
}

/// When a signal was made.
fn made(signal: &QueueSignal) -> Option<SystemTime> {
    SystemTime::try_from(signal.time?).ok()
}

fn lock<T>(held: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
