use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use jobgate_proto::admission::v1::{
    ControllerMessage, Draining, Hello, Welcome, admission_tunnel_server::SERVICE_NAME, controller_message,
    router_message,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Body as HttpBody, BoxFuture, Service, StdError},
    server::{Grpc, NamedService, StreamingService},
};

use super::{
    Attached, LARGEST_ANSWER, LARGEST_QUESTION,
    attached::{Instance, Outgoing},
    word::{Word, WordCodec},
};
use crate::config::Secret;

/// Time for the first message of a stream.
const HELLO: Duration = Duration::from_secs(10);
/// Open questions of a controller that does not say how many it takes.
const ROOM: usize = 64;
/// Most open questions at one instance.
const MOST_ROOM: usize = 4096;
/// Messages of a stream that are taken in without looking at anything else.
const BURST: usize = 64;

/// The service that controllers attach to.
#[derive(Clone)]
pub(crate) struct Tunnels {
    controllers: Arc<watch::Sender<Slots>>,
    closing: watch::Receiver<bool>,
    late: OnLate,
}

type Slots = HashMap<Arc<str>, Slot>;

/// Hears of every answer, by its controller, that no open question takes.
type OnLate = Arc<dyn Fn(&Arc<str>) + Send + Sync>;

/// A controller that may attach.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) token: Secret,
    pub(crate) scope: String,
    pub(crate) dry_run: bool,
    pub(crate) controller: Arc<Attached>,
}

impl Tunnels {
    /// Streams end when `closing` says so; `late` hears of every answer that no open question takes.
    pub(crate) fn new(slots: Slots, closing: watch::Receiver<bool>, late: OnLate) -> Self {
        Self { controllers: Arc::new(watch::Sender::new(slots)), closing, late }
    }

    /// The controllers that may attach are others from now on. Streams of those that may not any more end.
    pub(crate) fn replace(&self, slots: Slots) {
        self.controllers.send_replace(slots);
    }

    /// The gRPC service, with its limits.
    pub(crate) fn service(self) -> TunnelService {
        TunnelService(self)
    }

    /// The controller this token belongs to.
    fn owner(&self, request: &Request<Streaming<ControllerMessage>>) -> Result<(Arc<str>, Slot), Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(|| {
            Status::unauthenticated("attach with the controller's token: `authorization: Bearer <token>`")
        })?;
        // All are compared, so that the time says nothing about which one it was.
        let mut found = None;
        for (name, slot) in self.controllers.borrow().iter() {
            if slot.token.is(token) {
                found = Some((name.clone(), slot.clone()));
            }
        }
        found.ok_or_else(|| Status::unauthenticated("this token belongs to no controller that may attach"))
    }

    /// Whether this controller may still be attached.
    fn is_current(&self, name: &str, controller: &Arc<Attached>) -> bool {
        self.controllers.borrow().get(name).is_some_and(|slot| Arc::ptr_eq(&slot.controller, controller))
    }
}

/// `jobgate.admission.v1.AdmissionTunnel`, as generated code would serve it, but with words that copy nothing.
#[derive(Clone)]
pub(crate) struct TunnelService(Tunnels);

impl NamedService for TunnelService {
    const NAME: &'static str = SERVICE_NAME;
}

impl<B> Service<http::Request<B>> for TunnelService
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let attach = Attach(self.0.clone());
        Box::pin(async move {
            if request.uri().path() != "/jobgate.admission.v1.AdmissionTunnel/Attach" {
                return Ok(Status::unimplemented("AdmissionTunnel has no such method").into_http());
            }
            let mut grpc = Grpc::new(WordCodec)
                .max_decoding_message_size(LARGEST_ANSWER)
                .max_encoding_message_size(LARGEST_QUESTION);
            Ok(grpc.streaming(attach, request).await)
        })
    }
}

struct Attach(Tunnels);

impl StreamingService<ControllerMessage> for Attach {
    type Response = Word;
    type ResponseStream = ReceiverStream<Outgoing>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<ControllerMessage>>) -> Self::Future {
        let tunnels = self.0.clone();
        Box::pin(async move { tunnels.attach(request).await })
    }
}

