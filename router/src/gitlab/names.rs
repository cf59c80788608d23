//! What GitLab's runners are called here.

use std::{collections::HashMap, sync::Arc};

use super::tokens::TokenKey;
use crate::{
    chain::{Chains, Part},
    config::{Config, DEFAULT_NAME, GitLabConfig},
    path::ProjectPath,
};

/// The names of a configuration, by the runners' ids; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<HashMap<i64, Arc<str>>>);

/// A runner, as far as GitLab tells which one it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunnerKey {
    /// `None` where GitLab has no way to tell.
    pub(crate) id: Option<i64>,
    pub(crate) token: TokenKey,
}

/// What decides about a job of GitLab at a moment: chains and names change together.
#[derive(Clone)]
pub(crate) struct Standing {
    pub(crate) chains: Chains,
    pub(crate) names: Names,
}

impl Names {
    pub(crate) fn new(config: &GitLabConfig) -> Self {
        Self(Arc::new(config.runners.iter().map(|runner| (runner.id, runner.name.clone())).collect()))
    }

    /// None where there is no GitLab.
    pub(crate) fn of(config: &Config) -> Self {
        config.gitlab.as_deref().map(Self::new).unwrap_or_default()
    }

    /// A runner's name; `None` where it may be one that has controllers of its own, and nobody can tell.
    pub(crate) fn name(&self, runner: RunnerKey) -> Option<Arc<str>> {
        match runner.id {
            Some(id) => Some(self.0.get(&id).cloned().unwrap_or_else(|| format!("{DEFAULT_NAME}{id}").into())),
            None => self.0.is_empty().then(|| format!("{DEFAULT_NAME}token-{}", runner.token.short()).into()),
        }
    }
}

/// What a decision about a job of GitLab rests on.
#[derive(Clone, Debug)]
pub(crate) struct Basis {
    pub(crate) project: ProjectPath,
    /// The runner whose token asked, and what it was called.
    pub(crate) runner: RunnerKey,
    pub(crate) name: Arc<str>,
    /// Of the chain that was asked.
    pub(crate) version: Arc<str>,
}

impl Basis {
    /// Whether the same would be asked now: its chain has not changed, nor was a name given to the runner, and controllers with
    /// it.
    pub(crate) fn holds(&self, chains: &Chains, names: &Names) -> bool {
        names.name(self.runner).is_some_and(|name| name == self.name)
            && *chains.version(&self.project, Part::Whole(&self.name)).as_str() == *self.version
    }
}
