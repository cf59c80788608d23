//! A GitLab that answers on a real socket as its public runner API does, and does what a test says where the real one is
//! awkward. What it knows is in the facts about the runner protocol ("facts" in the comments, with the section).
//!
//! ```text
//! let gitlab = GitLab::start().await;
//! gitlab.runner("glrt-1");
//! gitlab.enqueue(JobBuilder::new(17).build());
//! gitlab.answers([Answer::Status(503)]);
//! let job = gitlab.ended(17).await;
//! ```

#![allow(dead_code, reason = "each test file uses its part")]

mod answers;
mod artifacts;
mod calls;
mod dispatch;
mod documents;
mod jobs;
mod ledger;
mod odd;
mod poll;
mod runners;
mod server;
mod settings;
mod shared;
mod trace;
mod update;

#[allow(unused_imports, reason = "each test file uses its part")]
pub use {
    answers::{Answer, Gate, Outage},
    artifacts::{Content, Upload, pattern_checksum},
    calls::{Call, Endpoint, Outcome},
    documents::{ALL_REASONS, JobBuilder, JobDocument},
    jobs::{Assignment, Job, Status},
    settings::Settings,
};

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use server::Server;
use shared::Shared;
use tokio::time::timeout;

/// Everything a test waits for comes within this, or never.
const PATIENCE: Duration = Duration::from_secs(60);

/// The fake. Stops, and cuts its connections, when dropped.
pub struct GitLab {
    shared: Arc<Shared>,
    server: Server,
}

impl GitLab {
    /// On a free port of this host.
    pub async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub async fn start_with(settings: Settings) -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), settings).await
    }

    /// On an address, for a process of its own.
    pub async fn listen(address: SocketAddr, settings: Settings) -> Self {
        let shared = Arc::new(Shared::new(settings));
        let server = Server::start(address, Arc::clone(&shared)).await;
        Self { shared, server }
    }

    /// What goes into a runner's `url`.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.server.address, self.shared.read(|state| state.settings.prefix.clone()))
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Changes how it behaves, from the next call on.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.shared.write(|state| change(&mut state.settings));
    }

    /// What the next calls of an endpoint meet, in the order in which they come.
    pub fn script(&self, endpoint: Endpoint, answers: impl IntoIterator<Item = Answer>) {
        self.shared.write(|state| state.scripts.entry(endpoint).or_default().extend(answers));
    }

    /// Forgets what no call has met yet.
    pub fn clear_scripts(&self) {
        self.shared.write(|state| state.scripts.clear());
    }

    /// [`GitLab::script`] for requests of jobs.
    pub fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script(Endpoint::Request, answers);
    }

    /// Begins or ends an outage. Refusing cuts the connections there are.
    pub async fn outage(&self, outage: Outage) {
        self.shared.write(|state| {
            state.outage = match outage {
                Outage::Status(status) => Some(status),
                Outage::Over | Outage::Refuse => None,
            };
        });
        match outage {
            Outage::Refuse => self.server.close().await,
            Outage::Over | Outage::Status(_) => self.server.open(Arc::clone(&self.shared)).await,
        }
    }

    /// Ends every connection there is, as a proxy does that restarts.
    pub fn cut_connections(&self) {
        self.server.cut();
    }
}

/// Waits, and says for what when it does not come.
async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("it should have come long ago: {what}"))
}
