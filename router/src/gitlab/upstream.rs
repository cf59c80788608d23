//! The connections to GitLab.

use std::{error::Error, io, sync::Arc, time::Duration};

use axum::body::Body;
use http::{
    Request, Response, Uri, Version,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::connector::{CONNECT, Connector};
use crate::{config::GitLabConfig, faces::Throttle};

/// Connections kept for the next request: as many as runners ask at once.
const IDLE_CONNECTIONS: usize = 1024;
/// Shorter than the 65 s of the nginx in front of GitLab, so that it is we who close first, and no request meets a
/// connection that is being closed.
const IDLE: Duration = Duration::from_secs(50);
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// GitLab, as it is reached. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    client: Client<Connector, Body>,
    scheme: Scheme,
    authority: Authority,
    /// The path that GitLab is under, without a slash at the end; usually empty.
    prefix: Arc<str>,
    /// Every runner meets an outage again and again; the log need not.
    pub(super) outages: Arc<Throttle>,
}

/// Why the GitLab of a configuration cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// Its URL is none. The configuration's own reader refuses it before.
    #[error("`url` of `gitlab`: expected a URL that begins with http:// or https://")]
    Url,
    /// The file holds no certificate.
    #[error("`ca` of `gitlab`: it is no PEM file of a certificate")]
    NoCertificate,
    /// TLS does not take the certificate.
    #[error("`ca` of `gitlab`: {0}")]
    Tls(#[from] rustls::Error),
}

/// GitLab gave no answer. None of it is about what was asked: it can be shown to anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Outage {
    /// There is no connection.
    #[error("GitLab at {authority} cannot be reached: {why}")]
    Unreachable { authority: Authority, why: String },
    /// Its certificate is not one that we trust.
    #[error(
        "the certificate of GitLab at {authority} is not accepted: {why}; see `ca` of `gitlab` in the configuration"
    )]
    Certificate { authority: Authority, why: String },
    /// TLS fails for another reason.
    #[error("TLS with GitLab at {authority} failed: {why}")]
    Tls { authority: Authority, why: String },
    /// The connection ended before the answer.
    #[error("GitLab at {authority} broke the connection off: {why}")]
    BrokeOff { authority: Authority, why: String },
    /// It has the request, and says nothing.
    #[error("GitLab at {authority} did not answer in time")]
    Silent { authority: Authority },
    /// It does not speak HTTP as it should.
    #[error("GitLab at {authority} gave an answer that cannot be passed on: {why}")]
    Nonsense { authority: Authority, why: &'static str },
}

impl Upstream {
    pub(crate) fn new(config: &GitLabConfig) -> Result<Self, UpstreamError> {
        let parts = config.url.parse::<Uri>().map_err(|_| UpstreamError::Url)?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(UpstreamError::Url) };
        let prefix = parts.path_and_query.map(|path| path.path().trim_end_matches('/').into()).unwrap_or_default();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT));
        http.set_keepalive(Some(TCP_KEEPALIVE));
        let https = HttpsConnector::<HttpConnector>::builder().with_tls_config(tls(config.ca.as_deref())?);
        let https = https.https_or_http().enable_http1().wrap_connector(http);
        // A request is tried again only if nothing of it was written, on a connection that turned out to be closed. One that
        // GitLab may have seen is never sent twice: a repeated job request takes a second job.
        let client = Client::builder(TokioExecutor::new())
            .retry_canceled_requests(true)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(Connector(https));
        Ok(Self { client, scheme, authority, prefix, outages: Arc::default() })
    }

    /// Host and port, as the configuration has them.
    pub(crate) fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// Sends a request whose URI is a path below GitLab's own, with its query. Both go out byte for byte.
    ///
    /// # Errors
    ///
    /// [`Outage`]: no answer. Whether GitLab has seen the request is then unknown.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Outage> {
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        // Two paths in a row are a path; only both together may be too long for one.
        let path = match &*self.prefix {
            "" => Some(path),
            prefix => PathAndQuery::try_from(format!("{prefix}{path}")).ok(),
        };
        let uri = path.and_then(|path| {
            let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
            uri.path_and_query(path).build().ok()
        });
        let Some(uri) = uri else { return Err(self.nonsense("the path of the request is too long")) };
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        self.client.request(request).await.map_err(|error| self.outage(&error))
    }

    pub(super) fn silent(&self) -> Outage {
        Outage::Silent { authority: self.authority.clone() }
    }

    pub(super) fn nonsense(&self, why: &'static str) -> Outage {
        Outage::Nonsense { authority: self.authority.clone(), why }
    }

    fn outage(&self, error: &hyper_util::client::legacy::Error) -> Outage {
        let authority = self.authority.clone();
        let mut innermost: &(dyn Error + 'static) = error;
        while let Some(source) = inner(innermost) {
            innermost = source;
            match source.downcast_ref::<rustls::Error>() {
                None => {}
                Some(rustls::Error::InvalidCertificate(why)) => {
                    return Outage::Certificate { authority, why: why.to_string() };
                }
                Some(why) => return Outage::Tls { authority, why: why.to_string() },
            }
        }
        let why = innermost.to_string();
        if error.is_connect() { Outage::Unreachable { authority, why } } else { Outage::BrokeOff { authority, why } }
    }
}

/// The error within. What an I/O error was made of is not what it calls its source.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(custom) => Some(custom),
        None => error.source(),
    }
}

fn tls(ca: Option<&[u8]>) -> Result<ClientConfig, UpstreamError> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|_| UpstreamError::NoCertificate)?)?;
            }
            if roots.is_empty() {
                return Err(UpstreamError::NoCertificate);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
