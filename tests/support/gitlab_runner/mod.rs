//! A runner that speaks as gitlab-runner 19 does, over REST and to a job router. It is ours, written by the facts about the
//! protocol ("facts" in the comments, with the section); it runs nothing.

#![allow(dead_code, reason = "each test file uses its part")]

mod body;
mod jobs;
mod rest;
mod router;

use std::{sync::Mutex, time::Duration};

use axum::http::HeaderMap;
use bytes::Bytes;
#[allow(unused_imports, reason = "each test file uses its part")]
pub use jobs::{Done, Heard};
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;

/// One manager: a token and a system id.
pub struct FakeRunner {
    pub token: String,
    pub system_id: String,
    url: String,
    way: Way,
    http: reqwest::Client,
    /// Requests a web terminal with this, which is a secret.
    session: Option<Value>,
    features_off: Vec<&'static str>,
    wait: bool,
    told: Mutex<Told>,
    /// Where discovery led to, and the connection there.
    route: AsyncMutex<Option<router::Route>>,
}

#[derive(Default)]
struct Told {
    last_update: Option<String>,
    unhealthy: u32,
    /// How long it would have waited before each repetition.
    pauses: Vec<Duration>,
    request_ids: Vec<String>,
}

/// How it asks for jobs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    Rest,
    /// With `FF_USE_JOB_ROUTER`: to where discovery says, REST where it says nothing.
    Router,
}

/// What came of a poll.
#[derive(Debug)]
pub enum Polled {
    Job(Box<Picked>),
    Empty,
    /// Three in a row, and the runner stops for an hour (facts 1.6, 2.2).
    Unhealthy(Code),
    Failed(Code),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    Http(u16),
    Grpc(tonic::Code),
    /// No answer.
    Transport,
    /// An answer that is no job: the job is lost.
    NoJob,
}

/// A job that came.
#[derive(Clone, Debug)]
pub struct Picked {
    pub id: u64,
    pub token: String,
    /// As they came.
    pub bytes: Bytes,
    /// Of the answer; over gRPC its initial metadata only.
    pub headers: HeaderMap,
    /// All that it has printed.
    pub trace: Vec<u8>,
    /// How much of that was sent.
    pub sent: usize,
    /// How the server would like the next updates to be apart, in seconds.
    pub interval: Option<u64>,
}

impl Polled {
    /// The job, which must have come.
    pub fn job(self) -> Picked {
        match self {
            Self::Job(job) => *job,
            other => panic!("no job came: {other:?}"),
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }
}

impl Picked {
    fn new(bytes: Bytes, headers: HeaderMap) -> Option<Box<Self>> {
        let document: Value = serde_json::from_slice(&bytes).ok()?;
        let (id, token) = (document["id"].as_u64()?, document["token"].as_str()?.to_owned());
        Some(Box::new(Self { id, token, bytes, headers, trace: Vec::new(), sent: 0, interval: None }))
    }

    pub fn document(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    /// What `X-Request-Id` says, the job's correlation id.
    pub fn correlation_id(&self) -> Option<&str> {
        self.headers.get("x-request-id")?.to_str().ok()
    }
}

impl FakeRunner {
    /// One with a system id of its own, at this `url`.
    pub fn new(url: impl Into<String>, token: &str) -> Self {
        let url: String = url.into();
        Self {
            token: token.to_owned(),
            system_id: format!("s_{:012x}", rand::random::<u64>() >> 16),
            url: url.trim_end_matches('/').trim_end_matches("/ci").to_owned(),
            way: Way::Rest,
            http: reqwest::Client::builder().http1_only().no_proxy().build().unwrap(),
            session: None,
            features_off: Vec::new(),
            wait: false,
            told: Mutex::default(),
            route: AsyncMutex::new(None),
        }
    }

    pub fn way(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    pub fn system_id(mut self, system_id: &str) -> Self {
        system_id.clone_into(&mut self.system_id);
        self
    }

    /// An older runner, or another executor.
    pub fn without_feature(mut self, feature: &'static str) -> Self {
        self.features_off.push(feature);
        self
    }

    pub fn session(mut self, session: Value) -> Self {
        self.session = Some(session);
        self
    }

    /// Waits before it repeats a call, as the real one does. Without it the waits are only noted.
    pub fn waits(mut self) -> Self {
        self.wait = true;
        self
    }

    /// How long it waited, or would have.
    pub fn pauses(&self) -> Vec<Duration> {
        self.told.lock().unwrap().pauses.clone()
    }

    /// `X-Request-Id` of each call, which its repetitions share.
    pub fn request_ids(&self) -> Vec<String> {
        self.told.lock().unwrap().request_ids.clone()
    }

    pub fn last_update(&self) -> Option<String> {
        self.told.lock().unwrap().last_update.clone()
    }

    /// False after three unhealthy polls in a row: the real one would not ask again for an hour.
    pub fn healthy(&self) -> bool {
        self.told.lock().unwrap().unhealthy < 3
    }

    /// Asks once for a job.
    pub async fn poll(&self) -> Polled {
        let polled = match self.way {
            Way::Rest => self.request().await,
            Way::Router => self.get_job().await,
        };
        let mut told = self.told.lock().unwrap();
        told.unhealthy = if matches!(polled, Polled::Unhealthy(_)) { told.unhealthy + 1 } else { 0 };
        polled
    }

    /// Asks until a job comes, or something worse than none.
    pub async fn next_job(&self) -> Picked {
        loop {
            match self.poll().await {
                Polled::Empty => tokio::task::yield_now().await,
                polled => return polled.job(),
            }
        }
    }

    fn new_request_id(&self) -> String {
        let id = format!("{:032x}", rand::random::<u128>());
        self.told.lock().unwrap().request_ids.push(id.clone());
        id
    }

    fn heard(&self, last_update: Option<&str>) {
        if let Some(value) = last_update.filter(|value| !value.is_empty()) {
            self.told.lock().unwrap().last_update = Some(value.to_owned());
        }
    }

    async fn pause(&self, pause: Duration) {
        self.told.lock().unwrap().pauses.push(pause);
        if self.wait {
            tokio::time::sleep(pause).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}