impl Tunnels {
    async fn attach(
        &self,
        request: Request<Streaming<ControllerMessage>>,
    ) -> Result<Response<ReceiverStream<Outgoing>>, Status> {
        let (name, slot) = self.owner(&request)?;
        if *self.closing.borrow() {
            return Err(Status::unavailable("the router is shutting down"));
        }
        let mut incoming = request.into_inner();
        let hello = first(&mut incoming).await?;
        if hello.controller != *name {
            return Err(Status::permission_denied(format!("this token belongs to controller `{name}`")));
        }
        let room = match hello.max_in_flight as usize {
            0 => ROOM,
            asked => asked.min(MOST_ROOM),
        };
        // As many messages as questions may be open, and some for withdrawals.
        let (outgoing, stream) = mpsc::channel(room + 16);
        let welcome = Welcome {
            router_version: env!("CARGO_PKG_VERSION").to_owned(),
            scope: slot.scope.clone(),
            dry_run: slot.dry_run,
        };
        // Goes out first: the instance is asked nothing before it has joined.
        let _ = outgoing.try_send(Ok(Word::Say(router_message::Message::Welcome(welcome))));
        let version = Some(hello.policy_version).filter(|version| !version.is_empty()).map(Arc::from);
        let instance = slot
            .controller
            .join(outgoing.clone(), room, version)
            .ok_or_else(|| Status::resource_exhausted(format!("controller `{name}` is attached too many times")))?;
        tracing::info!(controller = %name, version = %hello.version, "a controller attached");
        // From here on it hears of changes; one that came before is seen at once.
        let mut slots = self.controllers.subscribe();
        slots.mark_changed();
        let attached = Stream { tunnels: self.clone(), name, controller: slot.controller, instance, outgoing };
        tokio::spawn(attached.run(incoming, slots));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

async fn first(incoming: &mut Streaming<ControllerMessage>) -> Result<Hello, Status> {
    let message = tokio::time::timeout(HELLO, incoming.message()).await;
    let message = message.map_err(|_| Status::invalid_argument("no hello within 10 s"))??;
    match message.and_then(|message| message.message) {
        Some(controller_message::Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message of a stream is Hello")),
    }
}

/// One attached stream, from welcome to end.
struct Stream {
    tunnels: Tunnels,
    name: Arc<str>,
    controller: Arc<Attached>,
    instance: Arc<Instance>,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Stream {
    async fn run(self, mut incoming: Streaming<ControllerMessage>, mut slots: watch::Receiver<Slots>) {
        let mut closing = self.tunnels.closing.clone();
        let (mut open, mut draining) = (true, false);
        while open {
            // Before looking, so that a question that ends in between is not missed.
            let ended = self.instance.question_ended();
            if draining && self.instance.is_idle() {
                break;
            }
            tokio::select! {
                () = ended, if draining => {}
                message = incoming.message() => {
                    open = self.take(message, &mut draining).await;
                    // What came along with it needs no other look around.
                    for _ in 0..BURST {
                        if !open {
                            break;
                        }
                        let Some(message) = incoming.message().now_or_never() else { break };
                        open = self.take(message, &mut draining).await;
                    }
                }
                () = self.outgoing.closed() => open = false,
                Ok(()) = slots.changed() => open = self.is_current().await,
                Ok(()) = closing.changed(), if !draining => {
                    draining = *closing.borrow();
                    if draining {
                        self.instance.drain();
                        let word = Word::Say(router_message::Message::Draining(Draining {}));
                        open = self.outgoing.send(Ok(word)).await.is_ok();
                    }
                }
            }
        }
        self.controller.leave(&self.instance);
        tracing::info!(controller = %self.name, "a controller detached");
    }

    /// Takes in what came; `false` ends the stream.
    async fn take(&self, message: Result<Option<ControllerMessage>, Status>, draining: &mut bool) -> bool {
        match message {
            Ok(Some(ControllerMessage { message: Some(message) })) => self.hear(message, draining).await,
            Ok(Some(ControllerMessage { message: None })) => true,
            Ok(None) | Err(_) => false,
        }
    }

    /// Takes in a message; `false` ends the stream.
    async fn hear(&self, message: controller_message::Message, draining: &mut bool) -> bool {
        match message {
            controller_message::Message::Response(response) => {
                if !self.instance.answer(response) {
                    (self.tunnels.late)(&self.name);
                }
            }
            controller_message::Message::PolicyChanged(changed) => {
                let version = Some(changed.policy_version).filter(|version| !version.is_empty()).map(Arc::from);
                self.controller.policy_changed(&self.instance, version);
            }
            controller_message::Message::Draining(_) => {
                self.instance.drain();
                *draining = true;
            }
            controller_message::Message::Hello(_) => {
                let _ = self.outgoing.send(Err(Status::invalid_argument("a second Hello"))).await;
                return false;
            }
        }
        true
    }

    /// Whether this controller may still be attached; if not it is told to come back as what it is now.
    async fn is_current(&self) -> bool {
        if self.tunnels.is_current(&self.name, &self.controller) {
            return true;
        }
        // Not a refusal: that comes, with its reason, when it attaches again and may not.
        let changed = Status::unavailable("the configuration of this controller changed; attach again");
        let _ = tokio::time::timeout(HELLO, self.outgoing.send(Err(changed))).await;
        false
    }
}
