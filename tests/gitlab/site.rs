//! A jobgate before the fake GitLab.

use crate::{
    gitlab::{GitLab, Settings},
    gitlab_runner::FakeRunner,
    support::{Running, Site},
};

/// The runner that most tests have. Its id in GitLab is 1, its name in jobgate `gpu-1`.
pub const TOKEN: &str = "glrt-token-of-gpu-1";
/// A token of jobgate's own, to look at decisions.
pub const CI: &str = "ci-token-0123456789abcdef";

/// Rejects by the job's name: `forbidden` by policy.
pub const POLICY: &str = "
apiVersion: jobgate/v1
kind: Policy
name: names
rules:
  - name: not-forbidden
    forbid: { jobs: [forbidden] }
    message: \"{job.name} is a name that nobody may use\"
";

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

    /// Without a controller at all.
    pub fn open() -> Self {
        Self::default()
    }

    pub fn config(&self, gitlab: &GitLab) -> String {
        let Self { section, controllers, more, port, .. } = self;
        let external = if *port == 0 { 1 } else { *port };
        let controllers = if controllers.is_empty() { String::new() } else { format!("controllers:\n{controllers}") };
        format!(
            "listen: 127.0.0.1:{port}\nexternal_url: http://127.0.0.1:{external}\ngitlab:\n  url: {}\n  runners: [{{ id: 1, name: gpu-1 }}]\n{section}\
             {controllers}tokens:\n  - {{ name: ci, token_file: ci.token, may: [submit, read, operate] }}\n{more}",
            gitlab.url()
        )
    }

    /// One whose `external_url` is where it listens, so that discovery leads back to it.
    pub async fn over_grpc() -> World {
        // Taken and given back: nobody else takes it in between, as the system gives out others first.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, ..Self::new() }.start().await
    }

    pub async fn start(self) -> World {
        let gitlab = GitLab::start_with(self.gitlab.clone()).await;
        gitlab.runner(TOKEN);
        let site = Site::new();
        site.file("names.yaml", POLICY);
        site.file("ci.token", CI);
        site.file("jobgate.yaml", &self.config(&gitlab));
        let jobgate = site.start("jobgate.yaml").await;
        World { gitlab, site, jobgate }
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
    pub async fn decisions(&self, job: u64) -> Vec<serde_json::Value> {
        let (status, answer) = self.jobgate.get(&format!("/v1/decisions?job=gitlab-{job}"), CI).await;
        assert_eq!(status, 200, "{answer}");
        answer["decisions"].as_array().unwrap().clone()
    }
}
