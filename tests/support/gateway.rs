//! A router's end of the runner stream that does exactly what a test says, also what a router never should.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use jobgate::{
    connection::Connection,
    runner::{Runner, RunnerError, Shutdown},
    token::Token,
};
use jobgate_proto::runner::v1::{
    Assign, Cancel, Finished, GatewayMessage, Heartbeat, Hello, Outcome, Recorded, RunnerMessage, Welcome,
    gateway_message::Message as ToRunner,
    runner_gateway_server::{RunnerGateway, RunnerGatewayServer},
    runner_message::Message as FromRunner,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub const TOKEN: &str = "s3cret-runner-token";

/// Everything a test waits for comes within this, or never.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it should have come long ago")
}

pub struct Gateway {
    url: String,
    peers: mpsc::Receiver<Peer>,
    /// Refuses the next attachments, last first.
    pub refusals: Arc<Mutex<Vec<Status>>>,
}

/// One attached stream.
pub struct Peer {
    pub hello: Hello,
    from: Streaming<RunnerMessage>,
    to: mpsc::Sender<Result<GatewayMessage, Status>>,
}

/// A runner in the background.
pub struct Running {
    pub shutdown: watch::Sender<Shutdown>,
    pub task: JoinHandle<Result<(), RunnerError>>,
    pub scratch: tempfile::TempDir,
}

struct Service {
    peers: mpsc::Sender<Peer>,
    refusals: Arc<Mutex<Vec<Status>>>,
}

#[tonic::async_trait]
impl RunnerGateway for Service {
    type AttachStream = ReceiverStream<Result<GatewayMessage, Status>>;

