use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jobgate_proto::admission::v1::{
    ControllerMessage, Draining, Hello, PolicyChanged, RouterMessage, Welcome,
    admission_tunnel_client::AdmissionTunnelClient, controller_message::Message, router_message::Message as FromRouter,
};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request, Status, Streaming, transport::Endpoint};

use crate::{
    AdmissionRequest, ClientTls, Serve, ServeError, Token, TokenError,
    desk::{Desk, Room},
    error::chain,
    link::Link,
    serve::{PolicyVersion, Shutdown},
};

/// How long a question may be on its way to us after the router was told that we drain.
const LINGER: Duration = Duration::from_millis(250);
/// How long the router may take to close its side after we closed ours.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One connection to a router.
pub(crate) struct Tunnel {
    router: String,
    incoming: Streaming<RouterMessage>,
    outgoing: mpsc::Sender<ControllerMessage>,
    policy_version: Option<PolicyVersion>,
    link: Link,
    open: Open,
}

/// A question for which there is no room yet, and when it came.
type Waiting = (AdmissionRequest, Instant);

/// How a connection ended when nothing was wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    ShutDown,
    RouterDrained,
}

impl Tunnel {
    /// Connects and says hello.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        tls: &ClientTls,
        token: &Token,
        serve: &Serve,
        router: &str,
    ) -> Result<Self, ServeError> {
        let unreachable = |source| ServeError::Unreachable { router: router.to_owned(), source: Box::new(source) };
        let header = token.read().await?.header();
        let authorization = header.ok_or_else(|| TokenError::Unusable { origin: "its source".into() })?;
        let endpoint = match endpoint.uri().scheme_str() {
            Some("https") => endpoint.clone().tls_config(tls.config()?).map_err(unreachable)?,
            _ => endpoint.clone(),
        };
        let channel = endpoint.connect().await.map_err(unreachable)?;

        let mut policy_version = serve.policy_version.clone();
        let hello = Hello {
            controller: serve.name.clone(),
            version: serve.version.clone(),
            policy_version: policy_version.0.borrow_and_update().clone(),
            max_in_flight: u32::try_from(serve.max_in_flight).unwrap_or(u32::MAX),
        };
        // One place for each answer, and some for what is not an answer, so that a question's task never waits here long.
        let (outgoing, queue) = mpsc::channel(serve.max_in_flight + 8);
        // The queue was just made with room for it.
        let _ = outgoing.try_send(ControllerMessage { message: Some(Message::Hello(hello)) });
        let mut request = Request::new(ReceiverStream::new(queue));
        request.metadata_mut().insert("authorization", authorization);
        let mut client = AdmissionTunnelClient::new(channel).max_decoding_message_size(serve.max_request_bytes);
        let incoming = client.attach(request).await.map_err(|status| fault(router, &status))?.into_inner();
        let (link, open) = (Link::default(), Open::new(serve.max_in_flight));
        Ok(Self { router: router.to_owned(), incoming, outgoing, policy_version: Some(policy_version), link, open })
    }

    /// Waits for the router's welcome.
    pub(crate) async fn welcome(&mut self, limit: Duration) -> Result<Welcome, ServeError> {
        let message = timeout(limit, self.incoming.message()).await.map_err(|_| self.breach("did not say welcome"))?;
        let message = message.map_err(|status| fault(&self.router, &status))?;
        let message = message.ok_or_else(|| self.lost("it closed the stream in place of a welcome"))?;
        self.link.receive(message.message.as_ref()).map_err(|breach| self.breach(breach))?;
        match message.message {
            Some(FromRouter::Welcome(welcome)) => Ok(welcome),
            _ => Err(self.lost("it is draining")),
        }
    }

    /// Answers questions until the connection or the program ends.
    pub(crate) async fn serve(
        mut self,
        desk: &Arc<Desk>,
        drain_limit: Duration,
        shutdown: &mut Shutdown,
    ) -> Result<Closed, ServeError> {
        let mut waiting: Option<Waiting> = None;
        let mut end = Instant::now();
        let mut quiet = Instant::now();
        loop {
            let draining = self.link.is_draining();
            tokio::select! {
                message = self.incoming.message(), if waiting.is_none() => match message {
                    Ok(Some(message)) => waiting = self.receive(desk, message).await?,
                    Ok(None) if draining => return Ok(Closed::ShutDown),
                    Ok(None) if self.link.is_quiet() => return Ok(Closed::RouterDrained),
                    Ok(None) => return Err(self.lost("it closed the stream")),
                    Err(_) if draining && self.open.is_empty() => return Ok(Closed::ShutDown),
                    Err(status) => return Err(fault(&self.router, &status)),
                },
                room = Arc::clone(&desk.permits).acquire_owned(), if waiting.is_some() => {
                    if let (Some((question, received)), Ok(room)) = (waiting.take(), room) {
                        self.open.answer(desk, &self.outgoing, question, received, room);
                    }
                }
                version = changed(self.policy_version.as_mut()) => self.policy_changed(version).await,
                () = &mut *shutdown, if !draining => {
                    if self.link.shut_down() {
                        self.send(Message::Draining(Draining {})).await;
                    }
                    self.open.tasks.close();
                    quiet = Instant::now() + LINGER;
                    end = Instant::now() + drain_limit;
                }
                () = self.open.drained(self.link.is_quiet(), quiet), if draining && waiting.is_none() => {
                    return Ok(self.close().await);
                }
                () = sleep_until(end.into()), if draining => {
                    return Err(ServeError::NotDrained { open: self.open.tasks.len(), limit: drain_limit });
                }
            }
        }
    }

    /// Does what the message says. A question for which there is no room is given back, with the time it came.
    async fn receive(&mut self, desk: &Arc<Desk>, message: RouterMessage) -> Result<Option<Waiting>, ServeError> {
        self.link.receive(message.message.as_ref()).map_err(|breach| self.breach(breach))?;
        match message.message {
            Some(FromRouter::Request(wire)) => {
                let received = Instant::now();
                match (desk.read(wire), Arc::clone(&desk.permits).try_acquire_owned()) {
                    (Ok(question), Ok(room)) => self.open.answer(desk, &self.outgoing, question, received, room),
                    (Ok(question), Err(_)) => return Ok(Some((question, received))),
                    (Err(answer), _) => self.send(Message::Response(*answer)).await,
                }
            }
            Some(FromRouter::Withdrawn(withdrawn)) => self.open.withdraw(&withdrawn.id),
            Some(FromRouter::Welcome(_) | FromRouter::Draining(_)) | None => {}
        }
        Ok(None)
    }

    async fn policy_changed(&mut self, version: Option<String>) {
        match version {
            Some(policy_version) => self.send(Message::PolicyChanged(PolicyChanged { policy_version })).await,
            None => self.policy_version = None,
        }
    }

    async fn send(&self, message: Message) {
        // Fails only when the connection is gone; reading from it tells why.
        let _ = self.outgoing.send(ControllerMessage { message: Some(message) }).await;
    }

    /// Closes our side, and waits until the router has read all answers and closed its own.
    async fn close(mut self) -> Closed {
        drop(self.outgoing);
        let _ = timeout(CLOSE_LIMIT, async { while let Ok(Some(_)) = self.incoming.message().await {} }).await;
        Closed::ShutDown
    }

    fn lost(&self, reason: &str) -> ServeError {
        ServeError::Lost { router: self.router.clone(), reason: reason.to_owned() }
    }

    fn breach(&self, breach: &'static str) -> ServeError {
        ServeError::Protocol { router: self.router.clone(), breach }
    }
}

