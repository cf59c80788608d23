use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use jobgate_proto::admission::v1::{
    AdmitRequest, AdmitResponse, ControllerMessage, Hello, RouterMessage, Welcome,
    admission_tunnel_server::{AdmissionTunnel, AdmissionTunnelServer},
    controller_message, router_message,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::AbortHandle,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::{AdmissionRequest, Token, Verdict};

/// A router on a loopback port, for the tests of a controller that attaches. Speaks the real protocol. Dropping it ends the
/// router.
///
/// ```
/// use jobgate_sdk::{AdmissionRequest, Verdict, serve, testing};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut router = testing::RouterEnd::start().await?;
/// let controller = serve(|_: AdmissionRequest| async { Verdict::admit() }).named("c");
/// tokio::spawn(controller.attach(router.url(), router.token()).into_future());
///
/// let attached = router.attached().await;
/// assert!(attached.ask(&testing::request().build()).await.unwrap().is_admitted());
/// # Ok(())
/// # }
/// ```
pub struct RouterEnd {
    url: String,
    attached: mpsc::Receiver<Attached>,
    refusals: Arc<Mutex<Vec<Status>>>,
    server: AbortHandle,
}

/// A controller attached to a [`RouterEnd`]. Dropping it closes the stream.
pub struct Attached {
    hello: Hello,
    outgoing: mpsc::Sender<Result<RouterMessage, Status>>,
    asked: Asked,
    others: mpsc::UnboundedReceiver<ControllerMessage>,
}

type Asked = Arc<Mutex<HashMap<String, oneshot::Sender<AdmitResponse>>>>;

impl RouterEnd {
    /// The token it lets in, under any name.
    pub const TOKEN: &str = "token-of-the-test-router";

    /// Listens on a free loopback port.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn start() -> io::Result<Self> {
        Self::on(TcpListener::bind("127.0.0.1:0").await?)
    }

    /// Listens here.
    ///
    /// # Errors
    ///
    /// When the listener has no address.
    pub fn on(listener: TcpListener) -> io::Result<Self> {
        let url = format!("http://{}", listener.local_addr()?);
        let (sender, attached) = mpsc::channel(64);
        let refusals = Arc::default();
        let tunnel = AdmissionTunnelServer::new(Tunnel { attached: sender, refusals: Arc::clone(&refusals) });
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener).map(|stream| {
            stream.inspect(|stream| {
                let _ = stream.set_nodelay(true);
            })
        });
        let server = tokio::spawn(Server::builder().add_service(tunnel).serve_with_incoming(incoming)).abort_handle();
        Ok(Self { url, attached, refusals, server })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// [`RouterEnd::TOKEN`].
    #[must_use]
    pub fn token(&self) -> Token {
        Token::from_value(Self::TOKEN)
    }

    /// Refuses the next attempt to attach with this gRPC code and message. May be called several times.
    pub fn refuse_next(&self, code: i32, message: &str) {
        lock(&self.refusals).push(Status::new(code.into(), message));
    }

    /// Waits for the next controller to attach.
    ///
    /// # Panics
    ///
    /// When the router's task has died.
    pub async fn attached(&mut self) -> Attached {
        #[expect(clippy::expect_used, reason = "a testing aid fails by panic")]
        self.attached.recv().await.expect("the router's task runs as long as this value lives")
    }
}

impl Drop for RouterEnd {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Attached {
    /// What it said when it attached.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks a question and waits for its answer. `None`: the stream ended without one, or nothing came in the question's time
    /// and a second.
    pub async fn ask(&self, request: &AdmissionRequest) -> Option<Verdict> {
        let limit = request.time_left() + std::time::Duration::from_secs(1);
        let answer = self.ask_wire(request.into());
        tokio::time::timeout(limit, answer).await.ok()?.map(Verdict::from)
    }

    /// As [`ask`](Self::ask), with a message of any content.
    pub async fn ask_wire(&self, request: AdmitRequest) -> Option<AdmitResponse> {
        let (answer, answered) = oneshot::channel();
        lock(&self.asked).insert(request.id.clone(), answer);
        self.send(router_message::Message::Request(request)).await;
        answered.await.ok()
    }

    /// Sends any message.
    pub async fn send(&self, message: router_message::Message) {
        let _ = self.outgoing.send(Ok(RouterMessage { message: Some(message) })).await;
    }

    /// Ends the stream with a gRPC code and message, as a router does that dies.
    pub async fn fail(self, code: i32, message: &str) {
        let _ = self.outgoing.send(Err(Status::new(code.into(), message))).await;
    }

    /// The next message that answers no question asked by [`ask`](Self::ask). `None`: the controller closed the stream.
    pub async fn next(&mut self) -> Option<controller_message::Message> {
        self.others.recv().await?.message
    }
}

struct Tunnel {
    attached: mpsc::Sender<Attached>,
    refusals: Arc<Mutex<Vec<Status>>>,
}

#[tonic::async_trait]
impl AdmissionTunnel for Tunnel {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<RouterMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<ControllerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        if authorization != Some(&format!("Bearer {}", RouterEnd::TOKEN)) {
            return Err(Status::unauthenticated("wrong token"));
        }
        if let Some(status) = lock(&self.refusals).pop() {
            return Err(status);
        }
        let mut incoming = request.into_inner();
        let Some(controller_message::Message::Hello(hello)) = incoming.message().await?.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument("no Hello first"));
        };
        let (outgoing, queue) = mpsc::channel(256);
        let welcome = Welcome { router_version: "test".into(), scope: "instance".into(), dry_run: false };
        let _ = outgoing.try_send(Ok(RouterMessage { message: Some(router_message::Message::Welcome(welcome)) }));
        let (asked, (other, others)) = (Asked::default(), mpsc::unbounded_channel());
        tokio::spawn(sort(incoming, Arc::clone(&asked), other));
        let _ = self.attached.send(Attached { hello, outgoing, asked, others }).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

/// Hands each answer to whom it is for, and everything else to [`Attached::next`].
async fn sort(
    mut incoming: Streaming<ControllerMessage>,
    asked: Asked,
    others: mpsc::UnboundedSender<ControllerMessage>,
) {
    while let Ok(Some(message)) = incoming.message().await {
        let asker = match &message.message {
            Some(controller_message::Message::Response(response)) => lock(&asked).remove(&response.id),
            _ => None,
        };
        match (asker, message.message) {
            (Some(asker), Some(controller_message::Message::Response(response))) => {
                let _ = asker.send(response);
            }
            (_, message) => {
                let _ = others.send(ControllerMessage { message });
            }
        }
    }
    lock(&asked).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
