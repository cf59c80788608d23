//! A jobgate process before the fake GitLab, on a directory that outlives it.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{sync::watch, task::block_in_place, time::timeout};

use crate::{
    gitlab::{GitLab, Settings},
    gitlab_runner::FakeRunner,
    program::{Folder, Server},
};

pub const TOKEN: &str = "glrt-token-of-gpu-1";
/// The manager that most tests have.
pub const MANAGER: &str = "s_0123456789ab";
/// A controller that rejects by the job's name.
pub const NAMES: &str = "  - { name: names, scope: instance, policy: names.yaml }\n";
const POLICY: &str = include_str!("../data/names.yaml");
/// Longest wait for anything that does not wait for a runner's word.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Jobgate {
    folder: Folder,
    server: Option<Server>,
    /// Where it listens; another port after each start.
    url: watch::Sender<String>,
    http: reqwest::Client,
}

/// How many hand-outs are at each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandOuts {
    pub asking: u64,
    pub delivering: u64,
    pub failing: u64,
}

/// A GitLab that knows the runner, and a jobgate before it with these controllers.
pub async fn world(controllers: &str) -> (Arc<GitLab>, Jobgate) {
    let gitlab = GitLab::start_with(Settings::default()).await;
    gitlab.runner(TOKEN);
    let jobgate = Jobgate::new(&gitlab, controllers);
    (Arc::new(gitlab), jobgate)
}

impl Jobgate {
    pub fn new(gitlab: &GitLab, controllers: &str) -> Self {
        let folder = Folder::new();
        let config = format!(
            "listen: 127.0.0.1:0\ngitlab:\n  url: {}\n  runners: [{{ id: 1, name: gpu-1 }}, {{ id: 2, name: gpu-2 }}]\n\
             controllers:\n{controllers}",
            gitlab.url()
        );
        folder.write("jobgate.yaml", &config);
        folder.write("names.yaml", POLICY);
        let mut jobgate =
            Self { folder, server: None, url: watch::Sender::new(String::new()), http: reqwest::Client::new() };
        jobgate.start();
        jobgate
    }

    pub fn start(&mut self) {
        let mut server = Server::start(self.folder.path(), &["serve", "--config", "jobgate.yaml"]);
        let line = block_in_place(|| server.says("the router listens"));
        let address = line.rsplit_once("address=").unwrap().1.trim().to_owned();
        self.url.send_replace(format!("http://{address}"));
        self.server = Some(server);
    }

    /// SIGKILL, at once.
    pub fn kill(&mut self) {
        block_in_place(|| drop(self.server.take().unwrap()));
    }

    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    pub fn stop(mut self) {
        let (code, log) = block_in_place(|| self.server.take().unwrap().stopped());
        assert_eq!(code, Some(0), "{log}");
    }

    pub fn url(&self) -> String {
        self.url.borrow().clone()
    }

    pub fn urls(&self) -> watch::Receiver<String> {
        self.url.subscribe()
    }

    /// The runner as it is now: at this URL. Before a restart it was the same one, at another.
    pub fn runner(&self) -> FakeRunner {
        FakeRunner::new(self.url(), TOKEN).system_id(MANAGER)
    }

    async fn text(&self, path: &str) -> String {
        self.http.get(format!("{}{path}", self.url())).send().await.unwrap().text().await.unwrap()
    }

    /// The decisions about a job of GitLab. What was told to the task that owns the state before is written when this
    /// answers: the task goes on only after a commit.
    pub async fn decisions(&self, job: u64) -> Vec<Value> {
        let text = self.text(&format!("/v1/decisions?job=gitlab-{job}")).await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        match answer["error"]["code"].as_str() {
            Some("not_found") => Vec::new(),
            _ => answer["decisions"].as_array().unwrap_or_else(|| panic!("{answer}")).clone(),
        }
    }

    pub async fn handouts(&self) -> HandOuts {
        let text = self.text("/metrics").await;
        let count = |stage: &str| {
            let name = format!("jobgate_gitlab_handouts{{stage=\"{stage}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(name.as_str())?.parse().ok()).unwrap_or_default()
        };
        HandOuts { asking: count("asking"), delivering: count("delivering"), failing: count("failing") }
    }

    /// Waits until hand-outs are so, and that is written.
    pub async fn until(&self, wanted: HandOuts) {
        let looking = async {
            while self.handouts().await != wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("hand-outs never come to be {wanted:?}"));
        self.decisions(0).await;
    }
}
