//! A router in this process, its files, and how tests talk to it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{net::SocketAddr, path::Path, sync::Arc};

use jobgate::{
    Policies,
    connection::Connection,
    runner::{Runner, Shutdown},
    token::Token,
};
use jobgate_router::{Reloader, Router, config::Config};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

/// Files of a router.
pub(crate) struct Site(tempfile::TempDir);

/// A router that serves.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) reloader: Reloader,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), jobgate_router::RunError>>,
    http: reqwest::Client,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) async fn start(&self, config: &str) -> Running {
        self.start_with(config, |router| router).await
    }

    pub(crate) async fn start_with(&self, config: &str, change: impl FnOnce(Router) -> Router) -> Running {
        let config = Config::load(&self.0.path().join(config)).unwrap_or_else(|faults| panic!("{faults}"));
        let router = change(Router::new(config, Arc::new(Policies)));
        let bound = router.bind().await.unwrap_or_else(|error| panic!("{error}"));
        let (address, reloader) = (bound.local_addr(), bound.reloader());
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(bound.serve(async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        Running { address, reloader, stop, task, http: reqwest::Client::new() }
    }
}

impl Running {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        let response = self.http.get(self.url(path)).bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let response = self.http.post(self.url(path)).bearer_auth(token).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(crate) async fn text(&self, path: &str, token: &str) -> String {
        self.http.get(self.url(path)).bearer_auth(token).send().await.unwrap().text().await.unwrap()
    }

    /// The first controller, once it is as wanted.
    pub(crate) async fn until(&self, token: &str, wanted: impl Fn(&Value) -> bool) {
        let looking = async {
            while !wanted(&self.get("/v1/controllers", token).await.1["controllers"][0]) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), looking).await.expect("it comes to be as wanted");
    }

    pub(crate) async fn policy_version(&self, token: &str) -> String {
        self.get("/v1/controllers", token).await.1["controllers"][0]["policy_version"].as_str().unwrap().to_owned()
    }

    /// A job's record once its chain has decided.
    pub(crate) async fn settled(&self, token: &str, id: &str) -> Value {
        loop {
            let record = self.get(&format!("/v1/jobs/{id}"), token).await.1;
            if record["state"] != "routing" {
                return record;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Attaches the native runner.
    pub(crate) fn runner(&self, token: &str) -> JoinHandle<()> {
        let connection = Connection::new(&self.url("")).unwrap().token(Token::new(token).unwrap(), false).unwrap();
        let (keep, shutdown) = watch::channel(Shutdown::default());
        tokio::spawn(async move {
            let _keep = keep;
            Runner::new(connection, "r1").capacity(2).run(shutdown).await.unwrap();
        })
    }

    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
    }
}

/// Follows a job to its end.
pub(crate) async fn eventually_final(router: &Running, token: &str, id: &str) -> Value {
    use jobgate_proto::job::v1::{WatchRequest, jobs_client::JobsClient};

    let channel = tonic::transport::Endpoint::from_shared(router.url("")).unwrap().connect().await.unwrap();
    let mut request = tonic::Request::new(WatchRequest { ids: vec![id.to_owned()] });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let mut records = JobsClient::new(channel).watch(request).await.unwrap().into_inner();
    let followed = async { while records.message().await.unwrap().is_some() {} };
    tokio::time::timeout(std::time::Duration::from_secs(30), followed).await.expect("the job comes to an end");
    router.get(&format!("/v1/jobs/{id}"), token).await.1
}
