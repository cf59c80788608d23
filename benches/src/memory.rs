//! Memory: of waiting jobs, of idle runners, and what these cost while nothing happens.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use jobgate_proto::runner::v1::{
    Credit, Heartbeat, Hello, RunnerMessage, runner_gateway_client::RunnerGatewayClient, runner_message,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig},
};

use crate::{
    Result, child,
    echo::{
        EchoClient, Payload, nodelay,
        wire::echo_server::{Echo, EchoServer},
    },
    measure::{Effort, used},
    recovery,
    site::{RUNNER, Setup, Site, resident, with_token},
    table::{self, Row},
};

const HEARTBEAT: Duration = Duration::from_secs(5);
/// Processes that hold runners: none of them may have more descriptors than the system allows.
const HOLDERS: usize = 2;

pub(crate) async fn rows(effort: Effort) -> Result<Vec<Row>> {
    let smoke = effort == Effort::Smoke;
    let mut rows = Vec::new();
    let counts: &[u64] = if smoke { &[640] } else { &[200_000, 1_000_000] };
    for count in counts {
        rows.push(waiting(*count, effort).await?);
    }
    let runners = if smoke { 20 } else { 10_000 };
    for tls in [false, true] {
        rows.extend(tokio::task::spawn_blocking(move || idle(runners, tls, effort)).await??);
    }
    Ok(rows)
}

/// Memory of a waiting job whose document is on the disk.
async fn waiting(count: u64, effort: Effort) -> Result<Row> {
    let site = Site::start(Setup::default())?;
    let router = site.router.id();
    // The first jobs pay for what all of them use: pages of the index, the decisions made last.
    recovery::fill(&site, if effort == Effort::Smoke { 640 } else { 32_000 }).await?;
    let before = settled(router, effort).await?;
    recovery::fill(&site, count).await?;
    let after = settled(router, effort).await?;
    let each = (after - before) / count as f64;
    let what = format!("memory of a waiting job, 2 KiB document, {count} waiting");
    Ok(Row::against(what, None, table::bytes(each), "≤ 1 KiB", each <= 1024.0))
}

/// Resident memory when it has not grown for a while, and a checkpoint is over.
async fn settled(process: u32, effort: Effort) -> Result<f64> {
    let pause = Duration::from_secs(if effort == Effort::Smoke { 1 } else { 8 });
    tokio::time::sleep(pause).await;
    resident(process)
}

/// Memory and processor time of a router that holds idle runners, beside a bare server that holds as many streams.
fn idle(runners: usize, tls: bool, effort: Effort) -> Result<Vec<Row>> {
    let site = Site::start(Setup { tls, ..Setup::default() })?;
    let ca = site.path("cert.pem").display().to_string();
    let key = site.path("key.pem").display().to_string();
    let url = |said: &str| match tls {
        true => format!("https://localhost:{}", said.rsplit(':').next().unwrap_or_default()),
        false => format!("http://{said}"),
    };
    let pair: &[&str] = if tls { &[&ca, &key] } else { &[] };
    let bare = child::Server::start("bare-streams", pair)?;
    let floor = held("bare", &url(&bare.said), bare.id(), runners, &site, tls)?;
    let (floor_memory, floor_times) = (floor.memory, times(bare.id(), &site, effort)?);
    drop(floor);
    drop(bare);

    let router = site.router.id();
    let ours = held("runners", &url(&site.router.said), router, runners, &site, tls)?;
    let all = resident(router)?;
    let times = times(router, &site, effort)?;
    let how = if tls { "TLS" } else { "plain" };
    let most = if tls { 80e3 } else { 64e3 };
    let each = ours.memory;
    let what = format!("memory of an idle attached runner, {runners} held, {how}");
    let most_text = format!("≤ {}", table::bytes(most));
    let row = Row::against(what, Some(table::bytes(floor_memory)), table::bytes(each), most_text, each <= most);
    let percent = |what: &str, floor: f64, used: f64| {
        let what = format!("a core's time while {runners} runners are idle, {how}, {what}");
        let row = Row::against(what, Some(format!("{floor:.2} %")), format!("{used:.2} %"), "< 1 %", used < 1.0);
        if floor > 0.0 { row.ratio(used / floor) } else { row }
    };
    let what = format!("memory of the router with {runners} idle runners, {how}");
    Ok(vec![
        row.ratio(each / floor_memory),
        Row::against(what, None, table::bytes(all), "< 1 GB", all < 1e9),
        percent("no heartbeats due", floor_times.0, times.0),
        percent("heartbeats every 5 s, each answered", floor_times.1, times.1),
    ])
}

/// What a process takes of a core, in percent, while its streams are quiet and while they beat.
fn times(process: u32, site: &Site, effort: Effort) -> Result<(f64, f64)> {
    let smoke = effort == Effort::Smoke;
    let cpu = |seconds: u64| {
        let (before, begun) = (used(&process.to_string()), Instant::now());
        std::thread::sleep(Duration::from_secs(seconds));
        (used(&process.to_string()) - before) / begun.elapsed().as_secs_f64() / 1e4
    };
    std::fs::write(site.path("quiet"), "")?;
    // What was on its way arrives.
    std::thread::sleep(Duration::from_millis(500));
    let quiet = cpu(if smoke { 1 } else { 10 });
    std::fs::remove_file(site.path("quiet"))?;
    std::thread::sleep(Duration::from_millis(500));
    Ok((quiet, cpu(if smoke { 5 } else { 30 })))
}

