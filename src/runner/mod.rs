//! A native runner: takes jobs from the router's own queue and executes their scripts with `sh`.
//!
//! It is small on purpose, for trials and tests: no containers, no caches, no artifacts. Jobs run as the user of the runner,
//! each in a scratch directory and a process group of its own, so give it a user with nothing to lose.

mod backoff;
mod execution;
mod group;
mod leases;
mod mask;
mod scratch;
mod script;
mod session;

use std::path::PathBuf;

use jobgate_router::TaintKind;
use tokio::sync::watch;

use crate::connection::Connection;

/// A runner, not attached yet.
#[derive(Clone, Debug)]
pub struct Runner {
    connection: Connection,
    name: String,
    system_id: String,
    capacity: u32,
    tags: Vec<String>,
    taints: Vec<(TaintKind, String)>,
    scratch: PathBuf,
}

/// What a running runner is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shutdown {
    /// Go on.
    #[default]
    Not,
    /// Take no new jobs, end the running ones, deliver their results, and stop.
    Drain,
    /// Kill all jobs, report them, and stop within seconds.
    Now,
}

/// Why a runner gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// The router does not want it.
    #[error("the router at {url} refused this runner: {message}")]
    Refused {
        /// The router.
        url: String,
        /// What it said.
        message: String,
    },
    /// The token is another runner's.
    #[error(
        "the token belongs to runner `{token_of}`, not to `{name}`; use that runner's token file, or --name {token_of}"
    )]
    OtherName {
        /// As this runner calls itself.
        name: String,
        /// As the router calls the owner of the token.
        token_of: String,
    },
    /// Another process took its place.
    #[error("another runner attached as system id `{system_id}` ({message}); give each one its own by --system-id")]
    Replaced {
        /// The id they share.
        system_id: String,
        /// What the router said.
        message: String,
    },
    /// The router was gone for too long.
    #[error("stopped with the results of {results} job(s) not recorded by the router")]
    Undelivered {
        /// How many.
        results: usize,
    },
}

impl Runner {
    /// A runner by the name that the router's configuration gives to the owner of the connection's token; without a token, for a
    /// router in trial mode, by any name. It runs one job at
    /// a time, below the system's directory for temporary files, and its system id is its name and host.
    #[must_use]
    pub fn new(connection: Connection, name: &str) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let system_id = format!("{name}@{host}").chars().take(128).collect();
        Self {
            connection,
            name: name.to_owned(),
            system_id,
            capacity: 1,
            tags: Vec::new(),
            taints: Vec::new(),
            scratch: std::env::temp_dir(),
        }
    }

    /// How many jobs it runs at once, at least 1.
    #[must_use]
    pub fn capacity(mut self, jobs: u32) -> Self {
        self.capacity = jobs.max(1);
        self
    }

    /// Tells it from other runners with the same token.
    #[must_use]
    pub fn system_id(mut self, id: impl Into<String>) -> Self {
        self.system_id = id.into();
        self
    }

    /// What it offers, told to a router in trial mode only: any other knows it from its configuration.
    #[must_use]
    pub fn tags(mut self, tags: impl IntoIterator<Item = String>) -> Self {
        self.tags = tags.into_iter().collect();
        self
    }

    /// Keeps itself out of leadership or of jobs, for a reason of one line that may be empty. The router remembers it: it stays
    /// until somebody who operates the router takes it away.
    #[must_use]
    pub fn taint(mut self, kind: TaintKind, reason: impl Into<String>) -> Self {
        self.taints.push((kind, reason.into()));
        self
    }

    /// Below which each job gets a directory of its own.
    #[must_use]
    pub fn scratch(mut self, directory: impl Into<PathBuf>) -> Self {
        self.scratch = directory.into();
        self
    }

    /// Attaches and executes jobs until `shutdown` says otherwise. Once attached it comes back after any outage, with its
    /// leases and its unrecorded results. Dropped, it kills its jobs.
    ///
    /// # Errors
    ///
    /// When the router refuses it at first, another process takes its place, or it had to stop without having delivered
    /// every result.
    pub async fn run(self, shutdown: watch::Receiver<Shutdown>) -> Result<(), RunnerError> {
        session::Session::new(self, shutdown).run().await
    }
}
