use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jobgate_router::{Reloader, Router, config::Config};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

use super::signals;
use crate::{
    Policies,
    output::{Ended, Exit, Failure, Output},
};

/// Run the router
///
/// Policies, certificates and the configuration are read again when their files change, and on SIGHUP (which also reads token
/// files again). A faulty configuration is logged, and the old one stays. SIGTERM or SIGINT: no new questions, open ones end
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

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

impl Args {
    pub(super) async fn run(&self, _output: &mut Output) -> Ended {
        let told = signals::shutdown()?;
        let seen = Seen::now(&self.config, None);
        let config = Config::load(&self.config)?;
        let trial = config.is_trial();
        if config.controllers.is_empty() {
            tracing::warn!("no controllers are configured: nobody is asked about any job");
        }
        let bound = Router::new(config, Arc::new(Policies)).bind().await.map_err(Failure::new)?;
        tracing::info!(address = %bound.local_addr(), "the router listens");
        if trial {
            tracing::warn!("trial mode: no token is asked for, and only this machine can reach the router");
        }
        let reloading = reload(self.config.clone(), bound.reloader(), seen);
        let _reloading = AbortOnDropHandle::new(tokio::spawn(reloading));
        let mut again = told.clone();
        tokio::select! {
            () = Box::pin(bound.serve(signals::first(told))) => Ok(Exit::Good),
            _ = again.wait_for(|now| *now == crate::runner::Shutdown::Now) => {
                Err(Failure::new("stopped by a second signal, before open questions and streams had ended"))
            }
        }
    }
}

/// What the files were when they were last read.
#[derive(PartialEq, Eq)]
struct Seen {
    config: Option<Vec<u8>>,
    certificate: Vec<Option<Vec<u8>>>,
}

impl Seen {
    fn now(path: &Path, config: Option<&Config>) -> Self {
        let tls = config.and_then(|config| config.tls.as_ref());
        let files = tls.iter().flat_map(|tls| [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()]).flatten();
        Self { config: std::fs::read(path).ok(), certificate: files.map(|file| std::fs::read(file).ok()).collect() }
    }
}

async fn reload(path: PathBuf, reloader: Reloader, seen: Seen) {
    let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Seen { certificate: Seen::now(&path, Some(&reloader.config())).certificate, ..seen };
    loop {
        let told = tokio::select! {
            _ = look.tick() => false,
            hangup = hangups.recv() => hangup.is_some(),
        };
        let now = Seen::now(&path, Some(&reloader.config()));
        if told || now.config != seen.config {
            configuration(&path, &reloader).await;
        }
        if told || now.certificate != seen.certificate {
            match reloader.reload_certificate() {
                Ok(()) => tracing::info!("certificate reloaded"),
                Err(error) => tracing::error!(%error, "the new certificate is faulty; the old one stays"),
            }
        }
        seen = now;
    }
}

async fn configuration(path: &Path, reloader: &Reloader) {
    let config = match Config::load(path) {
        Ok(config) => reloader.reload(config).await,
        Err(faults) => Err(faults),
    };
    match config {
        Ok(restart) if restart.is_empty() => tracing::info!("configuration reloaded"),
        Ok(restart) => tracing::warn!(needs_restart = restart.join(", "), "configuration reloaded, but for these keys"),
        Err(faults) => {
            tracing::error!("the new configuration is faulty; the old one stays");
            faults.iter().for_each(|fault| tracing::error!("{}", fault.one_line()));
        }
    }
}
