//! Jobs through a router in a process of its own: how soon a runner has one, and how many go through.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jobgate::Policies;
use jobgate_proto::{
    job::v1::{SubmitRequest, SubmitResponse, jobs_client::JobsClient},
    runner::v1::{
        Accept, Assign, Credit, Finished, GatewayMessage, Hello, Outcome, RunnerMessage, Started, gateway_message,
        runner_gateway_client::RunnerGatewayClient, runner_message,
    },
};
use jobgate_router::{Router, config::Config};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use crate::{
    Result,
    child::{self, Server},
    echo::{self, Bare, EchoClient, Payload},
    fixtures,
    measure::{Effort, Sample, closed_loop, compare, median},
    policies::{decisions, policy},
    table::{self, Row},
};

const RUNNER: &str = "bench-runner-0123456789";
const SUBMITTER: &str = "bench-submitter-0123456789";
/// Jobs of the last measure.
const JOBS: usize = 10_000;
/// Submissions in flight, and slots of the runner, while many jobs go through.
const AT_ONCE: usize = 64;
/// Bytes of the answer to a submission.
const SUBMITTED_BYTES: u64 = 38;

/// Roles `router` and `router-one-thread`: a router of the configuration in this folder, as `jobgate serve` makes it.
pub(crate) async fn route(folder: &str) -> Result<()> {
    let config = Config::load(&Path::new(folder).join("jobgate.yaml")).map_err(|faults| faults.to_string())?;
    let bound = Router::new(config, Arc::new(Policies)).bind().await?;
    child::ready(bound.local_addr());
    Box::pin(bound.serve(std::future::pending())).await?;
    Ok(())
}

/// A router process, its folder, and this process as its submitter and its runner.
struct Site {
    jobs: JobsClient<Channel>,
    runner: NoOp,
    _router: Server,
    _folder: tempfile::TempDir,
}

/// A runner that finishes each job at once.
struct NoOp {
    incoming: Streaming<GatewayMessage>,
    outgoing: mpsc::Sender<RunnerMessage>,
}

