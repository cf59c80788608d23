use std::{path::PathBuf, sync::Arc};

use jobgate_router::{Router, config::Config};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_util::task::AbortOnDropHandle;

use super::signals;
use crate::{
    Policies,
    output::{Ended, Exit, Failure, Output},
};

/// Run the router
///
/// Policies, certificates, the configuration and its token files are read again when their contents change, and at once on
/// SIGHUP. A faulty configuration is logged, and the old one stays. SIGTERM or SIGINT: no new questions, open ones end
/// within 30 s, runners are told to drain.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 after a drained shutdown, 2 when it could not start or was told twice to stop.

Example:
  jobgate serve --config jobgate.yaml")]
pub(super) struct Args {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Args {
    pub(super) async fn run(&self, _output: &mut Output) -> Ended {
        let told = signals::shutdown()?;
        let config = Config::load(&self.config)?;
        let trial = config.is_trial();
        if config.controllers.is_empty() {
            tracing::warn!("no controllers are configured: nobody is asked about any job");
        }
        let gitlab = config.gitlab.clone();
        let bound = Router::new(config, Arc::new(Policies)).bind().await.map_err(Failure::new)?;
        tracing::info!(address = %bound.local_addr(), "the router listens");
        if let Some(gitlab) = gitlab {
            tracing::info!(
                gitlab = gitlab.url,
                "the router stands in front of GitLab: see that nobody else may ask it for jobs"
            );
        }
        if trial {
            tracing::warn!("trial mode: no token is asked for, and only this machine can reach the router");
        }
        let look: Arc<Notify> = Arc::default();
        let following = bound.reloader().follow(self.config.clone(), look.clone());
        let _following = AbortOnDropHandle::new(tokio::spawn(async { tokio::join!(following, hangups(look)).0 }));
        let mut again = told.clone();
        tokio::select! {
            ended = Box::pin(bound.serve(signals::first(told))) => ended.map(|()| Exit::Good).map_err(Failure::new),
            _ = again.wait_for(|now| *now == crate::runner::Shutdown::Now) => {
                Err(Failure::new("stopped by a second signal, before open questions and streams had ended"))
            }
        }
    }
}

/// SIGHUP asks for a look at the files at once.
async fn hangups(look: Arc<Notify>) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    while hangups.recv().await.is_some() {
        look.notify_one();
    }
}
