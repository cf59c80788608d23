use std::{path::PathBuf, sync::Arc};

use jobgate_sdk::Controller;
use jobgate_yaml::{Fault, Faults};
use tokio::sync::watch;

use crate::view::Expose;

/// Makes controllers of policy files, whichever language they are written in. The router asks it once for each controller with
/// `policy:`; reloading them when their files change is the source's own business.
pub trait PolicySource: Send + Sync + 'static {
    /// Compiles policies. Called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// All faults of all files.
    fn load(&self, spec: &PolicySpec<'_>) -> Result<LoadedPolicy, Faults>;
}

/// Which policies, for which controller.
#[derive(Clone, Copy, Debug)]
pub struct PolicySpec<'a> {
    /// Name of the controller.
    pub controller: &'a str,
    /// Its files and directories.
    pub paths: &'a [PathBuf],
    /// What it is told beyond the plain view: reading anything else is a fault.
    pub expose: &'a Expose,
}

/// Policies as a controller, and how they are.
pub struct LoadedPolicy {
    /// The controller.
    pub controller: Arc<dyn Controller>,
    /// What it decides by now, and from now on.
    pub status: watch::Receiver<PolicyStatus>,
    /// What is not wrong, but worth a look.
    pub warnings: Vec<Fault>,
}

/// What a policy controller decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatus {
    /// Digest of its files.
    pub version: Arc<str>,
    /// True while a faulty or vanished newer version is not used.
    pub stale: bool,
    /// Whether it reads the runner: then it is asked when one is chosen.
    pub reads_runner: bool,
}

/// A source for routers whose controllers have no policy files: every `policy:` is a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPolicies;

impl PolicySource for NoPolicies {
    fn load(&self, spec: &PolicySpec<'_>) -> Result<LoadedPolicy, Faults> {
        let message = "this router was built without policy engines";
        Err(Fault::new(format!("controller `{}`", spec.controller), message).into())
    }
}
