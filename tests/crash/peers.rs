//! Those who go on while the router dies: submitters that repeat what was not answered, runners that keep their jobs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jobgate_proto::{
    job::v1::{SubmitRequest, jobs_client::JobsClient},
    runner::v1::{
        Accept, Credit, Finished, Heartbeat, HeldLease, Hello, Outcome, RunnerMessage, Started,
        gateway_message::Message, runner_gateway_client::RunnerGatewayClient, runner_message,
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::ledger::Ledger;

const CAPACITY: u32 = 3;

#[derive(Clone)]
pub struct Peers {
    url: watch::Receiver<String>,
    ledger: Arc<Ledger>,
    stopped: watch::Sender<bool>,
}

impl Peers {
    pub fn new(url: watch::Receiver<String>, ledger: Arc<Ledger>) -> Self {
        Self { url, ledger, stopped: watch::Sender::new(false) }
    }

    /// Nothing new is submitted from now on.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Where the router is; after a failure the next place, if it moves soon.
    async fn next_url(&mut self, failed: &str) -> String {
        let moves = self.url.wait_for(|url| url != failed);
        let _ = timeout(Duration::from_millis(50), moves).await;
        self.url.borrow_and_update().clone()
    }
}

/// Submits one to three jobs, again and again until that is acknowledged; then the next ones. Under a key: without one a
/// repeated submission is another one.
pub async fn submitter(mut peers: Peers, number: usize, seed: u64) {
    let mut dice = SmallRng::seed_from_u64(seed ^ (number as u64 + 1) << 32);
    let mut failed = String::new();
    for round in 0_usize.. {
        if *peers.stopped.borrow() {
            return;
        }
        let kinds: Vec<_> = (0..dice.random_range(1..=3)).map(|_| dice.random_range(0..8) == 0).collect();
        let documents: Vec<_> = kinds.iter().map(|forbidden| document(*forbidden)).collect();
        let request = SubmitRequest {
            documents: serde_json::to_vec(&documents).unwrap().into(),
            idempotency_key: format!("{seed}-{number}-{round}"),
        };
        loop {
            let url = peers.next_url(&failed).await;
            match submit(&url, request.clone()).await {
                Ok(ids) => {
                    failed.clear();
                    peers.ledger.acknowledge(ids.into_iter().zip(kinds));
                    break;
                }
                Err(_) => failed = url,
            }
        }
    }
}

/// Submits jobs that no runner will see, so many times as many as a submitter does at most, each time under a key.
pub async fn refused(url: &str, submissions: usize) {
    const AT_ONCE: usize = 64;
    let documents = serde_json::to_vec(&[(); 3].map(|()| document(true))).unwrap();
    let client = JobsClient::connect(url.to_owned()).await.unwrap();
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let (mut client, documents) = (client.clone(), documents.clone());
        tasks.spawn(async move {
            for number in (first..submissions).step_by(AT_ONCE) {
                let idempotency_key = format!("filling-{number}");
                client.submit(SubmitRequest { documents: documents.clone().into(), idempotency_key }).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

fn document(forbidden: bool) -> serde_json::Value {
    let name = if forbidden { "forbidden" } else { "build" };
    serde_json::json!({ "job": { "name": name }, "project": { "path": "acme/api" }, "payload": { "forbidden": forbidden } })
}

async fn submit(url: &str, request: SubmitRequest) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let mut jobs = JobsClient::connect(url.to_owned()).await?;
    let answer = timeout(Duration::from_secs(30), jobs.submit(request)).await??;
    Ok(answer.into_inner().jobs.into_iter().map(|job| job.id).collect())
}

/// A job of a runner.
struct Work {
    /// Steps of this runner until it is done; `None` when it is, and the result waits to be recorded.
    left: Option<u32>,
    started: bool,
}

struct Runner {
    number: usize,
    ledger: Arc<Ledger>,
    work: HashMap<(String, u64), Work>,
    dice: SmallRng,
}

/// Attaches again whenever its stream breaks, with what it has; works on each job for a few of its own steps.
pub async fn runner(mut peers: Peers, number: usize, seed: u64) {
    let dice = SmallRng::seed_from_u64(seed.wrapping_mul(31) + number as u64);
    let mut runner = Runner { number, ledger: peers.ledger.clone(), work: HashMap::new(), dice };
    let mut failed = String::new();
    loop {
        let url = peers.next_url(&failed).await;
        // However it ended: it attaches again.
        let _ = runner.serve(&url).await;
        failed = url;
    }
}

impl Runner {
    async fn serve(&mut self, url: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut gateway = RunnerGatewayClient::connect(url.to_owned()).await?;
        let (out, outgoing) = mpsc::channel(1024);
        say(&out, runner_message::Message::Hello(self.hello())).await?;
        let mut request = Request::new(ReceiverStream::new(outgoing));
        request.metadata_mut().insert("x-jobgate-runner", format!("r{}", self.number).parse()?);
        let mut incoming: Streaming<_> = gateway.attach(request).await?.into_inner();
        let mut heartbeat = interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                message = incoming.message() => {
                    let Some(message) = message?.and_then(|message| message.message) else { return Ok(()) };
                    self.hear(message, &out).await?;
                }
                _ = heartbeat.tick() => {
                    say(&out, runner_message::Message::Heartbeat(Heartbeat { leases: self.leases() })).await?;
                }
            }
        }
    }

    fn hello(&self) -> Hello {
        Hello { system_id: format!("s{}", self.number), capacity: CAPACITY, leases: self.leases(), ..Hello::default() }
    }

    fn leases(&self) -> Vec<HeldLease> {
        let held = self.work.iter().filter(|(_, work)| work.left.is_some());
        held.map(|((job, lease), work)| HeldLease { job_id: job.clone(), lease: *lease, started: work.started })
            .collect()
    }

    async fn hear(&mut self, message: Message, out: &mpsc::Sender<RunnerMessage>) -> Result<(), Status> {
        match message {
            Message::Welcome(_) => {
                // Results that nobody recorded are told again.
                for (job, lease) in self.done() {
                    self.finish(&job, lease, out).await?;
                }
                let free = CAPACITY.saturating_sub(self.work.len() as u32);
                if free > 0 {
                    say(out, runner_message::Message::Credit(Credit { slots: free })).await?;
                }
            }
            Message::Assign(assign) => {
                let forbidden = std::str::from_utf8(&assign.document).unwrap().contains("\"forbidden\":true");
                self.ledger.assigned(&assign.job_id, self.number, assign.lease, forbidden);
                let (job_id, lease) = (assign.job_id, assign.lease);
                // Before anything is said, which fails when the router is dead by now: it has the job all the same.
                let left = Some(self.dice.random_range(0..4));
                self.work.insert((job_id.clone(), lease), Work { left, started: false });
                say(out, runner_message::Message::Accept(Accept { job_id, lease })).await?;
            }
            Message::Cancel(cancel) => {
                self.ledger.released(&cancel.job_id, self.number, cancel.lease);
                if self.work.remove(&(cancel.job_id, cancel.lease)).is_some() {
                    say(out, runner_message::Message::Credit(Credit { slots: 1 })).await?;
                }
            }
            Message::Recorded(recorded) => {
                let known = self.work.remove(&(recorded.job_id, recorded.lease)).is_some();
                if known {
                    say(out, runner_message::Message::Credit(Credit { slots: 1 })).await?;
                }
            }
            _ => {}
        }
        self.step(out).await
    }

    fn done(&self) -> Vec<(String, u64)> {
        self.work.iter().filter(|(_, work)| work.left.is_none()).map(|(key, _)| key.clone()).collect()
    }

    /// Goes on with everything it has by one step.
    async fn step(&mut self, out: &mpsc::Sender<RunnerMessage>) -> Result<(), Status> {
        let mut ended = Vec::new();
        for ((job, lease), work) in &mut self.work {
            let Some(left) = &mut work.left else { continue };
            if !std::mem::replace(&mut work.started, true) {
                let started = Started { job_id: job.clone(), lease: *lease };
                say(out, runner_message::Message::Started(started)).await?;
            }
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => ended.push((job.clone(), *lease)),
            }
        }
        for (job, lease) in ended {
            if let Some(work) = self.work.get_mut(&(job.clone(), lease)) {
                work.left = None;
            }
            self.ledger.released(&job, self.number, lease);
            self.finish(&job, lease, out).await?;
        }
        Ok(())
    }

    async fn finish(&self, job: &str, lease: u64, out: &mpsc::Sender<RunnerMessage>) -> Result<(), Status> {
        let finished = Finished {
            job_id: job.to_owned(),
            lease,
            outcome: Outcome::Success.into(),
            exit_code: Some(0),
            reason: String::new(),
        };
        say(out, runner_message::Message::Finished(finished)).await
    }
}

async fn say(out: &mpsc::Sender<RunnerMessage>, message: runner_message::Message) -> Result<(), Status> {
    let message = RunnerMessage { message: Some(message) };
    out.send(message).await.map_err(|_| Status::unavailable("the stream is gone"))
}
