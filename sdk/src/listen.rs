use std::{
    convert::Infallible,
    future::{Future, IntoFuture},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jobgate_proto::{
    DESCRIPTORS,
    admission::v1::{
        AdmitRequest, AdmitResponse,
        admission_controller_server::{AdmissionController, AdmissionControllerServer},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Status, body::Body, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service;

use crate::{
    Serve, ServeError, ServerTls, Token,
    desk::{Desk, LONGEST_QUESTION},
    error::chain,
    serve::{Shutdown, never, signal},
    tls::ServerFiles,
    token::Secret,
};

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// Streams of a connection that are not questions: health checks, reflection.
const OTHER_STREAMS: u32 = 16;
/// How long a peer may take for its TLS handshake, or to say its first byte.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How often the files of TLS are looked at.
const TLS_CHECK: Duration = Duration::from_secs(10);
/// How long the last answers may take to reach their askers after the last question is answered.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Where to listen: made from an address or from a bound [`TcpListener`].
#[derive(Debug)]
pub struct ListenOn(On);

#[derive(Debug)]
enum On {
    Address(String),
    Listener(TcpListener),
}

/// A controller that routers dial. Await it to serve, or [`bind`](Listen::bind) it first to learn its address.
#[must_use = "nobody listens until this is awaited"]
pub struct Listen {
    serve: Serve,
    on: ListenOn,
    tls: Option<ServerTls>,
    token: Option<Token>,
    shutdown: Shutdown,
}

/// A controller whose address is bound. Await it to serve.
#[must_use = "nobody is answered until this is awaited"]
pub struct Listening {
    listener: TcpListener,
    local_addr: SocketAddr,
    shutdown: Shutdown,
    drain_limit: Duration,
    server: Server,
    certificates: Option<Certificates>,
}

impl Listen {
    pub(crate) fn new(serve: Serve, on: ListenOn) -> Self {
        Self { serve, on, tls: None, token: None, shutdown: never() }
    }

    /// Serves over TLS.
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Answers only callers that present this token as `authorization: Bearer`. Health checks need none. Read anew for each
    /// connection.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Shuts down when this future is over: takes no new questions, answers the open ones within the drain limit.
    pub fn with_shutdown(mut self, when: impl Future + Send + 'static) -> Self {
        self.shutdown = signal(when);
        self
    }

    /// Binds the address, and checks token and TLS, without answering anybody yet.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound, the token cannot be read, or the files of TLS are faulty.
    pub async fn bind(self) -> Result<Listening, ServeError> {
        if let Some(token) = &self.token {
            token.read().await?;
        }
        let certificates = self.tls.map(Certificates::load).transpose()?;
        let (listener, address) = match self.on.0 {
            On::Listener(listener) => (Ok(listener), "the given listener".to_owned()),
            On::Address(address) => (TcpListener::bind(&address).await, address),
        };
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (local_addr, listener) = bound.map_err(|source| ServeError::Bind { address, source })?;
        let server = Server::new(&self.serve, self.token);
        let (shutdown, drain_limit) = (self.shutdown, self.serve.drain_limit);
        Ok(Listening { listener, local_addr, shutdown, drain_limit, server, certificates })
    }
}

impl IntoFuture for Listen {
    type Output = Result<(), ServeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.bind().await?.await })
    }
}

impl Listening {
    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    async fn run(mut self) -> Result<(), ServeError> {
        // Dropping this future closes the connections too.
        let _killed = self.server.kill.clone().drop_guard();
        tracing::info!(address = %self.local_addr, tls = self.certificates.is_some(), "the controller listens");
        self.server.accept(self.listener, self.certificates, &mut self.shutdown).await;
        self.server.drain(self.drain_limit).await
    }
}