impl Site {
    async fn start(role: &str, capacity: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        for level in ["instance", "group", "project"] {
            file(&format!("{level}.yaml"), fixtures::YAML)?;
        }
        file("runner.token", RUNNER)?;
        file("ci.token", SUBMITTER)?;
        file(
            "jobgate.yaml",
            &format!(
                "listen: 127.0.0.1:0
controllers:
  - {{ name: instance, scope: instance, policy: instance.yaml }}
  - {{ name: group, scope: \"group:acme\", policy: group.yaml }}
  - {{ name: project, scope: \"project:{}\", policy: project.yaml }}
runners:
  - {{ name: r1, token_file: runner.token }}
tokens:
  - {{ name: ci, token_file: ci.token, may: [submit, read] }}
",
                fixtures::PROJECT
            ),
        )?;
        let router = Server::start(role, &[&folder.path().display().to_string()])?;
        let jobs = JobsClient::new(echo::connect(&router.url()).await?);
        let runner = NoOp::attach(&router.url(), capacity).await?;
        Ok(Self { jobs, runner, _router: router, _folder: folder })
    }

    /// Submits one job; gives the time until the submission is answered, and until the runner has it. The runner then finishes it.
    async fn deliver(&mut self, document: &Bytes) -> Result<(Duration, Duration)> {
        let Self { jobs, runner, .. } = self;
        let sent = Instant::now();
        let delivered = async {
            let assigned = runner.next().await?;
            Ok::<_, crate::Error>((assigned, sent.elapsed()))
        };
        let submitting = async {
            submit(jobs.clone(), document.clone()).await?;
            Ok::<_, crate::Error>(sent.elapsed())
        };
        let (submitted, delivered) = tokio::join!(submitting, delivered);
        let (answered, (assigned, took)) = (submitted?, delivered?);
        runner.finish(assigned).await?;
        runner.recorded().await?;
        Ok((answered, took))
    }

    /// So many jobs from the first submission to the last result; gives jobs per second.
    async fn run_through(&mut self, count: usize, document: &Bytes) -> Result<f64> {
        let Self { jobs, runner, .. } = self;
        let begun = Instant::now();
        let submitting = closed_loop(AT_ONCE, count, async |_| submit(jobs.clone(), document.clone()).await);
        let running = async {
            let mut recorded = 0;
            while recorded < count {
                match runner.message().await? {
                    gateway_message::Message::Assign(assigned) => runner.finish(assigned).await?,
                    gateway_message::Message::Recorded(_) => recorded += 1,
                    _ => {}
                }
            }
            Ok::<_, crate::Error>(())
        };
        let (submitted, ran) = tokio::join!(submitting, running);
        submitted?;
        ran?;
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }
}

async fn submit(mut jobs: JobsClient<Channel>, documents: Bytes) -> Result<()> {
    let request = SubmitRequest { documents, idempotency_key: String::new() };
    let response: Response<SubmitResponse> = jobs.submit(with_token(request, SUBMITTER)?).await?;
    if response.into_inner().jobs.len() == 1 { Ok(()) } else { Err("not one job was submitted".into()) }
}

fn with_token<T>(message: T, token: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    Ok(request)
}

impl NoOp {
    async fn attach(url: &str, capacity: u32) -> Result<Self> {
        let (outgoing, queue) = mpsc::channel(1024);
        let hello = Hello { system_id: "bench".into(), capacity, ..Hello::default() };
        let say = |message| RunnerMessage { message: Some(message) };
        outgoing.send(say(runner_message::Message::Hello(hello))).await?;
        outgoing.send(say(runner_message::Message::Credit(Credit { slots: capacity }))).await?;
        let mut client = RunnerGatewayClient::new(echo::connect(url).await?);
        let stream: std::result::Result<_, Status> =
            client.attach(with_token(ReceiverStream::new(queue), RUNNER)?).await;
        Ok(Self { incoming: stream?.into_inner(), outgoing })
    }

    async fn message(&mut self) -> Result<gateway_message::Message> {
        loop {
            let message = self.incoming.message().await?.ok_or("the router ended the runner's stream")?;
            if let Some(message) = message.message {
                return Ok(message);
            }
        }
    }

    async fn next(&mut self) -> Result<Assign> {
        loop {
            if let gateway_message::Message::Assign(assigned) = self.message().await? {
                return Ok(assigned);
            }
        }
    }

    async fn recorded(&mut self) -> Result<()> {
        while !matches!(self.message().await?, gateway_message::Message::Recorded(_)) {}
        Ok(())
    }

    async fn finish(&self, assigned: Assign) -> Result<()> {
        use runner_message::Message;
        let Assign { job_id, lease, .. } = assigned;
        let finished = Finished {
            job_id: job_id.clone(),
            lease,
            outcome: Outcome::Success.into(),
            exit_code: Some(0),
            reason: String::new(),
        };
        for message in [
            Message::Accept(Accept { job_id: job_id.clone(), lease }),
            Message::Started(Started { job_id, lease }),
            Message::Finished(finished),
            Message::Credit(Credit { slots: 1 }),
        ] {
            self.outgoing.send(RunnerMessage { message: Some(message) }).await?;
        }
        Ok(())
    }
}

pub(crate) async fn delivery(effort: Effort) -> Result<Vec<Row>> {
    let mut many = Site::start("router", 1).await?;
    let mut one = Site::start("router-one-thread", 1).await?;
    let floor = Server::start("echo", &[])?;
    let unary = EchoClient::new(echo::connect(&floor.url()).await?);
    let (mut stream, _dialler) = Bare::open().await?;
    let policy = policy("eight.yaml", fixtures::YAML)?;
    let (document, question) = (fixtures::document(), fixtures::question());

    let count = effort.calls(1000);
    let (mut pairs, mut answered, mut one_thread) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=effort.rounds() {
        let there_and_back = closed_loop(1, count, async |_| {
            let payload = Payload { number: SUBMITTED_BYTES, body: document.clone() };
            unary.clone().unary(payload).await?;
            Ok(())
        })
        .await?;
        let pushed = stream.bytes.turn(&document, 1, count).await?;
        let decided = 3.0 * decisions(&policy, &question, count).await?.p50;
        let p50 = there_and_back.p50 + pushed.p50 + decided;
        let floor = Sample { p50, rate: 1e6 / p50, cpu: 0.0 };
        let ours = deliveries(&mut many, &document, count).await?;
        let alone = deliveries(&mut one, &document, count).await?;
        if round > 0 {
            pairs.push((floor, ours.1));
            answered.push((there_and_back, ours.0));
            one_thread.push((floor, alone.1));
        }
    }
    let row = |what: &str, pairs: &[_]| {
        let compared = compare(pairs);
        let what = format!("from submitting to the runner having the job, three YAML policies: p50{what}");
        Row::at_most(what, compared.floor.p50, compared.ours.p50, compared.p50_ratio, 1.5)
    };
    let answers = compare(&answered);
    let answered = Row::at_most(
        "of which until the submission is answered, to an echo",
        answers.floor.p50,
        answers.ours.p50,
        answers.p50_ratio,
        1.5,
    );
    Ok(vec![row("", &pairs), answered.beside(), row(", router with one thread", &one_thread).beside()])
}

/// Times until submissions are answered, and until the runner has the job.
async fn deliveries(site: &mut Site, document: &Bytes, count: usize) -> Result<(Sample, Sample)> {
    let begun = Instant::now();
    let (mut answers, mut times) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let (answered, took) = site.deliver(document).await?;
        answers.push(answered);
        times.push(took);
    }
    let all = begun.elapsed();
    Ok((Sample::of(&mut answers, all), Sample::of(&mut times, all)))
}

pub(crate) async fn jobs(effort: Effort) -> Result<Vec<Row>> {
    let document = fixtures::document();
    let (count, rounds) = if effort == Effort::Smoke { (100, 1) } else { (JOBS, 5) };
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (role, rates) in ["router", "router-one-thread"].into_iter().zip(&mut rates) {
            let mut site = Site::start(role, AT_ONCE as u32).await?;
            rates.push(site.run_through(count, &document).await?);
        }
    }
    let rows = ["", ", router with one thread"].into_iter().zip(rates).map(|(what, rates)| Row {
        measure: format!("{count} jobs submitted one by one, decided, run by a no-op runner{what}"),
        floor: "–".into(),
        ours: table::rate(median(rates)),
        ratio: "–".into(),
        target: "–".into(),
        met: None,
    });
    Ok(rows.collect())
}
