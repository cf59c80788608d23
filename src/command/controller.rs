use std::{path::PathBuf, time::Duration};

use jobgate_controllers::{PolicyHandle, ReloadOutcome, watch};
use jobgate_sdk::{ClientTls, Serve, ServeError, ServerTls, Token, serve};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use super::{policy, signals};
use crate::output::{Ended, Exit, Failure, Output};

/// Serve Rego and YAML policies as a controller process
///
/// It listens for routers, or attaches to one. Policies are reloaded when their files change, and on SIGHUP; faulty ones are logged, and the
/// last good version goes on deciding. SIGTERM or SIGINT: open questions are answered first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  jobgate controller --policy policies/ --listen 127.0.0.1:7501
  jobgate controller --policy policies/ --attach https://jobgate.acme.example \\
      --name payments --token-file payments.token")]
#[command(group = clap::ArgGroup::new("way").required(true).args(["listen", "attach"]))]
pub(super) struct Args {
    /// Policy file or directory; may be given again
    #[arg(long = "policy", required = true, value_name = "PATH")]
    policies: Vec<PathBuf>,
    #[command(flatten)]
    options: policy::Options,
    /// Address to listen on for routers
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// URL of the router to attach to
    #[arg(long, value_name = "URL", requires = "name", requires = "token_file")]
    attach: Option<String>,
    /// Name of the controller in the router's configuration
    #[arg(long)]
    name: Option<String>,
    /// File with the token: to show when attaching, to ask for when listening
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the certificate chain to listen with
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "listen")]
    tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// PEM file of the authorities to trust: the router's when attaching, its callers' when listening
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Attach over http:// beyond this machine, readable by all
    #[arg(long, requires = "attach")]
    insecure: bool,
    /// Questions to work on at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_in_flight: usize,
}

/// Files are read so often even where the system does not say that they changed.
const BACKSTOP: Duration = Duration::from_secs(30);

impl Args {
    pub(super) async fn run(&self, _output: &mut Output) -> Ended {
        if self.listen.is_some() && self.ca.is_some() && self.tls_cert.is_none() {
            return Err(Failure::new("--ca needs --tls-cert and --tls-key when listening"));
        }
        let (options, _) = self.options.load_options()?;
        let (handle, warnings) = PolicyHandle::load(&self.policies, options)?;
        for warning in warnings {
            tracing::warn!("{}", warning.one_line());
        }
        let version = handle.version();
        let (publish, published) = tokio::sync::watch::channel(version.borrow().to_string());
        let watched = handle.clone();
        let _watcher = AbortOnDropHandle::new(tokio::spawn(async move {
            watch(&watched, BACKSTOP, |outcome| {
                tell(&outcome);
                publish.send_replace(watched.current().version().to_string());
            })
            .await;
        }));
        let reloaded = handle.clone();
        let _hangups = AbortOnDropHandle::new(tokio::spawn(async move {
            let Ok(mut hangups) = signal(SignalKind::hangup()) else { return };
            while hangups.recv().await.is_some() {
                tell(&reloaded.reload().await);
            }
        }));
        let serve = serve(handle)
            .named(self.name.clone().unwrap_or_default())
            .version(env!("CARGO_PKG_VERSION"))
            .policy_version(published)
            .max_in_flight(self.max_in_flight);
        self.serve(serve).await.map_err(|error| Failure::new(causes(&error)))?;
        Ok(Exit::Good)
    }

    async fn serve(&self, serve: Serve) -> Result<(), ServeError> {
        let told = signals::shutdown().map_err(|failure| ServeError::Option(failure.to_string()))?;
        let token = self.token_file.as_ref().map(Token::from_file);
        if let (Some(router), Some(token)) = (&self.attach, token.clone()) {
            let tls = self.ca.iter().fold(ClientTls::new(), ClientTls::ca);
            let mut attach = serve.attach(router, token).tls(tls).with_shutdown(signals::first(told));
            if self.insecure {
                attach = attach.insecure();
            }
            return attach.await;
        }
        let address = self.listen.clone().unwrap_or_default();
        let mut listen = serve.listen(address).with_shutdown(signals::first(told));
        if let Some(token) = token {
            listen = listen.token(token);
        }
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            listen = listen.tls(self.ca.iter().fold(ServerTls::from_files(certificate, key), ServerTls::client_ca));
        }
        listen.await
    }
}

fn tell(outcome: &ReloadOutcome) {
    match outcome {
        ReloadOutcome::Unchanged => {}
        ReloadOutcome::Published { version, warnings } => {
            tracing::info!(%version, "policies reloaded");
            warnings.iter().for_each(|warning| tracing::warn!("{}", warning.one_line()));
        }
        ReloadOutcome::Kept { version, faults } => {
            tracing::error!(%version, "policies are faulty; this older version goes on deciding");
            faults.iter().for_each(|fault| tracing::error!("{}", fault.one_line()));
        }
    }
}

/// An error and what caused it, in one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !line.contains(&text) {
            line.push_str(&format!(": {text}"));
        }
        cause = next.source();
    }
    line
}
