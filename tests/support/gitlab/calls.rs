//! What has been asked, in the order in which it came.

use std::net::SocketAddr;

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::{GitLab, shared::State};

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Endpoint {
    /// `POST /runners/verify`
    Verify,
    /// `POST /runners/reset_authentication_token`
    Reset,
    /// `GET /runners/router/discovery`
    Discovery,
    /// `POST /jobs/request`
    Request,
    /// `PUT /jobs/:id`
    Update,
    /// `PATCH /jobs/:id/trace`
    Trace,
    /// `POST /jobs/:id/artifacts`
    Upload,
    /// `GET /jobs/:id/artifacts`
    Download,
    /// Where redirected downloads go, outside of the API.
    Storage,
    /// `/internal/…`, which no runner may reach.
    Internal,
    /// The rest, which is echoed.
    Other,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    pub endpoint: Endpoint,
    /// When its body was there; of an upload, its headers.
    pub at: Instant,
    pub peer: SocketAddr,
    pub method: Method,
    pub path_and_query: String,
    pub headers: HeaderMap,
    /// As it came. Empty for uploads.
    pub body: Bytes,
    pub outcome: Option<Outcome>,
}

/// How a call was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    Status(u16),
    /// We cut the connection.
    Cut,
    /// The client went away, or we cut its connection with all others.
    Gone,
}

impl Endpoint {
    /// By method and path, and the job in it.
    pub(super) fn of(method: &Method, path: &str) -> (Self, u64) {
        let Some(rest) = path.strip_prefix("/api/v4/") else {
            let artifact = path.strip_prefix("/storage/artifacts/").and_then(|id| id.parse().ok());
            return artifact.map_or((Self::Other, 0), |id| (Self::Storage, id));
        };
        let parts: Vec<_> = rest.split('/').collect();
        let job = parts.get(1).and_then(|id| id.parse().ok());
        match (method.as_str(), parts.as_slice(), job) {
            (_, ["internal", ..], _) => (Self::Internal, 0),
            ("POST", ["runners", "verify"], _) => (Self::Verify, 0),
            ("POST", ["runners", "reset_authentication_token"], _) => (Self::Reset, 0),
            ("GET", ["runners", "router", "discovery"], _) => (Self::Discovery, 0),
            ("POST", ["jobs", "request"], _) => (Self::Request, 0),
            ("PUT", ["jobs", _], Some(job)) => (Self::Update, job),
            ("PATCH", ["jobs", _, "trace"], Some(job)) => (Self::Trace, job),
            ("POST", ["jobs", _, "artifacts"], Some(job)) => (Self::Upload, job),
            ("GET", ["jobs", _, "artifacts"], Some(job)) => (Self::Download, job),
            _ => (Self::Other, 0),
        }
    }
}

impl Call {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Its body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The `system_id` it names.
    pub fn system_id(&self) -> Option<String> {
        Some(serde_json::from_slice::<Value>(&self.body).ok()?["system_id"].as_str()?.to_owned())
    }
}

fn total(state: &State) -> usize {
    state.counts.values().sum()
}

fn of(state: &State, endpoint: Endpoint) -> impl Iterator<Item = &Call> {
    state.calls.iter().filter(move |call| call.endpoint == endpoint)
}

impl GitLab {
    /// All calls of a kind so far.
    pub fn calls(&self, endpoint: Endpoint) -> Vec<Call> {
        self.shared.read(|state| of(state, endpoint).cloned().collect())
    }

    /// All calls so far.
    pub fn all_calls(&self) -> Vec<Call> {
        self.shared.read(|state| state.calls.clone())
    }

    /// Forgets them, but not how many there were.
    pub fn forget_calls(&self) {
        self.shared.write(|state| state.calls.clear());
    }

    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.shared.read(|state| state.counts.get(&endpoint).copied().unwrap_or_default())
    }

    /// Calls of all kinds.
    pub fn total(&self) -> usize {
        self.shared.read(total)
    }

    /// Waits for another call than these.
    pub async fn more(&self, calls: usize) {
        self.shared.until("another call", |state| (total(state) > calls).then_some(())).await;
    }

    /// Calls of what a runner's side must never reach; a test wants none.
    pub fn breaches(&self) -> usize {
        self.count(Endpoint::Internal)
    }

    /// Waits until a kind was called so often since the start.
    pub async fn counted(&self, endpoint: Endpoint, calls: usize) {
        let what = format!("{calls} calls of {endpoint:?}");
        let enough = |state: &State| (state.counts.get(&endpoint).copied().unwrap_or_default() >= calls).then_some(());
        self.shared.until(&what, enough).await;
    }

    /// Waits for the nth recorded call of a kind, from 1, which may not be answered yet.
    pub async fn nth(&self, endpoint: Endpoint, n: usize) -> Call {
        self.shared.until(&format!("call {n} of {endpoint:?}"), |state| of(state, endpoint).nth(n - 1).cloned()).await
    }

    /// Waits until the nth call of a kind is over.
    pub async fn answered(&self, endpoint: Endpoint, n: usize) -> Call {
        let over = |state: &State| of(state, endpoint).nth(n - 1).filter(|call| call.outcome.is_some()).cloned();
        self.shared.until(&format!("the end of call {n} of {endpoint:?}"), over).await
    }

    /// Waits for the first call that is as wanted.
    pub async fn call(&self, what: &str, wanted: impl Fn(&Call) -> bool) -> Call {
        self.shared.until(what, |state| state.calls.iter().find(|call| wanted(call)).cloned()).await
    }

    /// Waits until so many requests of jobs are held.
    pub async fn holding(&self, requests: usize) {
        let what = format!("{requests} held requests");
        self.shared.until(&what, |state| (state.held == requests).then_some(())).await;
    }
}
