use std::sync::Arc;

use crate::{
    config::{RunnerConfig, RunnerOwner, Secret, TokenConfig},
    glob::ProjectGlob,
};

/// Who asks over REST or gRPC, and what they may.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Rights>);

#[derive(Debug)]
struct Rights {
    name: Arc<str>,
    submit: bool,
    read: bool,
    operate: bool,
    /// Empty: all projects.
    projects: Vec<ProjectGlob>,
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::faces) enum Right {
    /// Submit and cancel jobs.
    Submit,
    /// Look at jobs and decisions.
    Read,
    /// Look at what is nobody's job: controllers, runners, the queue. Who may read all projects may, and who may operate.
    Overview,
    /// Taint, pin and drain runners. They are everybody's, so a token that is for some projects only may not.
    Operate,
}

/// An attaching runner: the one whose token it has.
#[derive(Clone, Debug)]
pub(in crate::faces) struct RunnerIdentity(pub(in crate::faces) Arc<RunnerConfig>);

impl Caller {
    pub(super) fn new(token: &TokenConfig, projects: Vec<ProjectGlob>) -> Self {
        let TokenConfig { name, submit, read, operate, .. } = token;
        Self(Arc::new(Rights { name: name.clone(), submit: *submit, read: *read, operate: *operate, projects }))
    }

    /// Anybody, in trial mode.
    pub(super) fn trial() -> Self {
        let name = Arc::from("trial");
        Self(Arc::new(Rights { name, submit: true, read: true, operate: true, projects: Vec::new() }))
    }

    /// Name of the token.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Whether it may do something, to the projects it may do it to.
    pub(crate) fn may(&self, right: Right) -> bool {
        match right {
            Right::Submit => self.0.submit,
            Right::Read => self.0.read,
            Right::Overview => self.0.operate || (self.0.read && self.sees_all()),
            Right::Operate => self.0.operate && self.sees_all(),
        }
    }

    pub(crate) fn sees_all(&self) -> bool {
        self.0.projects.is_empty()
    }

    pub(crate) fn sees(&self, project: &str) -> bool {
        self.sees_all() || self.0.projects.iter().any(|glob| glob.matches(project))
    }
}

impl Right {
    /// What to add to the token.
    pub(in crate::faces) const fn needed(self) -> &'static str {
        match self {
            Self::Submit => "this token may not submit or cancel jobs: it needs `submit`",
            Self::Read => "this token may not look at jobs: it needs `read`",
            Self::Overview => "this is about all projects: the token needs `operate`, or `read` without `projects`",
            Self::Operate => "this is about runners of all projects: the token needs `operate`, without `projects`",
        }
    }
}

impl RunnerIdentity {
    /// A runner in trial mode is what it says: an instance runner that also takes jobs without tags.
    pub(super) fn trial(name: &str, tags: &str) -> Option<Self> {
        let plain = |text: &str, more: &str| {
            !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let mut tags: Vec<_> =
            tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        tags.sort();
        tags.dedup();
        if !plain(name, "_-.") || tags.len() >= 50 || !tags.iter().all(|tag| plain(tag, "_-.:/ ")) {
            return None;
        }
        Some(Self(Arc::new(RunnerConfig {
            name: name.into(),
            token: Secret::new(""),
            owner: RunnerOwner::Instance,
            tags,
            run_untagged: true,
            protected: false,
            priority: 0,
            group: None,
        })))
    }
}
