use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{body::Body, response::Response};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    GitLabMetrics, HandOut, Names, Outstanding, answer,
    calls::{JOB_STATUS, JOB_TOKEN},
    handout::GitLabJob,
    handouts::Shown,
    job_router::LARGEST_MESSAGE,
    pass::pass,
    path::{JobCall, Target, Unreadable, classify},
    request::{self, Unread},
    source::{Parts, Source},
    upstream::{Upstream, UpstreamError},
};
use crate::{
    admission::Observer,
    config::{Config, GitLabConfig},
    core::{HandOutCommand, HandOutParts, Running},
};

/// What runners of GitLab meet in its place. Cheap to clone.
#[derive(Clone)]
pub struct Front(Arc<Shared>);

/// A front whose router has not started yet.
pub(crate) struct Prepared {
    config: Arc<GitLabConfig>,
    names: Names,
    upstream: Upstream,
    outstanding: Outstanding,
    finish: mpsc::UnboundedSender<HandOut>,
    to_finish: mpsc::UnboundedReceiver<HandOut>,
    metrics: GitLabMetrics,
}

struct Shared {
    upstream: Upstream,
    source: Source,
    /// The path of our own URL.
    prefix: String,
    /// Where runners find the job router: here. `None` where our own URL is not known.
    server_url: Option<String>,
}

/// What a request for GitLab is about.
#[derive(Debug)]
pub(crate) struct Call(Result<(Target, String), Unreadable>);

#[derive(Serialize)]
struct Discovery<'a> {
    server_url: &'a str,
}

impl Prepared {
    /// Made from `gitlab` of a configuration; `None` without it.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`] says what in it cannot be used.
    pub(crate) fn new(config: &Config, metrics: GitLabMetrics) -> Result<Option<Self>, UpstreamError> {
        let names = Names::of(config);
        let Some(config) = config.gitlab.clone() else { return Ok(None) };
        let (finish, to_finish) = mpsc::unbounded_channel();
        let upstream = Upstream::new(&config)?;
        Ok(Some(Self { config, names, upstream, outstanding: Outstanding::default(), finish, to_finish, metrics }))
    }

    /// What the task that owns the state needs of it.
    pub(crate) fn parts(&self) -> HandOutParts {
        let metrics = self.metrics.clone();
        HandOutParts {
            gitlab: self.upstream.authority().into(),
            names: self.names.clone(),
            outstanding: self.outstanding.clone(),
            finish: self.finish.clone(),
            counted: Box::new(move |counts| metrics.set_handouts(counts)),
        }
    }

    /// Begins to serve the router that runs. Must be called within a Tokio runtime.
    pub(crate) fn start(self, config: &Config, running: &Running, observer: Arc<dyn Observer>) -> Front {
        let own: Option<Uri> = config.external_url.as_ref().and_then(|url| url.parse().ok());
        let prefix = own.as_ref().map_or("", |url| url.path().trim_end_matches('/')).to_owned();
        let server_url = own.and_then(|url| {
            let scheme = if url.scheme_str() == Some("https") { "grpcs" } else { "grpc" };
            Some(format!("{scheme}://{}", url.authority()?))
        });
        let Self { config, upstream, outstanding, finish, to_finish, metrics, .. } = self;
        let parts = Parts {
            config: &config,
            upstream: upstream.clone(),
            running,
            outstanding,
            finish,
            to_finish,
            observer,
            metrics,
        };
        Front(Arc::new(Shared { upstream, source: Source::start(parts), prefix, server_url }))
    }
}

impl Front {
    /// Where runners' polls go.
    pub(crate) fn source(&self) -> &Source {
        &self.0.source
    }

    /// Whether a request with this path is for GitLab. One that cannot be read is taken as well, to be refused: who routes
    /// it otherwise may read it otherwise.
    pub(crate) fn read(&self, path: &str) -> Option<Call> {
        let read = classify(path, &self.0.prefix).transpose()?;
        Some(Call(read.map(|(target, rest)| (target, rest.to_owned()))))
    }

