use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// A controller as people look at it.
#[derive(Clone, Debug, Serialize)]
pub struct ControllerStatus {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// Where it applies.
    pub scope: String,
    /// `disabled`, `enabled` or `dry_run`.
    pub state: &'static str,
    /// `policy`, `dialled` or `attached`.
    pub kind: &'static str,
    /// Version of the policy it decides by; absent when it is not versioned, or not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<Arc<str>>,
    /// True while an older version decides because the newest one is faulty or gone.
    pub stale: bool,
    /// Instances that can be asked: 1 for a policy, connections or streams otherwise. 0: absent.
    pub attached: u32,
    /// Jobs its scope matched since the router started.
    pub matched_jobs: u64,
}

/// Tells how the controllers are right now.
pub type ControllersStatus = Arc<dyn Fn() -> Vec<ControllerStatus> + Send + Sync>;

/// Whether the router may be sent work; cheap to clone. Absent controllers do not count: their jobs fail closed.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<Conditions>);

/// What readiness is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Conditions {
    pub(super) listening: bool,
    pub(super) store: bool,
    pub(super) policies: bool,
    pub(super) draining: bool,
}

impl Readiness {
    /// Nothing is ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// Whether the store takes writes.
    pub fn set_store(&self, open: bool) {
        self.change(|now| now.store = open);
    }

    /// Whether every in-process policy has a version that decides.
    pub fn set_policies(&self, compiled: bool) {
        self.change(|now| now.policies = compiled);
    }

    /// Whether all of it holds, and the router is not shutting down.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions().hold()
    }

    pub(super) fn set_listening(&self, listening: bool) {
        self.change(|now| now.listening = listening);
    }

    pub(super) fn set_draining(&self) {
        self.change(|now| now.draining = true);
    }

    pub(super) fn conditions(&self) -> Conditions {
        *self.0.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Conditions> {
        self.0.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) {
        self.0.send_if_modified(|now| {
            let before = *now;
            change(now);
            *now != before
        });
    }
}

impl Conditions {
    pub(super) fn hold(self) -> bool {
        self.listening && self.store && self.policies && !self.draining
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}
