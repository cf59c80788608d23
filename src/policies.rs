use std::{sync::Arc, time::Duration};

use jobgate_controllers::{LoadOptions, PolicyHandle, ReloadOutcome, watch};
use jobgate_router::{LoadedPolicy, PolicySource, PolicySpec, PolicyStatus};
use jobgate_sdk::{AdmissionRequest, Controller, Verdict, async_trait};
use jobgate_yaml::Faults;
use tokio::sync;
use tokio_util::task::AbortOnDropHandle;

/// Files are read so often even where the system does not say that they changed.
const BACKSTOP: Duration = Duration::from_secs(30);

/// The Rego and YAML engines as the router's policies; joins the two crates that do not know each other.
#[derive(Clone, Debug, Default)]
pub struct Policies;

/// Policies that are reloaded when their files change, for as long as they are used.
struct Reloaded {
    handle: PolicyHandle,
    _watcher: AbortOnDropHandle<()>,
}

impl PolicySource for Policies {
    fn load(&self, spec: &PolicySpec<'_>) -> Result<LoadedPolicy, Faults> {
        let options =
            LoadOptions { expose: spec.expose.words().map(str::to_owned).collect(), ..LoadOptions::default() };
        let (handle, warnings) = PolicyHandle::load(spec.paths, options)?;
        let (publish, status) = sync::watch::channel(status(&handle));
        let (watched, controller) = (handle.clone(), spec.controller.to_owned());
        let watcher = tokio::spawn(async move {
            watch(&watched, BACKSTOP, |outcome| {
                tell(&controller, &outcome);
                publish.send_replace(self::status(&watched));
            })
            .await;
        });
        let reloaded = Reloaded { handle, _watcher: AbortOnDropHandle::new(watcher) };
        Ok(LoadedPolicy { controller: Arc::new(reloaded), status, warnings })
    }
}

#[async_trait]
impl Controller for Reloaded {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        self.handle.admit(request).await
    }
}

fn status(handle: &PolicyHandle) -> PolicyStatus {
    let current = handle.current();
    PolicyStatus { version: current.version().clone(), stale: handle.is_stale(), reads_runner: current.reads().runner }
}

fn tell(controller: &str, outcome: &ReloadOutcome) {
    match outcome {
        ReloadOutcome::Unchanged => {}
        ReloadOutcome::Published { version, warnings } => {
            tracing::info!(controller, %version, "policies reloaded");
            for warning in warnings {
                tracing::warn!(controller, "{}", warning.one_line());
            }
        }
        ReloadOutcome::Kept { version, faults } => {
            tracing::error!(controller, %version, "policies are faulty; this older version goes on deciding");
            for fault in faults.iter() {
                tracing::error!(controller, "{}", fault.one_line());
            }
        }
    }
}
