//! Rego and YAML policies as jobgate admission controllers, and the tools to check, test and explain them.
//!
//! [`PolicySet`] is a controller: it compiles the policies of a directory once and asks them all about each job.
//!
//! ```
//! use jobgate_controllers::{LoadOptions, PolicySet};
//! use jobgate_sdk::{Controller, testing};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), jobgate_controllers::Faults> {
//! let policy = "
//! apiVersion: jobgate/v1
//! kind: Policy
//! name: images
//! rules:
//!   - name: own-registry
//!     require: { image: [\"registry.acme.example/**\"] }
//!     message: \"{job.image.name} is not from our registry\"
//! ";
//! let policies = PolicySet::from_texts([("images.yaml", policy)], &LoadOptions::default())?.set;
//! let verdict = policies.admit(&testing::request().image("alpine:3.20").build()).await;
//! let rejection = verdict.rejection().unwrap();
//! assert_eq!(rejection.reason().as_str(), "alpine:3.20 is not from our registry");
//! assert_eq!(rejection.rule(), Some("images/own-registry"));
//! # Ok(())
//! # }
//! ```

mod explain;
mod files;
mod reads;
mod rego;
mod reload;
mod set;
mod tools;
mod watch;
mod yaml;

pub use explain::{Evaluation, PolicyExplained, RuleExplained, RuleOutcome, eval};
pub use jobgate_yaml::{Fault, Faults};
pub use reads::{Exposed, Reads};
pub use reload::{PolicyHandle, ReloadOutcome};
pub use set::{LoadOptions, Loaded, PolicySet};
pub use tools::{
    CaseOutcome, CaseReport, CheckReport, DocumentReader, RuleCoverage, TestDocument, TestReport, check, test,
};
pub use watch::watch;
pub use yaml::schema;
