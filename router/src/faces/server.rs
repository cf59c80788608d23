//! All faces together, on one address.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, middleware, response::Response};
use http::{Method, header};
use hyper::body::Body as _;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Status, service::Routes};
use tower::Service;

use super::{
    Auth, AuthError, ControllersStatus, Limits, Metrics, Readiness, Tls, TlsError,
    connection::Peer,
    error::{ApiError, Kind, is_grpc},
    grpc,
    jobs::Jobs,
    listener::Listener,
    observe::{self, Observe},
    rest::{self, Rest},
};
use crate::{
    config::Config,
    gitlab::{Front, JobRouterFace, LARGEST_MESSAGE, answer},
    handle::Handle,
};
use jobgate_proto::gitlab::job_router_server::JobRouterServer;

/// What the faces show, and whom they ask.
#[derive(Clone)]
pub struct Parts {
    /// The task that owns jobs and runners.
    pub handle: Handle,
    /// Tells how the controllers are.
    pub controllers: ControllersStatus,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the router may be sent work.
    pub readiness: Readiness,
    /// More gRPC services for the same address: the tunnel of attached controllers. [`Routes::default`] for none.
    pub services: Routes,
    /// What one address may cost.
    pub limits: Limits,
    /// What is in front of GitLab; `None` where there is none.
    pub gitlab: Option<Front>,
}

/// Why the router cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else has the address.
    #[error("{address} is in use by another program; stop it, or choose another address with `listen`")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system does not give the address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Certificate and key cannot be used.
    #[error("tls: {0}")]
    Tls(#[from] TlsError),
    /// The tokens cannot be used, or there are none and the address is not for trials.
    #[error(transparent)]
    Tokens(#[from] AuthError),
    /// The descriptions of the services cannot be read; a fault of the build.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A bound address that nobody is served on yet.
#[must_use = "nobody is served before `serve`"]
pub struct Server {
    listener: Listener,
    app: App,
    address: SocketAddr,
    auth: Auth,
    tls: Option<Tls>,
    readiness: Readiness,
    handle: Handle,
    closing: CancellationToken,
}

impl Server {
    /// Takes the address of the configuration. Must be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`BindError`]: the address is in use, the certificate cannot be used …
    pub async fn bind(config: &Config, parts: Parts) -> Result<Self, BindError> {
        let wanted = config.listen;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        let listen = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address: wanted },
            _ => BindError::Listen { address: wanted, source },
        };
        let tcp = TcpListener::bind(wanted).await.map_err(listen)?;
        let address = tcp.local_addr().map_err(listen)?;
        let auth = Auth::new(config, address, parts.metrics.clone())?;
        let closing = CancellationToken::new();
        let app = app(&parts, &auth, &closing)?;
        let Parts { handle, metrics, readiness, limits, .. } = parts;
        let listener = Listener::new(tcp, tls.clone(), limits, metrics);
        Ok(Self { listener, app, address, auth, tls, readiness, handle, closing })
    }

    /// The address it listens on: with the port the system chose where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The tokens in use, to be replaced when the configuration is.
    #[must_use]
    pub fn auth(&self) -> Auth {
        self.auth.clone()
    }

    /// The certificate in use, to be reloaded when its files change.
    #[must_use]
    pub fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    /// Serves until `shutdown`, then drains: runners are told, no connection is accepted, streams end, open requests finish
    /// within the limit.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let Self { listener, app, readiness, handle, closing, .. } = self;
        readiness.set_listening(true);
        let drain = async {
            shutdown.await;
            readiness.set_draining();
            // Runners hear it from the task that owns them, so that no job is on its way to one. A task that is gone, or
            // does not answer, must not keep the process.
            let _ = tokio::time::timeout(Duration::from_secs(5), handle.drain()).await;
            closing.cancel();
        };
        tokio::join!(listener.serve(app, closing.clone()), drain);
        readiness.set_listening(false);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("limits", &self.limits).finish_non_exhaustive()
    }
}

