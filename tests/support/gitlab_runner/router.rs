//! Asking a job router (facts 1.2, 1.5 and 1.6). Of the circuit breaker (1.7) only its counting is here: the third failure in
//! a row is followed by a REST call, at once and without a time in which the router is left alone.

use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, Response};
use bytes::Bytes;
use jobgate_proto::gitlab::{GetJobRequest, job_router_client::JobRouterClient};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use tower::ServiceBuilder;

use super::{Code, FakeRunner, Picked, Polled, body::USER_AGENT};

const BREAKS_AT: u32 = 3;

/// What discovery said, kept as the real one keeps it for an hour.
pub(super) struct Route {
    /// None: this GitLab has no router.
    channel: Option<Channel>,
    failures: u32,
}

impl FakeRunner {
    /// Forgets where the router is, as the real one does after an hour.
    pub async fn forget_router(&self) {
        *self.route.lock().await = None;
    }

    /// Goes to this router, without discovery.
    pub async fn use_router(&self, url: &str) {
        *self.route.lock().await = Some(Route { channel: channel(url), failures: 0 });
    }

    pub(super) async fn get_job(&self) -> Polled {
        let channel = {
            let mut route = self.route.lock().await;
            if route.is_none() {
                let found = self.discover().await.and_then(|(_, url)| url);
                *route = Some(Route { channel: found.as_deref().and_then(channel), failures: 0 });
            }
            route.as_ref().and_then(|route| route.channel.clone())
        };
        let Some(channel) = channel else { return self.request().await };
        match self.ask(channel).await {
            Ok((body, headers)) => {
                self.failed(false).await;
                self.heard(headers.get("x-gitlab-last-update").and_then(|value| value.to_str().ok()));
                if body.is_empty() {
                    return Polled::Empty;
                }
                Picked::new(body, headers).map_or(Polled::Unhealthy(Code::NoJob), Polled::Job)
            }
            Err(code @ (tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled)) => {
                if self.failed(true).await >= BREAKS_AT {
                    return self.request().await;
                }
                Polled::Failed(Code::Grpc(code))
            }
            // The off switch.
            Err(tonic::Code::Unimplemented) => {
                self.forget_router().await;
                self.request().await
            }
            Err(code) => {
                self.failed(false).await;
                Polled::Unhealthy(Code::Grpc(code))
            }
        }
    }

    /// Failures in a row, with this outcome.
    async fn failed(&self, failed: bool) -> u32 {
        self.route.lock().await.as_mut().map_or(0, |route| {
            route.failures = if failed { route.failures + 1 } else { 0 };
            route.failures
        })
    }

    async fn ask(&self, channel: Channel) -> Result<(Bytes, HeaderMap), tonic::Code> {
        // A response's metadata also has the trailers in it, which the real one does not read; so the headers are caught here.
        let headers = Arc::<Mutex<HeaderMap>>::default();
        let seen = Arc::clone(&headers);
        let service = ServiceBuilder::new()
            .map_response(move |response: Response<tonic::body::Body>| {
                response.headers().clone_into(&mut seen.lock().unwrap());
                response
            })
            .service(channel);
        let body = self.job_request().to_string().into_bytes();
        let mut request = Request::new(GetJobRequest { job_request: body.into() });
        let metadata = request.metadata_mut();
        metadata.insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        metadata.insert("gitlab-agent-type", "runner".parse().unwrap());
        metadata.insert("x-request-id", self.new_request_id().parse().unwrap());
        let response = JobRouterClient::new(service).get_job(request).await.map_err(|status| status.code())?;
        let headers = headers.lock().unwrap().clone();
        Ok((response.into_inner().job_response, headers))
    }
}

/// `grpc://host:port`, plain text. Other schemes are as good as no router here.
fn channel(url: &str) -> Option<Channel> {
    let authority = url.strip_prefix("grpc://")?;
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).ok()?;
    Some(endpoint.user_agent(format!("{USER_AGENT} grpc-go/1.83.0")).ok()?.connect_lazy())
}
