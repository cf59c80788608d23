use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::{body::Body, response::Response};
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use serde::Serialize;

use super::{
    answer,
    pass::pass,
    path::{Target, Unreadable, classify},
    upstream::{Upstream, UpstreamError},
};
use crate::config::Config;

/// What runners of GitLab meet in its place. Cheap to clone.
#[derive(Clone)]
pub struct Front(Arc<Shared>);

struct Shared {
    upstream: Upstream,
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

impl Front {
    /// Made from `gitlab` and `external_url` of a configuration; `None` without the former.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`] says what in `gitlab` cannot be used.
    pub fn new(config: &Config) -> Result<Option<Self>, UpstreamError> {
        let Some(gitlab) = &config.gitlab else { return Ok(None) };
        let own: Option<Uri> = config.external_url.as_ref().and_then(|url| url.parse().ok());
        let prefix = own.as_ref().map_or("", |url| url.path().trim_end_matches('/')).to_owned();
        let server_url = own.and_then(|url| {
            let scheme = if url.scheme_str() == Some("https") { "grpcs" } else { "grpc" };
            Some(format!("{scheme}://{}", url.authority()?))
        });
        Ok(Some(Self(Arc::new(Shared { upstream: Upstream::new(gitlab)?, prefix, server_url }))))
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
        match target {
            Target::JobRequest => answer::unavailable("this router does not ask GitLab for jobs yet"),
            Target::Discovery => self.discovery(request.method()),
            Target::Internal => answer::error(StatusCode::NOT_FOUND, "404 Not Found"),
            Target::Job { .. } | Target::Other => {
                // Every connection has a peer; there is none where a request is made by hand.
                let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                pass(&self.0.upstream, request, &path, peer).await
            }
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

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("gitlab", &self.0.upstream.authority()).finish_non_exhaustive()
    }
}
