use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use crate::{
    admission::Observer,
    chain::{Chains, Rules},
    config::{
        Config, ControllerConfig, ControllerKind, ControllerState, NoControllers, OnFailure, RunnerConfig, RunnerOwner,
        Secret, TokenConfig,
    },
    core::{self, Running},
    faces::{Auth, ControllerStatus, Limits, Metrics, Parts, Readiness, Server, Tls},
    gitlab::{Front, Prepared},
    handle::Handle,
    path::Scope,
    scheduler,
    store::MemoryStore,
};

/// Secrets of the tests; none may ever be in an answer.
pub(crate) const ALL: &str = "token-of-all-projects-0123456789";
pub(crate) const ACME: &str = "token-of-acme-only-0123456789abc";
pub(crate) const READER: &str = "token-of-a-reader-0123456789abcd";
pub(crate) const RUNNER: &str = "token-of-a-runner-0123456789abcd";
pub(crate) const CONTROLLER: &str = "token-of-a-controller-0123456789";

/// A router's faces, listening.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) auth: Auth,
    pub(crate) tls: Option<Tls>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
    _core: Option<Running>,
}

/// What a world is made of.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    /// Instead of the real task.
    pub(crate) handle: Option<Handle>,
}

/// An answer over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

struct Nobody;

impl Observer for Nobody {
    fn answered(&self, _: &Arc<str>, _: &'static str, _: Option<jobgate_sdk::FailureCause>, _: Duration) {}
}

impl Setup {
    /// Without tokens: trial mode.
    pub(crate) fn trial() -> Self {
        Self { config: config(), limits: Limits::default(), handle: None }
    }

    /// With tokens, a runner and an attached controller.
    pub(crate) fn guarded() -> Self {
        let mut setup = Self::trial();
        setup.config.tokens = vec![
            token("all", ALL, "sro", &[]),
            token("acme", ACME, "sr", &["acme/**"]),
            token("reader", READER, "r", &[]),
        ];
        setup.config.runners = vec![Arc::new(RunnerConfig {
            name: "gpu-1".into(),
            token: Secret::new(RUNNER),
            owner: RunnerOwner::Instance,
            tags: vec!["gpu".into()],
            run_untagged: true,
            protected: false,
            priority: 0,
            group: None,
        })];
        setup.config.controllers = vec![Arc::new(ControllerConfig {
            name: "quota".into(),
            scope: Scope::Instance,
            state: ControllerState::Disabled,
            kind: ControllerKind::Attached { token: Secret::new(CONTROLLER) },
            timeout: Duration::from_secs(2),
            on_failure: OnFailure::Reject,
            expose: crate::view::Expose::default(),
        })];
        setup
    }

    pub(crate) async fn start(self) -> World {
        let (handle, core, gitlab) = match self.handle {
            Some(handle) => (handle, None, None),
            None => {
                let (running, gitlab) = start_core(&self.config);
                (running.handle.clone(), Some(running), gitlab)
            }
        };
        let (metrics, readiness) = (Metrics::new(), Readiness::new());
        readiness.set_store(true);
        readiness.set_policies(true);
        let status = ControllerStatus {
            name: "quota".into(),
            scope: "instance".into(),
            state: "enabled",
            kind: "attached",
            policy_version: Some("v7".into()),
            stale: false,
            attached: 0,
            matched_jobs: 3,
        };
        let parts = Parts {
            handle: handle.clone(),
            controllers: Arc::new(move || vec![status.clone()]),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            services: tonic::service::Routes::default(),
            limits: self.limits,
            gitlab,
        };
        let server = Server::bind(&self.config, parts).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (address, auth, tls) = (server.local_addr(), server.auth(), server.tls());
        let served = tokio::spawn(server.serve(async {
            let _ = stopped.await;
        }));
        World { address, handle, metrics, readiness, auth, tls, stop: Some(stop), served, _core: core }
    }
}

impl World {
    /// Sends a request by hand and reads all of the answer.
    pub(crate) async fn http(&self, method: &str, path: &str, token: &str, more: &str, body: &str) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        if !token.is_empty() {
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        self.raw(format!("{head}{more}\r\n{body}").as_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.http("GET", path, token, "", "").await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &str) -> Answer {
        self.http("POST", path, token, "content-type: application/json\r\n", body).await
    }

    pub(crate) async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that refuses early may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        Answer::read(&mut stream).await
    }

