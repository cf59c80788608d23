//! In front of GitLab: polls, bodies, idle runners and the job router's call, through jobgate and through a plain proxy.

mod bodies;
mod client;
mod fake;
mod grpc;
mod idle;
mod polls;
mod proxy;

pub(crate) use bodies::rows as bodies;
pub(crate) use client::hold;
pub(crate) use fake::serve as fake;
pub(crate) use grpc::rows as grpc;
pub(crate) use idle::rows as idle;
pub(crate) use polls::rows as polls;
pub(crate) use proxy::serve as proxy;

use bytes::Bytes;

use self::{client::Runner, fake::PIECE, polls::Fleet};
use crate::{
    Result,
    child::Server,
    fixtures,
    measure::{Sample, closed_loop},
    site::{self, Site},
};

/// A fake GitLab, and beside each other what stands in front of it: a plain proxy, and a router with three policies.
pub(crate) struct Sides {
    pub(crate) router: Site,
    pub(crate) proxy: Server,
    pub(crate) gitlab: Server,
}

impl Sides {
    /// GitLab answers job requests in this way, after so many milliseconds.
    pub(crate) fn start(way: &str, after_ms: u64) -> Result<Self> {
        let gitlab = Server::start("gitlab", &[way, &after_ms.to_string()])?;
        let proxy = Server::start("proxy", &[&gitlab.said])?;
        Ok(Self { router: router(&gitlab)?, proxy, gitlab })
    }
}

/// Length of a large body under `perf`.
const LARGE: u64 = 20_000_000;

/// A router alone, and who calls it.
pub(crate) struct Ours {
    pub(crate) router: Site,
    fleet: Fleet,
    what: String,
    _gitlab: Server,
}

impl Ours {
    /// `job`, `empty`, `trace`, or `upload` and `download` of 20 MB.
    pub(crate) async fn start(what: &str, runners: usize) -> Result<Self> {
        let gitlab = Server::start("gitlab", &[if what == "job" { "job" } else { "empty" }, "0"])?;
        let router = router(&gitlab)?;
        let fleet = Fleet::connect(&router.router.said, runners).await?;
        Ok(Self { router, fleet, what: what.to_owned(), _gitlab: gitlab })
    }

    /// So many calls, all runners at once.
    pub(crate) async fn calls(&self, count: usize) -> Result<Sample> {
        let (log, piece) = (Bytes::from(vec![b'x'; 4_000]), Bytes::from(vec![b'x'; PIECE]));
        let call = async |runner: &mut Runner| match &*self.what {
            "job" => runner.job().await.map(drop),
            "empty" => runner.poll(Some("2")).await.map(drop),
            "upload" => runner.upload(&piece, LARGE).await,
            "download" => runner.download(LARGE).await,
            _ => runner.trace(log.clone()).await,
        };
        closed_loop(self.fleet.len(), count, async |_| self.fleet.with(call).await).await
    }
}

/// A router as `jobgate serve` makes it, with its state on the disk, in front of this GitLab.
pub(crate) fn router(gitlab: &Server) -> Result<Site> {
    let folder = site::folder()?;
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
    // Watched for changes: not where the state is written.
    std::fs::create_dir(folder.path().join("policies"))?;
    for level in ["instance", "group", "project"] {
        file(&format!("policies/{level}.yaml"), fixtures::YAML)?;
    }
    file("ci.token", site::SUBMITTER)?;
    let text = format!(
        "listen: 127.0.0.1:0
state: state
gitlab: {{ url: \"{}\" }}
controllers:
  - {{ name: instance, scope: instance, policy: policies/instance.yaml }}
  - {{ name: group, scope: \"group:acme\", policy: policies/group.yaml }}
  - {{ name: project, scope: \"project:{}\", policy: policies/project.yaml }}
tokens:
  - {{ name: ci, token_file: ci.token, may: [submit, read] }}
",
        gitlab.url(),
        fixtures::PROJECT
    );
    file("jobgate.yaml", &text)?;
    Site::open("router", folder)
}
