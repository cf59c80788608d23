//! A job that GitLab handed out to the router, and how it is kept.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{config::Secret, job::JobId};

/// Id of a job in GitLab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct GitLabJob(pub(crate) i64);

/// A job that GitLab takes for running on a runner, from its answer on until that runner has the job or GitLab knows that it is
/// over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandOut {
    pub(crate) job: GitLabJob,
    /// Host and port of its GitLab: another one has other jobs under the same numbers.
    pub(crate) gitlab: Arc<str>,
    /// The job's own token: what is said about the job is said with it. Kept, since a rejection must be finished after a
    /// restart, too; the store's files are for their owner only.
    #[serde(with = "secret")]
    pub(crate) token: Secret,
    /// Whose job it is, for people; empty where that cannot be read.
    pub(crate) project: Arc<str>,
    /// Name of the runner that asked for it.
    pub(crate) runner: Arc<str>,
    /// What GitLab is told if it fails without having been rejected.
    pub(crate) failure_reason: Arc<str>,
    pub(crate) stage: Stage,
    /// When it came to this stage.
    pub(crate) since: Timestamp,
}

/// How far a hand-out has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    /// Its chain is being asked.
    Asking,
    /// Admitted, and given to its runner, or about to be. The runner has not said yet that it has it.
    Delivering,
    /// No runner will have it: GitLab has to be told.
    Failing(Report),
}

/// What GitLab is told of a job that no runner will have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// One of GitLab's failure reasons.
    pub(crate) failure_reason: Arc<str>,
    /// What the job's log says.
    pub(crate) trace: String,
}

impl HandOut {
    /// What GitLab is told where nobody rejected it.
    pub(crate) fn failed(&self, trace: String) -> Report {
        Report { failure_reason: self.failure_reason.clone(), trace }
    }
}

impl Stage {
    /// Its place among the three.
    pub(super) const fn place(&self) -> usize {
        match self {
            Self::Asking => 0,
            Self::Delivering => 1,
            Self::Failing(_) => 2,
        }
    }
}

impl GitLabJob {
    /// The router's own id of it: its number is unique in its GitLab, and what is asked about it twice is the same question.
    pub(crate) fn id(self) -> JobId {
        JobId::new(format!("gitlab-{}", self.0))
    }
}

impl fmt::Display for GitLabJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

mod secret {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::config::Secret;

    pub(super) fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
}