    async fn attach(&self, request: Request<Streaming<RunnerMessage>>) -> Result<Response<Self::AttachStream>, Status> {
        if request.metadata().get("authorization").is_none_or(|value| value != format!("Bearer {TOKEN}").as_str()) {
            return Err(Status::unauthenticated("unknown token"));
        }
        if let Some(status) = self.refusals.lock().unwrap().pop() {
            return Err(status);
        }
        let mut from = request.into_inner();
        let first = from.message().await?.and_then(|first| first.message);
        let Some(FromRunner::Hello(hello)) = first else { panic!("no hello first: {first:?}") };
        let (to, messages) = mpsc::channel(64);
        self.peers.send(Peer { hello, from, to }).await.map_err(|_| Status::unavailable("test over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Gateway {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, peers) = mpsc::channel(8);
        let refusals = Arc::<Mutex<Vec<Status>>>::default();
        let service = RunnerGatewayServer::new(Service { peers: sender, refusals: Arc::clone(&refusals) });
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self { url, peers, refusals }
    }

    pub fn connection(&self) -> Connection {
        Connection::new(&self.url).unwrap().token(Token::new(TOKEN).unwrap(), false).unwrap()
    }

    pub fn run(&self, capacity: u32) -> Running {
        self.run_as(|runner| runner.capacity(capacity))
    }

    pub fn run_as(&self, change: impl FnOnce(Runner) -> Runner) -> Running {
        let scratch = tempfile::tempdir().unwrap();
        let (shutdown, told) = watch::channel(Shutdown::Not);
        let runner = change(Runner::new(self.connection(), "shell-1")).scratch(scratch.path());
        Running { shutdown, task: tokio::spawn(runner.run(told)), scratch }
    }

    /// The next attachment, not welcomed yet.
    pub async fn attachment(&mut self) -> Peer {
        soon(self.peers.recv()).await.unwrap()
    }

    /// The next attachment, welcomed.
    pub async fn peer(&mut self) -> Peer {
        self.peer_with(Duration::from_secs(30)).await
    }

    pub async fn peer_with(&mut self, silence_limit: Duration) -> Peer {
        let peer = self.attachment().await;
        peer.welcome("shell-1", silence_limit).await;
        peer
    }
}

impl Peer {
    pub async fn welcome(&self, runner: &str, silence_limit: Duration) {
        self.say(ToRunner::Welcome(Welcome {
            runner: runner.to_owned(),
            router_version: "test".to_owned(),
            heartbeat_interval: Some(Duration::from_millis(200).try_into().unwrap()),
            silence_limit: Some(silence_limit.try_into().unwrap()),
        }))
        .await;
    }

    pub async fn say(&self, message: ToRunner) {
        soon(self.to.send(Ok(GatewayMessage { message: Some(message) }))).await.unwrap();
    }

    pub async fn end_with(self, status: Status) {
        soon(self.to.send(Err(status))).await.unwrap();
    }

    pub async fn assign(&self, job_id: &str, lease: u64, document: impl Into<String>) {
        self.assign_under(None, job_id, lease, document).await;
    }

    /// Under a leadership of this number.
    pub async fn assign_under(&self, fence: Option<u64>, job_id: &str, lease: u64, document: impl Into<String>) {
        let document = document.into().into();
        let assign = Assign { job_id: job_id.to_owned(), lease, document, timeout: None, fence };
        self.say(ToRunner::Assign(assign)).await;
    }

    /// A native document of these lines.
    pub async fn run(&self, job_id: &str, lease: u64, lines: &[&str]) {
        let document = serde_json::json!({"job": {"name": job_id}, "payload": {"script": lines}});
        self.assign(job_id, lease, document.to_string()).await;
    }

    pub async fn cancel(&self, job_id: &str, lease: u64) {
        self.say(ToRunner::Cancel(Cancel { job_id: job_id.to_owned(), lease, reason: "test".to_owned() })).await;
    }

    pub async fn record(&self, job_id: &str, lease: u64) {
        self.say(ToRunner::Recorded(Recorded { job_id: job_id.to_owned(), lease })).await;
    }

    pub async fn alive(&self) {
        self.say(ToRunner::Heartbeat(Heartbeat::default())).await;
    }

    /// The next message; `None` when the runner ended the stream.
    pub async fn any(&mut self) -> Option<FromRunner> {
        soon(self.from.message()).await.ok().flatten().and_then(|message| message.message)
    }

    /// The next message that is no heartbeat.
    pub async fn next(&mut self) -> FromRunner {
        loop {
            match self.any().await.expect("the runner ended the stream") {
                FromRunner::Heartbeat(_) => {}
                message => return message,
            }
        }
    }

    pub async fn credit(&mut self) -> u32 {
        match self.next().await {
            FromRunner::Credit(credit) => credit.slots,
            other => panic!("no credit: {other:?}"),
        }
    }

    pub async fn started(&mut self) {
        match (self.next().await, self.next().await) {
            (FromRunner::Accept(_), FromRunner::Started(_)) => {}
            other => panic!("not accepted and started: {other:?}"),
        }
    }

    /// Everything printed until the next result, and the result.
    pub async fn result(&mut self) -> (String, Finished) {
        let mut output = Vec::new();
        loop {
            match self.next().await {
                FromRunner::Output(piece) => {
                    assert!(piece.data.len() <= 64 * 1024, "a piece of {} bytes", piece.data.len());
                    output.extend(piece.data);
                }
                FromRunner::Finished(finished) => return (String::from_utf8_lossy(&output).into_owned(), finished),
                FromRunner::Accept(_) | FromRunner::Started(_) => {}
                other => panic!("no result: {other:?}"),
            }
        }
    }

    /// Waits until the job has printed `mark`.
    pub async fn printed(&mut self, mark: &str) -> String {
        let mut output = String::new();
        while !output.contains(mark) {
            if let FromRunner::Output(piece) = self.next().await {
                output.push_str(&String::from_utf8_lossy(&piece.data));
            }
        }
        output
    }

    /// Runs lines to their end.
    pub async fn outcome(&mut self, lines: &[&str]) -> (String, Finished) {
        self.run("job", 1, lines).await;
        let result = self.result().await;
        self.record("job", 1).await;
        result
    }
}

impl Running {
    /// What is in the scratch directory.
    pub fn left_behind(&self) -> usize {
        std::fs::read_dir(self.scratch.path()).unwrap().count()
    }

    pub async fn stopped(self) -> Result<(), RunnerError> {
        soon(self.task).await.unwrap()
    }
}

pub fn is(finished: &Finished, outcome: Outcome) -> bool {
    finished.outcome == i32::from(outcome)
}