fn app(parts: &Parts, auth: &Auth, closing: &CancellationToken) -> Result<App, BindError> {
    let Parts { handle, controllers, metrics, readiness, services, limits, gitlab } = parts.clone();
    let jobs = Jobs::new(handle.clone(), limits.document_bytes);
    let services = match &gitlab {
        Some(front) => services.add_service(
            JobRouterServer::new(JobRouterFace::new(front.source().clone())).max_decoding_message_size(LARGEST_MESSAGE),
        ),
        None => services,
    };
    let grpc = grpc::routes(services, jobs.clone(), &limits, &readiness, closing)?;
    let rest = rest::routes(Rest { jobs, controllers: controllers.clone() });
    let observe = observe::routes(Observe { handle, metrics, readiness, controllers });
    let json = rest.merge(observe).layer(middleware::from_fn(rest::plain_headers));
    let routes = grpc.into_axum_router().reset_fallback().merge(json).fallback(rest::nowhere);
    let turns = Semaphore::new(limits.submissions);
    let gate = Gate { auth: auth.clone(), gitlab, limit: limits.request, turns };
    Ok(App { gate: Arc::new(gate), routes })
}

/// How runners of GitLab ask for jobs over gRPC.
const JOB_ROUTER: &str = "/gitlab.agent.job_router.rpc.JobRouter/GetJob";

/// What answers requests: our own routes, and the gate in front of them. No layer of theirs, since what is for GitLab, which is
/// most of it, never gets to them. Cheap to clone.
#[derive(Clone)]
pub(super) struct App {
    gate: Arc<Gate>,
    routes: Router,
}

struct Gate {
    auth: Auth,
    gitlab: Option<Front>,
    /// Time for a request to be read and answered; a stream counts as answered when it begins.
    limit: Duration,
    /// Documents are read by a few at a time, over REST and gRPC together: it bounds what they take of memory.
    turns: Semaphore,
}

impl App {
    /// Answers a request.
    pub(super) async fn answer(self, request: Request) -> Response {
        let is_head = *request.method() == Method::HEAD;
        let mut response = self.decide(request).await;
        // Our own answers have a body whatever was asked, and over HTTP/2 hyper would send it. One that GitLab or a route gave has
        // none, and a length of its own.
        if is_head && !response.body().is_end_stream() {
            if let Some(length) = response.body().size_hint().exact() {
                response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            }
            *response.body_mut() = Body::empty();
        }
        response
    }

    async fn decide(self, mut request: Request) -> Response {
        let gate = &self.gate;
        if let Some(front) = &gate.gitlab {
            if let Some(call) = front.read(request.uri().path()) {
                return match gate.auth.admit_anybody(&request) {
                    // GitLab knows its own. No limit of ours is right for what it does: artifacts take an hour.
                    Ok(()) => {
                        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
                        front.serve(call, request, peer).await
                    }
                    // A 403 of ours would put a runner out, or kill its job (facts 2.2, 4.2).
                    Err(error) => answer::unavailable(error.message()),
                };
            }
            if request.uri().path() == JOB_ROUTER {
                return match gate.auth.admit_anybody(&request) {
                    // GitLab holds it for longer than our limit, and ends it.
                    Ok(()) => match front.read_whole(request).await {
                        Ok(request) => self.route(request).await,
                        Err(status) => status.into_http(),
                    },
                    Err(error) => Status::unavailable(error.message()).into_http(),
                };
            }
        }
        let grpc = is_grpc(request.headers());
        if let Err(error) = gate.auth.admit(&mut request) {
            return error.respond(grpc);
        }
        let is_submission = request.method() == Method::POST
            && ["/v1/jobs", "/jobgate.job.v1.Jobs/Submit"].contains(&request.uri().path());
        let answered = async {
            let _turn = if is_submission { Some(gate.turns.acquire().await) } else { None };
            self.route(request).await
        };
        let answered = tokio::time::timeout(gate.limit, answered).await;
        answered.unwrap_or_else(|_| ApiError::new(Kind::TimedOut, "the request took too long").respond(grpc))
    }

    async fn route(&self, request: Request) -> Response {
        // A router is always ready, and never fails.
        self.routes.clone().call(request).await.unwrap_or_else(|never| match never {})
    }
}