/// The next version of the policy; `None` when it will not change any more. Waits for ever if that is known already.
async fn changed(version: Option<&mut PolicyVersion>) -> Option<String> {
    match version {
        Some(PolicyVersion(version)) => {
            version.changed().await.ok()?;
            Some(version.borrow_and_update().clone())
        }
        None => std::future::pending().await,
    }
}

/// The questions of one connection that are being answered. Dropped with it: nobody would hear the answers.
struct Open {
    tasks: TaskTracker,
    handles: HashMap<Arc<str>, AbortHandle>,
    sweep_at: usize,
}

impl Open {
    fn new(max_in_flight: usize) -> Self {
        let sweep_at = 2 * max_in_flight.max(32);
        Self { tasks: TaskTracker::new(), handles: HashMap::with_capacity(sweep_at.min(4096)), sweep_at }
    }

    fn answer(
        &mut self,
        desk: &Arc<Desk>,
        outgoing: &mpsc::Sender<ControllerMessage>,
        question: AdmissionRequest,
        received: Instant,
        room: Room,
    ) {
        // Handles of finished questions are dropped many at once: it costs less than being told of each.
        if self.handles.len() >= self.sweep_at {
            self.handles.retain(|_, handle| !handle.is_finished());
        }
        let (id, desk, outgoing) = (Arc::clone(&question.question().id), Arc::clone(desk), outgoing.clone());
        let task = self.tasks.spawn(async move {
            let response = desk.answer(&question, received, Some(room)).await;
            let _ = outgoing.send(ControllerMessage { message: Some(Message::Response(response)) }).await;
        });
        self.handles.insert(id, task.abort_handle());
    }

    fn withdraw(&mut self, id: &str) {
        if let Some(handle) = self.handles.remove(id) {
            handle.abort();
        }
    }

    fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits until nothing is open and nothing can be on its way any more.
    async fn drained(&self, quiet: bool, quiet_at: Instant) {
        if !quiet {
            sleep_until(quiet_at.into()).await;
        }
        self.tasks.wait().await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for handle in self.handles.values() {
            handle.abort();
        }
    }
}

/// What a status that ended the stream means.
fn fault(router: &str, status: &Status) -> ServeError {
    let (code, advice) = match status.code() {
        Code::Unauthenticated => {
            ("UNAUTHENTICATED", "Check the token against `attach.token_file` in its configuration")
        }
        Code::PermissionDenied => {
            ("PERMISSION_DENIED", "The token belongs to another controller: check the name given to `.named(..)`")
        }
        Code::InvalidArgument => ("INVALID_ARGUMENT", "It may be of another version"),
        Code::Unimplemented => {
            ("UNIMPLEMENTED", "Is there a jobgate router at this URL, and does a proxy between pass gRPC?")
        }
        Code::ResourceExhausted => ("RESOURCE_EXHAUSTED", "Stop instances of this controller that are not needed"),
        _ => {
            let cause = std::error::Error::source(status).map(chain).unwrap_or_default();
            let reason = format!("{:?}: {} {cause}", status.code(), status.message()).trim_end().to_owned();
            return ServeError::Lost { router: router.to_owned(), reason };
        }
    };
    ServeError::Refused { router: router.to_owned(), code, message: status.message().to_owned(), advice }
}
