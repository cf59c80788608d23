//! Rego policies as controllers.
//!
//! [`RegoPolicy::load`] compiles the `.rego` files of a directory and refuses whatever would admit in silence;
//! [`RegoPolicy::decide`] evaluates them, strictly, on threads of their own. The engine is regorus' interpreter: its virtual
//! machine is faster but turns errors into undefined, which for a deny rule means *admit*.

mod annotations;
mod builtins;
mod calls;
mod check;
mod decide;
mod explain;
mod fields;
mod graph;
mod guard;
mod input;
mod names;
mod place;
mod pool;
mod references;
mod replica;
mod rules;
mod shape;
mod source;
mod testing;
#[cfg(test)]
mod tests;
mod walk;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jobgate_sdk::{AdmissionRequest, Verdict};
use jobgate_yaml::{Fault, Faults};

use check::Checked;
pub(crate) use explain::Explanation;
pub(crate) use replica::SourceFile;
use replica::{Recipe, RuleAt};
pub(crate) use testing::TestRun;

use crate::{Exposed, PolicyExplained, Reads};

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
    budget: Duration,
    reads: Reads,
    fields: BTreeSet<&'static str>,
    lints: Vec<Fault>,
}

impl RegoPolicy {
    /// Compiles the files of one directory into one policy. Test files are not among them.
    pub(crate) fn load(
        files: &[SourceFile],
        data: Option<serde_json::Value>,
        options: &RegoOptions,
    ) -> Result<Self, Faults> {
        let broken = |what: String| Faults::from(Fault::new(options.package.clone(), what));
        let checked = pool::deep(|| check::check(files, data.as_ref(), options))
            .unwrap_or_else(|what| Err(broken(format!("it could not be checked: {what}"))))?;
        let policy = Arc::new(Recipe {
            files: files.to_vec(),
            data,
            package: options.package.clone(),
            warns: checked.rules.iter().any(|rule| rule.set == "warn"),
            rules: checked.rules.clone(),
            version: options.version.clone(),
        });
        let pool = pool::Pool::start(policy.clone(), options.budget, options.workers)
            .map_err(|error| broken(format!("no thread to evaluate it on: {error}")))?;
        let Checked { reads, fields, lints, .. } = checked;
        Ok(Self { policy, pool, budget: options.budget, reads, fields, lints })
    }

    /// What it reads beyond what every controller is sent.
    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Every field of the question it reads, dotted: `job.image.registry`.
    pub(crate) fn fields(&self) -> &BTreeSet<&'static str> {
        &self.fields
    }

    /// What is allowed but hardly meant.
    pub(crate) fn lints(&self) -> &[Fault] {
        &self.lints
    }

    /// Decides about one job, within the time it has left. Nothing here is parsed or copied per decision.
    pub(crate) async fn decide(&self, request: &AdmissionRequest) -> Verdict {
        self.pool.decide(request).await.policy_version(self.policy.version.clone())
    }

    /// What each of its rules makes of a job: which fired, where the others stopped, with which values. Much slower than
    /// deciding, and on a thread of its own that the caller waits for.
    pub(crate) fn explain(&self, request: &AdmissionRequest) -> Result<Explanation, String> {
        pool::deep(|| explain::explain(&self.policy, self.budget, request)).unwrap_or_else(Err)
    }

    /// As [`RegoPolicy::explain`], in the words all policies share.
    pub(crate) fn explained(&self, request: &AdmissionRequest) -> PolicyExplained {
        let file = self.policy.files.first().map(|file| file.path.display().to_string()).unwrap_or_default();
        let explained = |rules, prints, excluded| PolicyExplained {
            policy: self.policy.package.clone(),
            file,
            line: 1,
            excluded,
            rules,
            prints,
        };
        match self.explain(request) {
            Ok(Explanation { rules, prints }) => {
                explained(rules.iter().map(explain::RuleTrace::explained).collect(), prints, None)
            }
            Err(why) => explained(Vec::new(), Vec::new(), Some(why)),
        }
    }

    /// Runs the tests of `*_test.rego` files against it, on a thread that the caller waits for.
    pub(crate) fn run_tests(&self, tests: &[SourceFile]) -> Result<TestRun, Faults> {
        let Recipe { files, data, rules, package, .. } = self.policy.as_ref();
        pool::deep(|| testing::run(files, tests, data.as_ref(), rules)).unwrap_or_else(|what| {
            Err(Fault::new(package.clone(), format!("the tests could not be run: {what}")).into())
        })
    }

    /// Evaluations that did not stop in time and lost their thread, since the load.
    pub(crate) fn overdue(&self) -> u64 {
        self.pool.overdue()
    }
}
