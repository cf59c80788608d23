//! The floors: what tonic does at least, both of opaque bytes and of the router's own messages.

use std::collections::HashMap;

use bytes::Bytes;
use jobgate_proto::admission::v1::{
    AdmitRequest, AdmitResponse, Admitted, ControllerMessage, Hello, RouterMessage,
    admission_controller_server::{AdmissionController, AdmissionControllerServer},
    admission_tunnel_client::AdmissionTunnelClient,
    admission_tunnel_server::{AdmissionTunnel, AdmissionTunnelServer},
    admit_response, controller_message, router_message,
};
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

use crate::{Result, child, fixtures, measure::Sample};

pub(crate) mod wire {
    #![allow(
        missing_docs,
        unused_qualifications,
        unreachable_pub,
        clippy::needless_pass_by_value,
        clippy::large_futures,
        reason = "generated"
    )]
    tonic::include_proto!("jobgate.bench");
}

use wire::echo_server::{Echo, EchoServer};
pub(crate) use wire::{Payload, echo_client::EchoClient};

/// Streams hold so many messages; more than are ever in flight.
const ROOM: usize = 256;

/// What a question is answered with, at least.
pub(crate) fn admitted(id: String) -> AdmitResponse {
    let verdict = Some(admit_response::Verdict::Admitted(Admitted::default()));
    AdmitResponse { id, policy_version: String::new(), verdict }
}

pub(crate) async fn connect(url: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect().await?)
}

/// Role `echo`: both unary floors.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    child::ready(listener.local_addr()?);
    let services =
        Server::builder().add_service(EchoServer::new(Unary)).add_service(AdmissionControllerServer::new(Unary));
    Ok(services.serve_with_incoming(TcpListenerStream::new(listener).map(nodelay)).await?)
}

pub(crate) fn nodelay(stream: std::io::Result<tokio::net::TcpStream>) -> std::io::Result<tokio::net::TcpStream> {
    let stream = stream?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Unary;

#[tonic::async_trait]
impl Echo for Unary {
    type OpenStream = ReceiverStream<std::result::Result<Payload, Status>>;

    /// Answers as many bytes as the number says, of those that came.
    async fn unary(&self, request: Request<Payload>) -> std::result::Result<Response<Payload>, Status> {
        let Payload { number, body } = request.into_inner();
        let most = usize::try_from(number).unwrap_or(usize::MAX).min(body.len());
        Ok(Response::new(Payload { number, body: body.slice(..most) }))
    }

    async fn open(&self, _: Request<Streaming<Payload>>) -> std::result::Result<Response<Self::OpenStream>, Status> {
        Err(Status::unimplemented("the other side opens streams"))
    }
}

#[tonic::async_trait]
impl AdmissionController for Unary {
    async fn admit(&self, request: Request<AdmitRequest>) -> std::result::Result<Response<AdmitResponse>, Status> {
        Ok(Response::new(admitted(request.into_inner().id)))
    }
}

/// Role `echo-dial`: both floors of streams. It dials, as an attached controller does, and spawns a task for each message.
pub(crate) async fn dial(url: &str) -> Result<()> {
    let (opaque, messages) = (connect(url).await?, connect(url).await?);
    child::ready("dialled");
    let opaque = tokio::spawn(answer_bytes(opaque));
    answer_messages(messages).await?;
    opaque.await?
}

async fn answer_bytes(channel: Channel) -> Result<()> {
    let (answers, queue) = mpsc::channel(ROOM);
    let mut incoming = EchoClient::new(channel).open(ReceiverStream::new(queue)).await?.into_inner();
    while let Some(Payload { number, body }) = incoming.message().await? {
        let answers = answers.clone();
        tokio::spawn(async move {
            let body = body.slice(..body.len().min(ANSWER_BYTES));
            let _ = answers.send(Payload { number, body }).await;
        });
    }
    Ok(())
}

/// Bytes of an answer beside its number: those of [`admitted`].
pub(crate) const ANSWER_BYTES: usize = 32;

async fn answer_messages(channel: Channel) -> Result<()> {
    let (answers, queue) = mpsc::channel(ROOM);
    let hello = controller_message::Message::Hello(Hello::default());
    answers.send(ControllerMessage { message: Some(hello) }).await?;
    let mut incoming = AdmissionTunnelClient::new(channel).attach(ReceiverStream::new(queue)).await?.into_inner();
    while let Some(message) = incoming.message().await? {
        let Some(router_message::Message::Request(question)) = message.message else { continue };
        let answers = answers.clone();
        tokio::spawn(async move {
            let response = controller_message::Message::Response(admitted(question.id));
            let _ = answers.send(ControllerMessage { message: Some(response) }).await;
        });
    }
    Ok(())
}

type Outgoing<T> = mpsc::Sender<std::result::Result<T, Status>>;

/// This end of the floors' streams.
pub(crate) struct Bare {
    pub(crate) bytes: BareStream<Payload, Payload>,
    pub(crate) messages: BareStream<ControllerMessage, RouterMessage>,
}

pub(crate) struct BareStream<I, O> {
    incoming: Streaming<I>,
    outgoing: Outgoing<O>,
}

/// Takes streams in, and hands them out.
#[derive(Clone)]
struct Door {
    bytes: mpsc::Sender<BareStream<Payload, Payload>>,
    messages: mpsc::Sender<BareStream<ControllerMessage, RouterMessage>>,
}

impl Bare {
    /// Serves the streams' floor here, where the router would be, and starts who dials.
    pub(crate) async fn open() -> Result<(Self, child::Server)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (bytes, mut bytes_in) = mpsc::channel(1);
        let (messages, mut messages_in) = mpsc::channel(1);
        let door = Door { bytes, messages };
        let server =
            Server::builder().add_service(EchoServer::new(door.clone())).add_service(AdmissionTunnelServer::new(door));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener).map(nodelay)));
        let child = tokio::task::spawn_blocking(move || child::Server::start("echo-dial", &[&url])).await??;
        let bytes = bytes_in.recv().await.ok_or("no stream of bytes")?;
        let messages = messages_in.recv().await.ok_or("no stream of messages")?;
        Ok((Self { bytes, messages }, child))
    }
}

