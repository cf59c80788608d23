//! The configuration: a file of people becomes a checked value, or every fault of it at once.

mod controllers;
mod gitlab;
mod load;
mod runners;
mod scheduling;
mod secret;
mod span;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use jobgate_sdk::RunnerType;

pub(crate) use gitlab::DEFAULT_NAME;
pub use secret::Secret;

use crate::{
    glob::{ProjectGlob, TextGlob},
    path::{GroupPath, ProjectPath, Scope},
    view::Expose,
};

/// A checked configuration. Secrets in it are read from their files, and print as `[redacted]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the router listens.
    pub listen: SocketAddr,
    /// What runners are told; `None` where it cannot be known (not loopback and not said).
    pub external_url: Option<String>,
    /// Certificate and key to listen with.
    pub tls: Option<ServerTls>,
    /// True where an unprotected listener beyond loopback was asked for aloud.
    pub insecure: bool,
    /// Directory of the store.
    pub state: PathBuf,
    /// Time for a whole admission.
    pub admission_timeout: Duration,
    /// How long a decision serves.
    pub admission_ttl: Duration,
    /// What becomes of a job that no controller is asked about.
    pub no_controllers: NoControllers,
    /// Jobs the queue holds at most.
    pub max_jobs: usize,
    /// Where decisions are exported to as JSON lines.
    pub decision_log: Option<DecisionLog>,
    /// The GitLab it stands in front of.
    pub gitlab: Option<Arc<GitLabConfig>>,
    /// The controllers, in the order of the file.
    pub controllers: Vec<Arc<ControllerConfig>>,
    /// The runners.
    pub runners: Vec<Arc<RunnerConfig>>,
    /// Who may use REST and gRPC.
    pub tokens: Vec<TokenConfig>,
    /// Runner groups that runners may be in.
    pub runner_groups: Vec<RunnerGroupConfig>,
    /// Which jobs go first: the first rule that fits a job gives its class; 0 when none does.
    pub priorities: Arc<[PriorityRule]>,
    /// Shares of projects on instance runners: the first entry that fits gives a project's weight; 1 when none does.
    pub fairness: Arc<[WeightRule]>,
    /// How long the runners of a higher priority must have been full before those of a lower one get jobs.
    pub spillover_hold: Duration,
    /// How long documents, finished jobs and decisions are kept.
    pub retention: Duration,
}

/// The GitLab that jobs come from and runners' calls go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitLabConfig {
    /// Its URL, `http://` or `https://`, with the path prefix it is under, without a slash at the end.
    pub url: String,
    /// PEM of the authority its certificate comes from, instead of the public ones.
    pub ca: Option<Vec<u8>>,
    /// Its runners that have a name here, and so may have controllers of their own.
    pub runners: Vec<GitLabRunner>,
    /// `failure_reason` of a job that policy rejects: the first of these that this GitLab knows, or the last.
    pub policy_reasons: Vec<String>,
    /// `failure_reason` of a job that is not admitted because somebody failed, chosen likewise.
    pub failure_reasons: Vec<String>,
    /// Open polls of one runner token at once; more are told to come again.
    pub polls_per_token: usize,
}

/// A runner of GitLab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitLabRunner {
    /// Its id in GitLab.
    pub id: i64,
    /// Its name here, unique.
    pub name: Arc<str>,
}

/// Runners that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerGroupConfig {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Only one of its runners gets jobs at a time.
    pub single_leader: bool,
}

/// Gives a class to jobs. What is left out fits every job; lists are any-of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriorityRule {
    /// The class: higher goes first.
    pub class: i32,
    /// Projects, as globs.
    pub projects: Vec<ProjectGlob>,
    /// Environments the job deploys to, as globs. What GitLab hands out has them as a claim.
    pub environments: Vec<TextGlob>,
    /// Refs, as globs.
    pub refs: Vec<TextGlob>,
    /// What started the pipeline: `push`, `schedule` … A claim where GitLab hands it out.
    pub sources: Vec<String>,
    /// Only jobs of protected refs, or of unprotected ones.
    pub protected: Option<bool>,
}

/// Gives a weight to projects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightRule {
    /// Projects, as globs.
    pub projects: Vec<ProjectGlob>,
    /// A project of weight 2 gets twice the slots of one of weight 1, while both have jobs waiting. 1 to 1000.
    pub weight: u32,
}

/// What becomes of a job that no controller is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoControllers {
    /// It is admitted, and the decision says that nobody was asked.
    Admit,
    /// It is rejected.
    Reject,
}

