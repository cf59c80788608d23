use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobgate_proto::admission::v1::{
    AdmitRequest, AdmitResponse, admission_controller_client::AdmissionControllerClient,
};
use jobgate_sdk::{AdmissionRequest, Controller, FailureCause, Verdict, async_trait};
use tokio::{sync::watch, time::Instant};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{LARGEST_ANSWER, LARGEST_QUESTION, PING, versions::Versions};
use crate::config::Dial;

/// A connection is given up when it is not there after so long; another address may be.
const CONNECT: Duration = Duration::from_secs(1);
/// Addresses are tried so often without a question.
const PROBE: Duration = Duration::from_secs(15);

/// A controller that listens, at one or several addresses; questions are spread over them.
pub(crate) struct Dialled {
    instances: Vec<Instance>,
    token: Option<MetadataValue<Ascii>>,
    next: AtomicUsize,
    versions: Mutex<Versions>,
    known: watch::Sender<BTreeSet<Arc<str>>>,
}

/// One address.
struct Instance {
    client: AdmissionControllerClient<Channel>,
    health: HealthClient<Channel>,
    /// What the last attempt found.
    absent: AtomicBool,
}

/// Why a controller cannot be dialled, whether it is there or not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The address, the authority or the certificate cannot be used.
    #[error("{url}: {source}")]
    Endpoint {
        /// The address.
        url: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// The token cannot be sent in a header.
    #[error("its token cannot be sent in a header")]
    Token,
}

impl Dialled {
    /// Connections are made when they are needed first.
    pub(crate) fn new(dial: &Dial) -> Result<Self, DialError> {
        let instances = dial.urls.iter().map(|url| {
            let endpoint = endpoint(dial, url).map_err(|source| DialError::Endpoint { url: url.clone(), source })?;
            let channel = endpoint.connect_lazy();
            let client = AdmissionControllerClient::new(channel.clone())
                .max_decoding_message_size(LARGEST_ANSWER)
                .max_encoding_message_size(LARGEST_QUESTION);
            Ok(Instance { client, health: HealthClient::new(channel), absent: AtomicBool::new(false) })
        });
        let token = dial.token.as_ref().map(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {}", token.expose()).parse().map_err(|_| DialError::Token)?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            instances: instances.collect::<Result<_, _>>()?,
            token: token.transpose()?,
            next: AtomicUsize::new(0),
            versions: Mutex::default(),
            known: watch::Sender::default(),
        })
    }

    /// The policy versions its answers named lately, as they change.
    pub(crate) fn versions(&self) -> watch::Receiver<BTreeSet<Arc<str>>> {
        self.known.subscribe()
    }

    /// How many of its addresses answered when they were last tried.
    pub(crate) fn reachable(&self) -> u32 {
        let there = self.instances.iter().filter(|instance| !instance.absent.load(Ordering::Relaxed)).count();
        u32::try_from(there).unwrap_or(u32::MAX)
    }

    /// Tries every address from time to time, so that an absent controller is known before a job depends on it.
    pub(crate) async fn probe(&self) {
        loop {
            for instance in &self.instances {
                let mut health = instance.health.clone();
                let check = tokio::time::timeout(PROBE, health.check(HealthCheckRequest::default())).await;
                // One that is silent does not keep the others from being tried.
                let Ok(check) = check else { continue };
                // A controller without a health service is there all the same.
                instance.absent.store(check.is_err_and(|status| is_absence(&status)), Ordering::Relaxed);
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    async fn ask(&self, instance: usize, question: AdmitRequest, left: Duration) -> Result<AdmitResponse, Status> {
        let mut request = Request::new(question);
        request.set_timeout(left);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        // A client is a handle of a shared connection.
        let instance = &self.instances[instance];
        let answer = instance.client.clone().admit(request).await.map(tonic::Response::into_inner);
        instance.absent.store(answer.as_ref().is_err_and(is_absence), Ordering::Relaxed);
        answer
    }

    fn heard(&self, verdict: Verdict) -> Verdict {
        if let Some(version) = verdict.version() {
            let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = versions.seen(version, Instant::now()) {
                self.known.send_replace(known);
            }
        }
        verdict
    }
}

#[async_trait]
impl Controller for Dialled {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        let started = Instant::now();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        // One address is tried twice: its connection may have died since the last question.
        let attempts = self.instances.len().max(2);
        let mut last = None;
        for attempt in 0..attempts {
            let left = request.time_left().saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            let mut question = AdmitRequest::from(request);
            question.time_left = left.try_into().ok();
            match self.ask((first + attempt) % self.instances.len(), question, left).await {
                Ok(response) if response.id != request.id() => {
                    return Verdict::failed(FailureCause::Malformed, "it answered another question");
                }
                Ok(response) => return self.heard(response.into()),
                Err(status) if is_absence(&status) => last = Some(status),
                Err(status) => return failure(&status),
            }
        }
        match last {
            Some(status) => Verdict::failed(FailureCause::Unreachable, describe(&status)),
            None => Verdict::failed(FailureCause::Silent, "it did not answer in time"),
        }
    }
}

fn endpoint(dial: &Dial, url: &str) -> Result<Endpoint, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true);
    if url.starts_with("https://") {
        let mut tls = ClientTlsConfig::new();
        tls = match &dial.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
            None => tls.with_webpki_roots(),
        };
        if let Some((cert, key)) = &dial.identity {
            tls = tls.identity(Identity::from_pem(cert, key.expose()));
        }
        if let Some(name) = &dial.server_name {
            tls = tls.domain_name(name);
        }
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(endpoint)
}

/// Whether the instance is not there, so that another may be asked the same question.
fn is_absence(status: &Status) -> bool {
    // CANCELLED is what grpcio answers to calls it does not take while it drains; the router itself cancels by not waiting.
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
        || (status.code() == Code::Unknown && is_transport(status))
}

/// A status that no controller sent: the connection broke.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(<dyn std::error::Error>::is::<tonic::transport::Error>)
}

fn failure(status: &Status) -> Verdict {
    let cause = match status.code() {
        Code::DeadlineExceeded => FailureCause::Silent,
        // tonic's word for a message beyond the limit it was given.
        Code::OutOfRange => FailureCause::Oversize,
        // What cannot be decoded.
        Code::Internal => FailureCause::Malformed,
        _ => FailureCause::Error,
    };
    Verdict::failed(cause, describe(status))
}

fn describe(status: &Status) -> String {
    match status.message() {
        "" => format!("gRPC status {:?}", status.code()),
        message => format!("gRPC status {:?}: {message}", status.code()),
    }
}