pub(crate) struct Holding {
    /// Of the server, for each stream.
    memory: f64,
    _holders: Vec<child::Server>,
}

/// Has streams held, and tells what each costs the server.
pub(crate) fn held(kind: &str, url: &str, server: u32, count: usize, site: &Site, tls: bool) -> Result<Holding> {
    let before = resident(server)?;
    let (quiet, ca) = (site.path("quiet").display().to_string(), site.path("cert.pem").display().to_string());
    let each = (count / HOLDERS).to_string();
    let mut holders = Vec::new();
    for holder in 0..HOLDERS {
        let name = format!("h{holder}");
        let mut args = vec![kind, url, &each, &name, &quiet];
        if tls {
            args.push(&ca);
        }
        holders.push(child::Server::start("holder", &args)?);
    }
    std::thread::sleep(Duration::from_millis(500));
    Ok(Holding { memory: (resident(server)? - before) / count as f64, _holders: holders })
}

/// Role `holder`: holds so many streams, each on a connection of its own.
pub(crate) async fn hold(args: &[String]) -> Result<()> {
    let (kind, url, count, name, quiet, ca) = match args {
        [kind, url, count, name, quiet] => (kind, url, count, name, quiet, None),
        [kind, url, count, name, quiet, ca] => (kind, url, count, name, quiet, Some(std::fs::read(ca)?)),
        _ => return Err("a holder needs to know what to hold".into()),
    };
    let count: usize = count.parse()?;
    let mut endpoint = Endpoint::from_shared(url.clone())?.tcp_nodelay(true);
    if let Some(ca) = ca {
        endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)))?;
    }
    for number in 0..count {
        let channel = endpoint.connect().await?;
        if kind == "bare" {
            bare_stream(channel, Path::new(quiet).into()).await?;
        } else {
            runner(channel, format!("{name}-{number}"), Path::new(quiet).into()).await?;
        }
    }
    child::ready("holding");
    std::future::pending().await
}

async fn bare_stream(channel: Channel, quiet: Box<Path>) -> Result<()> {
    let (outgoing, queue) = mpsc::channel(4);
    let mut stream = EchoClient::new(channel).open(ReceiverStream::new(queue)).await?.into_inner();
    stream.message().await?.ok_or("a bare stream without a message")?;
    tokio::spawn(async move {
        let mut heartbeats = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            tokio::select! {
                message = stream.message() => if !matches!(message, Ok(Some(_))) { return },
                _ = heartbeats.tick() => if !quiet.exists() && outgoing.send(Payload::default()).await.is_err() {
                    return;
                },
            }
        }
    });
    Ok(())
}

async fn runner(channel: Channel, system_id: String, quiet: Box<Path>) -> Result<()> {
    let (outgoing, queue) = mpsc::channel(4);
    let say = |message| RunnerMessage { message: Some(message) };
    let hello = Hello { system_id, capacity: 1, ..Hello::default() };
    outgoing.send(say(runner_message::Message::Hello(hello))).await?;
    outgoing.send(say(runner_message::Message::Credit(Credit { slots: 1 }))).await?;
    let request = with_token(ReceiverStream::new(queue), RUNNER)?;
    let mut incoming = RunnerGatewayClient::new(channel).attach(request).await?.into_inner();
    incoming.message().await?.ok_or("a runner was not welcomed")?;
    tokio::spawn(async move {
        let mut heartbeats = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            tokio::select! {
                message = incoming.message() => if !matches!(message, Ok(Some(_))) { return },
                _ = heartbeats.tick() => if !quiet.exists() {
                    let message = say(runner_message::Message::Heartbeat(Heartbeat::default()));
                    if outgoing.send(message).await.is_err() {
                        return;
                    }
                },
            }
        }
    });
    Ok(())
}

/// Role `bare-streams`: a server that holds streams, and sends one message on each.
pub(crate) async fn bare(tls: &[String]) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut server = Server::builder();
    if let [cert, key] = tls {
        let identity = Identity::from_pem(std::fs::read(cert)?, std::fs::read(key)?);
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    child::ready(listener.local_addr()?);
    let server = server.add_service(EchoServer::new(Holder));
    Ok(server.serve_with_incoming(TcpListenerStream::new(listener).map(nodelay)).await?)
}

struct Holder;

#[tonic::async_trait]
impl Echo for Holder {
    type OpenStream = ReceiverStream<std::result::Result<Payload, Status>>;

    async fn unary(&self, request: Request<Payload>) -> std::result::Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn open(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> std::result::Result<Response<Self::OpenStream>, Status> {
        let (outgoing, queue) = mpsc::channel(64);
        let mut incoming = request.into_inner();
        let _ = outgoing.send(Ok(Payload::default())).await;
        tokio::spawn(async move {
            while let Ok(Some(beat)) = incoming.message().await {
                if outgoing.send(Ok(beat)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}