#[tonic::async_trait]
impl Echo for Door {
    type OpenStream = ReceiverStream<std::result::Result<Payload, Status>>;

    async fn unary(&self, _: Request<Payload>) -> std::result::Result<Response<Payload>, Status> {
        Err(Status::unimplemented("only streams here"))
    }

    async fn open(
        &self,
        request: Request<Streaming<Payload>>,
    ) -> std::result::Result<Response<Self::OpenStream>, Status> {
        let (outgoing, queue) = mpsc::channel(ROOM);
        let _ = self.bytes.send(BareStream { incoming: request.into_inner(), outgoing }).await;
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

#[tonic::async_trait]
impl AdmissionTunnel for Door {
    type AttachStream = ReceiverStream<std::result::Result<RouterMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<ControllerMessage>>,
    ) -> std::result::Result<Response<Self::AttachStream>, Status> {
        let mut incoming = request.into_inner();
        incoming.message().await?;
        let (outgoing, queue) = mpsc::channel(ROOM);
        let _ = self.messages.send(BareStream { incoming, outgoing }).await;
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

impl BareStream<Payload, Payload> {
    /// So many messages there and back, so many at once, over the one stream.
    pub(crate) async fn turn(&mut self, body: &Bytes, in_flight: usize, calls: usize) -> Result<Sample> {
        let send = |number| Payload { number, body: body.clone() };
        closed_loop(self, in_flight, calls, send, |answer| Some(answer.number)).await
    }

    /// One message there and back.
    pub(crate) async fn once(&mut self, body: &Bytes) -> Result<()> {
        self.outgoing.send(Ok(Payload { number: 0, body: body.clone() })).await?;
        self.incoming.message().await?.ok_or("the floor's stream ended")?;
        Ok(())
    }
}

impl BareStream<ControllerMessage, RouterMessage> {
    /// So many questions there and answers back, so many at once, over the one stream.
    pub(crate) async fn turn(&mut self, question: &AdmitRequest, in_flight: usize, calls: usize) -> Result<Sample> {
        let send = |number| {
            let question = AdmitRequest { id: fixtures::id(number), ..question.clone() };
            RouterMessage { message: Some(router_message::Message::Request(question)) }
        };
        closed_loop(self, in_flight, calls, send, |answer| match answer.message {
            Some(controller_message::Message::Response(answer)) => {
                u64::from_str_radix(answer.id.split_once('/')?.0, 16).ok()
            }
            _ => None,
        })
        .await
    }
}

async fn closed_loop<I, O: Send + Sync + 'static>(
    stream: &mut BareStream<I, O>,
    in_flight: usize,
    calls: usize,
    message: impl Fn(u64) -> O,
    number: impl Fn(I) -> Option<u64>,
) -> Result<Sample> {
    let begun = Instant::now();
    let mut open = HashMap::with_capacity(in_flight);
    let mut times = Vec::with_capacity(calls);
    let mut next = 0;
    while times.len() < calls {
        while open.len() < in_flight && next < calls as u64 {
            open.insert(next, Instant::now());
            stream.outgoing.send(Ok(message(next))).await?;
            next += 1;
        }
        let answer = stream.incoming.message().await?.ok_or("the floor's stream ended")?;
        let sent = number(answer).and_then(|number| open.remove(&number)).ok_or("an answer to nothing")?;
        times.push(sent.elapsed());
    }
    Ok(Sample::of(&mut times, begun.elapsed()))
}