impl IntoFuture for Listening {
    type Output = Result<(), ServeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// What all connections share.
#[derive(Clone)]
struct Server {
    routes: Routes,
    health: HealthReporter,
    token: Option<Token>,
    max_streams: u32,
    connections: TaskTracker,
    questions: TaskTracker,
    drain: CancellationToken,
    kill: CancellationToken,
}

impl Server {
    fn new(serve: &Serve, token: Option<Token>) -> Self {
        let (questions, kill) = (TaskTracker::new(), CancellationToken::new());
        let admit = Admit { desk: serve.desk(), questions: questions.clone(), kill: kill.clone() };
        let admit = AdmissionControllerServer::new(admit).max_decoding_message_size(serve.max_request_bytes);
        let (health, health_service) = tonic_health::server::health_reporter();
        let mut routes = Routes::new(admit).add_service(health_service);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1();
        match reflection {
            Ok(reflection) => routes = routes.add_service(reflection),
            Err(error) => tracing::error!(%error, "no server reflection: the built-in descriptors are damaged"),
        }
        Self {
            routes: routes.prepare(),
            health,
            token,
            max_streams: u32::try_from(serve.max_in_flight).unwrap_or(u32::MAX / 2) + OTHER_STREAMS,
            connections: TaskTracker::new(),
            questions,
            drain: CancellationToken::new(),
            kill,
        }
    }

    /// Accepts connections until shutdown; then the listener is closed.
    async fn accept(&self, listener: TcpListener, mut tls: Option<Certificates>, shutdown: &mut Shutdown) {
        self.health.set_serving::<AdmissionControllerServer<Admit>>().await;
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut check = tokio::time::interval(TLS_CHECK);
        loop {
            let accepted = tokio::select! {
                () = &mut *shutdown => return,
                _ = check.tick(), if tls.is_some() => {
                    tls = tls.map(Certificates::reload);
                    continue;
                }
                accepted = accept_one(&listener, &room) => accepted,
            };
            let Some((stream, permit)) = accepted else { continue };
            let (server, acceptor) = (self.clone(), tls.as_ref().map(Certificates::acceptor));
            self.connections.spawn(async move {
                server.connection(stream, acceptor).await;
                drop(permit);
            });
        }
    }

    async fn connection(&self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        let _ = stream.set_nodelay(true);
        let expected = match &self.token {
            Some(token) => Some(token.read().await.map(Arc::new).map_err(|error| {
                tracing::error!(error = chain(&error), "nobody is let in");
                Status::unavailable("this controller cannot read the token it expects")
            })),
            None => None,
        };
        let result = match acceptor {
            None => match timeout(HANDSHAKE_LIMIT, stream.readable()).await {
                Ok(Ok(())) => self.http2(stream, expected).await,
                _ => return,
            },
            Some(acceptor) => match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.http2(stream, expected).await,
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => return tracing::debug!("a TLS handshake took too long"),
            },
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a connection broke");
        }
    }

    async fn http2<I>(&self, io: I, expected: Option<Result<Arc<Secret>, Status>>) -> Result<(), hyper::Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let routes = self.routes.clone();
        let service = service_fn(move |request| route(routes.clone(), expected.clone(), request));
        let mut connection = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(self.max_streams)
                // A router that withdraws all it asked is no attack; the default of 20 would close its connection.
                .max_pending_accept_reset_streams(self.max_streams as usize)
                .keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .serve_connection(TokioIo::new(io), service)
        );
        let mut draining = false;
        loop {
            tokio::select! {
                result = connection.as_mut() => return result,
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.kill.cancelled() => return Ok(()),
            }
        }
    }

    /// Lets open questions finish, then closes every connection, whatever else is open on it.
    async fn drain(&self, limit: Duration) -> Result<(), ServeError> {
        self.health.set_service_status("", ServingStatus::NotServing).await;
        self.health.set_not_serving::<AdmissionControllerServer<Admit>>().await;
        self.drain.cancel();
        self.connections.close();
        self.questions.close();
        let answered = async {
            self.questions.wait().await;
            let _ = timeout(FLUSH_LIMIT, self.connections.wait()).await;
        };
        let in_time = timeout(limit, answered).await.is_ok();
        let open = self.questions.len();
        self.kill.cancel();
        self.connections.wait().await;
        match in_time || open == 0 {
            true => Ok(()),
            false => Err(ServeError::NotDrained { open, limit }),
        }
    }
}