    /// Answers such a request.
    pub(crate) async fn serve(&self, call: Call, request: Request<Body>, peer: Option<IpAddr>) -> Response<Body> {
        let (target, path) = match call.0 {
            Ok(read) => read,
            Err(unreadable) => return answer::error(StatusCode::BAD_REQUEST, &unreadable.to_string()),
        };
        // Every connection has a peer; there is none where a request is made by hand.
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        match target {
            Target::JobRequest => self.0.source.rest(request, peer).await,
            Target::Discovery => self.discovery(request.method()),
            Target::Internal => answer::error(StatusCode::NOT_FOUND, "404 Not Found"),
            Target::Job { id: Some(id), call } => self.job(GitLabJob(id), call, request, &path, peer).await,
            Target::Job { .. } | Target::Other => pass(&self.0.upstream, request, &path, peer).await,
        }
    }

    /// A poll over gRPC with its body at hand: whoever sends one slowly, or a large one, keeps nobody else waiting.
    pub(crate) async fn read_whole(&self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let (parts, body) = request.into_parts();
        let body = request::collect(body, LARGEST_MESSAGE, &self.0.source.0.large).await;
        let body = body.map_err(|unread| match unread {
            Unread::TooLarge => Status::invalid_argument("the job request is too large"),
            Unread::Broken | Unread::Late => Status::unavailable("the job request did not arrive"),
        })?;
        Ok(Request::from_parts(parts, Body::from(body)))
    }

    /// What is said about one job. The first word of its runner that GitLab takes, authenticated by the job's own token, is the
    /// proof that the runner has it.
    async fn job(
        &self,
        job: GitLabJob,
        call: JobCall,
        request: Request<Body>,
        path: &str,
        peer: IpAddr,
    ) -> Response<Body> {
        let Shared { upstream, source, .. } = &*self.0;
        let is_word = match call {
            JobCall::Update => *request.method() == Method::PUT,
            JobCall::Trace => *request.method() == Method::PATCH,
            JobCall::Other => false,
        };
        match source.0.outstanding.shown(job) {
            // It is given up, and GitLab may not know yet (facts 7.35).
            Some(Shown::Failing) => over(),
            Some(Shown::Delivering(token)) if is_word => {
                // The runner goes on whatever GitLab answers, unless that ends the job (facts 4.1): it has the job.
                let said = request.headers().get(JOB_TOKEN).and_then(|said| said.to_str().ok());
                let is_its_runner = said.is_some_and(|said| token.is(said));
                if is_its_runner {
                    source.0.handle.tell(HandOutCommand::Heard(job));
                }
                let response = pass(upstream, request, path, peer).await;
                if response.status().is_success() {
                    source.0.handle.tell(HandOutCommand::Confirmed(job));
                } else if is_its_runner && response.status().is_server_error() {
                    source.0.handle.tell(HandOutCommand::Heard(job));
                }
                response
            }
            _ => pass(upstream, request, path, peer).await,
        }
    }

    /// Facts 1.5. Only `grpc` and `grpcs`: the others cannot be served (facts 7.6).
    fn discovery(&self, method: &Method) -> Response<Body> {
        if ![Method::GET, Method::HEAD].contains(method) {
            let mut response = answer::error(StatusCode::METHOD_NOT_ALLOWED, "405 Not Allowed");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match &self.0.server_url {
            Some(server_url) => answer::json(StatusCode::OK, &Discovery { server_url }),
            None => answer::error(StatusCode::NOT_IMPLEMENTED, "this router has no `external_url` to tell"),
        }
    }
}

/// What ends a job in its runner at once (facts 4.2, 4.3).
fn over() -> Response<Body> {
    let mut response = answer::error(StatusCode::FORBIDDEN, "403 Forbidden - jobgate gave this job up");
    response.headers_mut().insert(JOB_STATUS, HeaderValue::from_static("failed"));
    response
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("gitlab", &self.0.upstream.authority()).finish_non_exhaustive()
    }
}