    /// Submits one job of a project, and says its id.
    pub(crate) async fn submit(&self, token: &str, project: &str) -> String {
        let answer = self.post("/v1/jobs", token, &document(project)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["jobs"][0]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// Tells it to stop, without waiting.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub(crate) async fn stopped(self) {
        self.served.await.unwrap();
    }
}

impl Answer {
    pub(crate) async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Self {
        let mut bytes = Vec::new();
        let mut block = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut block).await {
            bytes.extend_from_slice(&block[..count]);
        }
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|word| word.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_lowercase(), v.to_owned()));
        Self { status: status.unwrap_or_default(), headers: headers.collect(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        let text = match self.headers.get("transfer-encoding").map(String::as_str) {
            Some("chunked") => unchunked(&self.body),
            _ => self.body.clone(),
        };
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of an error.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn unchunked(body: &str) -> String {
    let mut lines = body.split("\r\n");
    let mut text = String::new();
    while let (Some(_), Some(chunk)) = (lines.next(), lines.next()) {
        text.push_str(chunk);
    }
    text
}

pub(crate) fn document(project: &str) -> String {
    serde_json::json!({ "job": { "name": "build" }, "project": { "path": project }, "payload": { "script": ["true"] } })
        .to_string()
}

pub(crate) fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

pub(crate) fn token(name: &str, secret: &str, rights: &str, projects: &[&str]) -> TokenConfig {
    TokenConfig {
        name: name.into(),
        token: Secret::new(secret),
        submit: rights.contains('s'),
        read: rights.contains('r'),
        operate: rights.contains('o'),
        projects: projects.iter().map(|&glob| glob.to_owned()).collect(),
    }
}

fn config() -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        external_url: None,
        tls: None,
        insecure: false,
        state: PathBuf::new(),
        admission_timeout: Duration::from_secs(10),
        admission_ttl: Duration::from_secs(600),
        no_controllers: NoControllers::Admit,
        max_jobs: 1000,
        decision_log: None,
        controllers: Vec::new(),
        runners: Vec::new(),
        tokens: Vec::new(),
        runner_groups: Vec::new(),
        priorities: Arc::default(),
        fairness: Arc::default(),
        spillover_hold: Duration::from_secs(30),
        gitlab: None,
        retention: Duration::from_secs(30 * 24 * 3600),
    }
}

pub(crate) fn start_core(config: &Config) -> (Running, Option<Front>) {
    let prepared = Prepared::new(config, Metrics::new().gitlab()).unwrap();
    let rules = Rules { no_controllers: config.no_controllers, admission_timeout: config.admission_timeout };
    let running = core::start(core::Parts {
        chains: Chains::new(Vec::new(), rules),
        settings: core::Settings::of(config),
        restored: crate::store::Restored::default(),
        own_thread: false,
        clock: Box::new(jiff::Timestamp::now),
        runners: core::Runners::of(config),
        limits: scheduler::Limits {
            max_jobs: config.max_jobs,
            max_finished: 1000,
            admission_ttl: config.admission_ttl,
        },
        store: Box::new(MemoryStore),
        observer: Arc::new(Nobody),
        handouts: prepared.as_ref().map(Prepared::parts),
        export: Box::new(|_| {}),
    });
    let running = running.unwrap();
    let front = prepared.map(|prepared| prepared.start(config, &running, Arc::new(Nobody)));
    (running, front)
}
