//! A jobgate before the fake GitLab.

use std::time::Duration;

use jobgate_router::Router;
use serde_json::{Value, json};

use crate::{
    gitlab::{GitLab, JobDocument, Settings},
    gitlab_runner::{FakeRunner, Picked},
    support::{Running, Site},
};

/// The runner that most tests have. Its id in GitLab is 1, its name in jobgate `gpu-1`.
pub const TOKEN: &str = "glrt-token-of-gpu-1";
/// A token of jobgate's own, to look at decisions.
pub const CI: &str = "ci-token-0123456789abcdef";

/// Rejects by the job's name: `forbidden` by policy.
pub const POLICY: &str = include_str!("../data/names.yaml");

/// Everything of a test.
pub struct World {
    pub gitlab: GitLab,
    pub site: Site,
    pub jobgate: Running,
}

/// What a test changes of the usual.
#[derive(Clone, Default)]
pub struct Setup {
    pub gitlab: Settings,
    /// No runner of GitLab has a name here.
    pub unnamed: bool,
    /// Files beside the configuration.
    pub files: Vec<(&'static str, String)>,
    /// The path of the router's own URL.
    pub prefix: &'static str,
    /// Lines added below `gitlab:`, indented by two.
    pub section: &'static str,
    /// Entries of `controllers`.
    pub controllers: String,
    /// Lines added at the end.
    pub more: String,
    /// 0: any.
    pub port: u16,
}

impl Setup {
    pub fn new() -> Self {
        Self { controllers: "  - { name: names, scope: instance, policy: names.yaml }\n".to_owned(), ..Self::default() }
    }

    pub fn config(&self, gitlab: &GitLab) -> String {
        self.config_for(&gitlab.url())
    }

    /// Before anything at this URL.
    pub fn config_for(&self, url: &str) -> String {
        let Self { section, controllers, more, port, prefix, .. } = self;
        let external = if *port == 0 { 1 } else { *port };
        let runners = if self.unnamed { "" } else { "  runners: [{ id: 1, name: gpu-1 }, { id: 7, name: gpu-2 }]\n" };
        let controllers = if controllers.is_empty() { String::new() } else { format!("controllers:\n{controllers}") };
        format!(
            "listen: 127.0.0.1:{port}\nexternal_url: http://127.0.0.1:{external}{prefix}\ngitlab:\n  url: {url}\n{runners}{section}\
             {controllers}tokens:\n  - {{ name: ci, token_file: ci.token, may: [submit, read, operate] }}\n{more}"
        )
    }

    /// One whose `external_url` is where it listens, so that discovery leads back to it.
    pub async fn over_grpc() -> World {
        Self::new().on_a_known_port().start().await
    }

    pub fn on_a_known_port(self) -> Self {
        // Taken and given back: nobody else takes it in between, as the system gives out others first.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, ..self }
    }

    pub async fn start(self) -> World {
        self.start_with(|router| router).await
    }

    /// With more of the router changed than its configuration says.
    pub async fn start_with(self, change: impl FnOnce(Router) -> Router) -> World {
        let gitlab = GitLab::start_with(self.gitlab.clone()).await;
        gitlab.runner(TOKEN);
        let site = Site::new();
        site.file("names.yaml", POLICY);
        site.file("ci.token", CI);
        for (name, text) in &self.files {
            site.file(name, text);
        }
        site.file("jobgate.yaml", &self.config(&gitlab));
        let jobgate = site.start_with("jobgate.yaml", change).await;
        World { gitlab, site, jobgate }
    }

    pub fn file(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.files.push((name, text.into()));
        self
    }

    /// One more controller, as the configuration has it.
    pub fn controller(mut self, entry: &str) -> Self {
        self.controllers.push_str(&format!("  - {{ {entry} }}\n"));
        self
    }

    pub fn section(mut self, section: &'static str) -> Self {
        self.section = section;
        self
    }
}

impl World {
    pub async fn new() -> Self {
        Setup::new().start().await
    }

    /// The runner `gpu-1`, that asks jobgate.
    pub fn runner(&self) -> FakeRunner {
        FakeRunner::new(self.jobgate.url(""), TOKEN)
    }

    /// The decisions about a job of GitLab.
    pub async fn decisions(&self, job: u64) -> Vec<Value> {
        let (status, answer) = self.jobgate.get(&format!("/v1/decisions?job=gitlab-{job}"), CI).await;
        assert_eq!(status, 200, "{answer}");
        answer["decisions"].as_array().unwrap().clone()
    }

    /// A sample of `/metrics`, by its name and labels; 0 where it is not there yet.
    pub async fn metric(&self, sample: &str) -> i64 {
        let text = self.jobgate.text("/metrics", CI).await;
        let found = text.lines().filter_map(|line| line.strip_prefix("jobgate_gitlab_")?.strip_prefix(sample));
        // One that has labels, and is asked for without them, is the sum of all.
        found.filter_map(|rest| rest.trim_start_matches(|c| c != ' ').trim().parse::<i64>().ok()).sum()
    }

    /// Waits for a sample to have this value.
    pub async fn metric_is(&self, sample: &str, value: i64) {
        let looking = async {
            while self.metric(sample).await != value {
                tokio::task::yield_now().await;
            }
        };
        soon(sample, looking).await;
    }

    /// A call that the fake runner does not make, at jobgate.
    pub fn call(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let http = reqwest::Client::builder().http1_only().no_proxy().build().unwrap();
        http.request(method.parse().unwrap(), self.jobgate.url(path))
    }

    /// A poll with nothing repeated, under this `X-Request-Id`.
    pub async fn poll_as(&self, id: &str) -> reqwest::Response {
        let request = self.call("POST", "/api/v4/jobs/request").header("x-request-id", id);
        request.json(&poll_body()).send().await.unwrap()
    }

    /// Takes another configuration, of which the files are there.
    pub async fn reload(&self, setup: &Setup) {
        self.site.file("jobgate.yaml", &setup.config(&self.gitlab));
        let config = jobgate_router::config::Config::load(&self.site.path().join("jobgate.yaml")).unwrap();
        self.jobgate.reloader.reload(config).await.unwrap();
    }
}

/// What the smallest runner says.
pub fn poll_body() -> Value {
    json!({ "token": TOKEN, "system_id": "s_0123456789ab", "info": { "features": { "refspecs": true } } })
}

/// The job in the hands of somebody who has it from elsewhere than from jobgate.
pub fn picked(document: &JobDocument) -> Picked {
    Picked {
        id: document.id,
        token: document.token.clone(),
        bytes: document.bytes.clone(),
        headers: http::HeaderMap::new(),
        trace: Vec::new(),
        sent: 0,
        interval: None,
    }
}

/// Everything a test waits for comes within this, or never. Shorter than the 60 s after which a delivery that nobody confirmed is
/// given up: that must not pass for what a test waits for.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap_or_else(|_| panic!("it should have come long ago: {what}"))
}