/// Waits for room, then for a connection. `None`: the system is short of something; tried again after a moment.
async fn accept_one(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Checks the caller's token and hands the call to its service. Health checks are open to all.
async fn route(
    mut routes: Routes,
    expected: Option<Result<Arc<Secret>, Status>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if let Some(expected) = expected.filter(|_| !request.uri().path().starts_with("/grpc.health.v1.Health/")) {
        let refusal = match expected {
            Ok(secret) if secret.matches(request.headers().get(http::header::AUTHORIZATION)) => None,
            Ok(_) => Some(Status::unauthenticated("missing or wrong token; send `authorization: Bearer <token>`")),
            Err(status) => Some(status),
        };
        if let Some(status) = refusal {
            return Ok(status.into_http());
        }
    }
    // A question ends by itself in time; this bounds a caller that never finishes sending one.
    match timeout(LONGEST_QUESTION + HANDSHAKE_LIMIT, routes.call(request)).await {
        Ok(response) => response,
        Err(_) => Ok(Status::deadline_exceeded("the call took too long").into_http()),
    }
}

/// The service that routers call.
struct Admit {
    desk: Arc<Desk>,
    questions: TaskTracker,
    kill: CancellationToken,
}

#[tonic::async_trait]
impl AdmissionController for Admit {
    async fn admit(&self, request: tonic::Request<AdmitRequest>) -> Result<tonic::Response<AdmitResponse>, Status> {
        let received = Instant::now();
        let _open = self.questions.token();
        let question = match self.desk.read(request.into_inner()) {
            Ok(question) => question,
            Err(answer) => return Ok(tonic::Response::new(*answer)),
        };
        // The answer first: most are ready at once, and then nothing is registered with the other.
        tokio::select! {
            biased;
            answer = self.desk.answer(&question, received, None) => Ok(tonic::Response::new(answer)),
            () = self.kill.cancelled() => Err(Status::unavailable("the controller is shutting down")),
        }
    }
}

/// The files of TLS and what was made of them.
struct Certificates {
    source: ServerTls,
    files: ServerFiles,
    config: Arc<rustls::ServerConfig>,
}

impl Certificates {
    fn load(source: ServerTls) -> Result<Self, crate::TlsError> {
        let files = source.read()?;
        let config = source.config(&files)?;
        Ok(Self { source, files, config })
    }

    /// Takes changed files into use for new connections; keeps the old ones if the new are faulty.
    fn reload(self) -> Self {
        let changed = match self.source.read() {
            Ok(files) if files == self.files => return self,
            Ok(files) => self.source.config(&files).map(|config| (files, config)),
            Err(error) => Err(error),
        };
        match changed {
            Ok((files, config)) => {
                tracing::info!("new TLS files are in use");
                Self { files, config, ..self }
            }
            Err(error) => {
                tracing::warn!(%error, "faulty TLS files; the old ones stay in use");
                self
            }
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.config).into()
    }
}

impl From<&str> for ListenOn {
    fn from(address: &str) -> Self {
        address.to_owned().into()
    }
}

impl From<String> for ListenOn {
    fn from(address: String) -> Self {
        Self(On::Address(address))
    }
}

impl From<SocketAddr> for ListenOn {
    fn from(address: SocketAddr) -> Self {
        address.to_string().into()
    }
}

impl From<TcpListener> for ListenOn {
    fn from(listener: TcpListener) -> Self {
        Self(On::Listener(listener))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_certificates_are_used_and_faulty_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        let renew = || {
            let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(&certificate, pair.cert.pem()).unwrap();
            std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        };
        renew();
        let first = Certificates::load(ServerTls::from_files(&certificate, &key)).unwrap();
        let used = Arc::clone(&first.config);
        let same = first.reload();
        assert!(Arc::ptr_eq(&same.config, &used), "nothing changed");

        let old_key = std::fs::read(&key).unwrap();
        renew();
        let new_key = std::fs::read(&key).unwrap();
        let mut kept = same;
        for faulty in [old_key.as_slice(), b"", b"no key"] {
            std::fs::write(&key, faulty).unwrap();
            kept = kept.reload();
            assert!(Arc::ptr_eq(&kept.config, &used), "a certificate without its key is not used");
        }
        std::fs::write(&key, new_key).unwrap();
        let renewed = kept.reload();
        assert!(!Arc::ptr_eq(&renewed.config, &used));
        std::fs::remove_file(&certificate).unwrap();
        let last = Arc::clone(&renewed.config);
        assert!(Arc::ptr_eq(&renewed.reload().config, &last), "vanished files change nothing");
    }
}
