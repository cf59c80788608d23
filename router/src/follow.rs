use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jobgate_yaml::Faults;
use tokio::sync::Notify;

use crate::{
    config::{Config, ServerTls},
    router::Reloader,
};

/// The files are read so often. Contents count, times do not: mounted configurations swap links and keep times.
const INTERVAL: Duration = Duration::from_secs(2);

impl Reloader {
    /// Reloads the configuration, the files it names and the certificate when their contents change, for as long as it is polled;
    /// at once when `now` says so. A faulty file is said once, and changes nothing.
    pub async fn follow(self, path: PathBuf, now: Arc<Notify>) {
        let mut follower =
            Follower { certificate: Certificate::read(self.config().tls.as_ref()), reloader: self, said: None };
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                // Somebody who asks wants to hear of every fault again.
                () = now.notified() => follower.said = None,
            }
            follower.look(&path).await;
        }
    }
}

struct Follower {
    reloader: Reloader,
    certificate: Certificate,
    /// The last faults that were said.
    said: Option<String>,
}

/// The contents of certificate, key and authority.
#[derive(PartialEq, Eq)]
struct Certificate(Vec<Option<Vec<u8>>>);

impl Follower {
    async fn look(&mut self, path: &Path) {
        let file = path.to_owned();
        // Reading may block; a task that panicked has read nothing.
        let Ok(read) = tokio::task::spawn_blocking(move || Config::load(&file)).await else { return };
        match read {
            Ok(config) if config == self.reloader.config() => self.said = None,
            Ok(config) => match self.reloader.reload(config).await {
                Ok(fixed) => {
                    self.said = None;
                    tracing::info!(path = %path.display(), "configuration reloaded");
                    if !fixed.is_empty() {
                        tracing::warn!(keys = ?fixed, "these keys take effect at the next start only");
                    }
                }
                Err(faults) => self.say(&faults),
            },
            Err(faults) => self.say(&faults),
        }
        self.look_at_certificate();
    }

    fn look_at_certificate(&mut self) {
        let now = Certificate::read(self.reloader.config().tls.as_ref());
        if now == self.certificate {
            return;
        }
        match self.reloader.reload_certificate() {
            Ok(()) => tracing::info!("certificate reloaded"),
            Err(error) => tracing::error!(%error, "the new certificate is faulty; the old one stays"),
        }
        self.certificate = now;
    }

    fn say(&mut self, faults: &Faults) {
        let text = faults.to_string();
        if self.said.as_ref() == Some(&text) {
            return;
        }
        tracing::error!("the new configuration is faulty; the old one stays");
        for fault in faults.iter() {
            tracing::error!("{}", fault.one_line());
        }
        self.said = Some(text);
    }
}

impl Certificate {
    fn read(tls: Option<&ServerTls>) -> Self {
        let Some(tls) = tls else { return Self(Vec::new()) };
        let files = [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()];
        Self(files.into_iter().flatten().map(|path| std::fs::read(path).ok()).collect())
    }
}
