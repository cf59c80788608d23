//! Rego policies as controllers.
//!
//! [`RegoPolicy::load`] compiles the `.rego` files of a directory and refuses whatever would admit in silence;
//! [`RegoPolicy::decide`] evaluates them, strictly, on threads of their own. The engine is regorus' interpreter: its virtual
//! machine is faster but turns errors into undefined, which for a deny rule means *admit*.

mod check;
mod decide;
mod guard;
mod input;
mod place;
mod pool;
mod replica;
mod rules;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use jobgate_sdk::{AdmissionRequest, Verdict};
use jobgate_yaml::{Fault, Faults};

use crate::Exposed;
pub(crate) use replica::SourceFile;
use replica::{Recipe, RuleAt};

/// How a policy is loaded and run.
#[derive(Clone, Debug)]
pub(crate) struct RegoOptions {
    /// Package of the policy, dotted.
    pub(crate) package: String,
    /// What the router sends the controller beyond the ordinary.
    pub(crate) exposed: Exposed,
    /// Wall-clock time one evaluation may take.
    pub(crate) budget: Duration,
    /// Evaluation threads.
    pub(crate) workers: usize,
    /// Digest of the sources, put on every verdict.
    pub(crate) version: Arc<str>,
}

impl Default for RegoOptions {
    fn default() -> Self {
        Self {
            package: "jobgate".into(),
            exposed: Exposed::default(),
            budget: Duration::from_millis(500),
            workers: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
            version: "".into(),
        }
    }
}

/// A compiled Rego policy and the threads that evaluate it.
#[derive(Debug)]
pub(crate) struct RegoPolicy {
    policy: Arc<Recipe>,
    pool: pool::Pool,
}

impl RegoPolicy {
    /// Compiles the files of one directory into one policy. Test files are not among them.
    pub(crate) fn load(
        files: &[SourceFile],
        data: Option<serde_json::Value>,
        options: &RegoOptions,
    ) -> Result<Self, Faults> {
        let checked = check::check(files, data.as_ref(), options)?;
        let policy = Arc::new(Recipe {
            files: files.to_vec(),
            data,
            package: options.package.clone(),
            warns: checked.rules.iter().any(|rule| rule.set == "warn"),
            rules: checked.rules,
            version: options.version.clone(),
        });
        let broken = |what: String| Faults::from(Fault::new(options.package.clone(), what));
        let pool = pool::Pool::start(policy.clone(), options.budget, options.workers)
            .map_err(|error| broken(format!("no thread to evaluate it on: {error}")))?;
        Ok(Self { policy, pool })
    }

    /// Decides about one job, within the time it has left. Nothing here is parsed or copied per decision.
    pub(crate) async fn decide(&self, request: &AdmissionRequest) -> Verdict {
        self.pool.decide(request).await
    }

    /// Evaluations that did not stop in time and lost their thread, since the load.
    pub(crate) fn overdue(&self) -> u64 {
        self.pool.overdue()
    }
}