/// Certificate, key, and who must show one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// PEM file of the certificate chain.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authorities whose certificates clients must show.
    pub client_ca: Option<PathBuf>,
}

/// Where decisions are exported to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionLog {
    /// The file.
    pub path: PathBuf,
    /// It is rotated when it is larger than so many bytes.
    pub max_bytes: u64,
    /// So many rotated files are kept.
    pub keep: usize,
}

/// One controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerConfig {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Where it applies.
    pub scope: Scope,
    /// Whether it is asked, and whether it counts.
    pub state: ControllerState,
    /// How it is asked.
    pub kind: ControllerKind,
    /// Time for one answer.
    pub timeout: Duration,
    /// What its failure does.
    pub on_failure: OnFailure,
    /// What it is told beyond the plain view.
    pub expose: Expose,
}

/// Whether a controller is asked, and whether it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControllerState {
    /// Never asked.
    Disabled,
    /// Asked, binding.
    Enabled,
    /// Asked, recorded, never binding.
    DryRun,
}

/// How a controller is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// In this process, from policy files.
    Policy(Vec<PathBuf>),
    /// Rust code of the program that the router is part of; no configuration file says so.
    Linked,
    /// Over gRPC; the router dials.
    Dialled(Dial),
    /// Over gRPC; the controller dials in with this token.
    Attached {
        /// Its token.
        token: Secret,
    },
}

/// How to reach a dialled controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Its addresses, `http://` or `https://`.
    pub urls: Vec<String>,
    /// PEM of the authority its certificate comes from, instead of the public ones.
    pub ca: Option<Vec<u8>>,
    /// PEM of our certificate and key, if it wants one.
    pub identity: Option<(Vec<u8>, Secret)>,
    /// The name its certificate must have, if not the URL's.
    pub server_name: Option<String>,
    /// Token it wants.
    pub token: Option<Secret>,
}

/// What a failed controller does to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// The job is rejected.
    Reject,
    /// The job waits and is asked about again.
    Wait,
    /// The job is admitted where the failure is one of reachability.
    Admit,
}

/// One runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerConfig {
    /// Its name, unique.
    pub name: Arc<str>,
    /// Its token.
    pub token: Secret,
    /// Whose jobs it takes.
    pub owner: RunnerOwner,
    /// What it offers, sorted.
    pub tags: Vec<String>,
    /// Whether it takes jobs without tags.
    pub run_untagged: bool,
    /// Whether it takes jobs of protected refs only.
    pub protected: bool,
    /// Higher ones of a capability group get jobs first; the others when these are full.
    pub priority: i32,
    /// The runner group it is in.
    pub group: Option<Arc<str>>,
}

/// Whose jobs a runner takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunnerOwner {
    /// Anybody's.
    Instance,
    /// Those of a group and of all that is below it.
    Group(GroupPath),
    /// Those of one project.
    Project(ProjectPath),
}

/// One token for REST and gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenConfig {
    /// Its name, unique.
    pub name: Arc<str>,
    /// The token.
    pub token: Secret,
    /// May submit and cancel jobs.
    pub submit: bool,
    /// May look at jobs and decisions.
    pub read: bool,
    /// May operate the router.
    pub operate: bool,
    /// The projects it may do that for, as globs; empty: all.
    pub projects: Vec<String>,
}

impl RunnerOwner {
    /// The type of such a runner.
    #[must_use]
    pub const fn kind(&self) -> RunnerType {
        match self {
            Self::Instance => RunnerType::Instance,
            Self::Group(_) => RunnerType::Group,
            Self::Project(_) => RunnerType::Project,
        }
    }

    /// The type's name, as records have it.
    #[must_use]
    pub const fn kind_name(&self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Group(_) => "group",
            Self::Project(_) => "project",
        }
    }

    /// The path, if it has one.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Instance => None,
            Self::Group(path) => Some(path.as_str()),
            Self::Project(path) => Some(path.as_str()),
        }
    }

    /// Whether it takes jobs of this project.
    #[must_use]
    pub fn covers(&self, project: &ProjectPath) -> bool {
        match self {
            Self::Instance => true,
            Self::Group(group) => group.covers(project),
            Self::Project(own) => own == project,
        }
    }
}

impl ControllerState {
    /// Its name, as records have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::DryRun => "dry_run",
        }
    }
}

impl Config {
    /// Whether it has neither token nor runner: loopback only, and no token is asked for.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.tokens.is_empty() && self.runners.is_empty()
    }
}
