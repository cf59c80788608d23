use jobgate_sdk::{AdmissionRequest, Controller, Verdict};
use serde::Serialize;

use crate::PolicySet;

/// A verdict, and how it came about if that was asked for.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// What the policies said.
    pub verdict: Verdict,
    /// What each policy and rule made of the job.
    pub explanation: Option<Vec<PolicyExplained>>,
}

/// What one policy made of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyExplained {
    /// Name of the policy; of a Rego policy, its package.
    pub policy: String,
    /// The file it stands in.
    pub file: String,
    /// Line of that file, from 1.
    pub line: u32,
    /// Why it is not about this job at all; `None` when it is.
    pub excluded: Option<String>,
    /// What its rules made of the job, in their order.
    pub rules: Vec<RuleExplained>,
    /// What `print` said, each with its place; Rego only.
    pub prints: Vec<String>,
}

/// What one rule made of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleExplained {
    /// Its name: `policy/rule`.
    pub rule: String,
    /// The file it stands in.
    pub file: String,
    /// Line of that file, from 1.
    pub line: u32,
    /// What it came to.
    pub outcome: RuleOutcome,
    /// Which value decided, and how.
    pub detail: String,
}

/// What a rule came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOutcome {
    /// Its `match` does not hold.
    NotApplicable,
    /// It has nothing against the job.
    Holds,
    /// It rejects the job.
    Rejects,
    /// It warns of the job.
    Warns,
    /// It would reject or warn, but an exemption holds.
    Exempted,
    /// It could not be evaluated.
    Fails,
}

impl RuleOutcome {
    /// Whether the rule found what it looks for, exempted or not.
    #[must_use]
    pub fn fired(self) -> bool {
        matches!(self, Self::Rejects | Self::Warns | Self::Exempted)
    }

    /// Its name, as JSON has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotApplicable => "not_applicable",
            Self::Holds => "holds",
            Self::Rejects => "rejects",
            Self::Warns => "warns",
            Self::Exempted => "exempted",
            Self::Fails => "fails",
        }
    }
}

/// Asks policies about jobs, one after the other; with `explain`, tells how each verdict came about.
pub async fn eval(set: &PolicySet, requests: &[AdmissionRequest], explain: bool) -> Vec<Evaluation> {
    let mut evaluations = Vec::with_capacity(requests.len());
    for request in requests {
        let verdict = set.admit(request).await;
        let explanation = if explain { Some(set.explain(request).await) } else { None };
        evaluations.push(Evaluation { verdict, explanation });
    }
    evaluations
}

impl PolicySet {
    /// What each of its policies and rules makes of a job. Much slower than deciding.
    pub async fn explain(&self, request: &AdmissionRequest) -> Vec<PolicyExplained> {
        let mut explained: Vec<_> = self.yaml.iter().map(|(order, policy)| (*order, policy.explain(request))).collect();
        if let Some((order, rego)) = &self.rego {
            explained.push((*order, rego.explained(request)));
        }
        explained.sort_by_key(|(order, _)| *order);
        explained.into_iter().map(|(_, policy)| policy).collect()
    }
}
