use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jobgate_sdk::Controller;
use sha2::{Digest, Sha256};

use crate::{
    config::{ControllerConfig, ControllerKind, ControllerState, NoControllers, OnFailure},
    path::{ProjectPath, Scope},
};

/// All controllers of the router at one moment: who is asked about which job, in which order, and under which version.
///
/// A value, not a place: a reload or a new policy version makes a new one.
#[derive(Clone)]
pub struct Chains {
    members: Arc<[Member]>,
    rules: Rules,
    /// Whether any of them is asked once a runner is chosen.
    asks_about_runners: bool,
}

/// A controller, and what every job would work out of it anew.
struct Member {
    entry: Arc<Entry>,
    /// Name of its level.
    level: Arc<str>,
    /// What goes into the version of a chain: it changes with the entry, and so do the chains.
    hashed: Box<[u8]>,
}

/// What applies to every admission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) no_controllers: NoControllers,
    pub(crate) admission_timeout: Duration,
}

/// One controller of the router, and what is known of it.
#[derive(Clone)]
pub struct Entry {
    pub(crate) config: Arc<ControllerConfig>,
    pub(crate) controller: Arc<dyn Controller>,
    /// True for policies that read `runner`: they are asked when a runner is chosen.
    pub(crate) reads_runner: bool,
    /// The policy versions its instances last said they decide by.
    pub(crate) versions: BTreeSet<Arc<str>>,
    /// Jobs its scope matched.
    pub(crate) matched: Arc<AtomicU64>,
}

/// The chain of one job: its levels in the order they are asked.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) levels: Vec<Level>,
    /// Version of the chain when it was looked up.
    pub(crate) version: ChainVersion,
    pub(crate) rules: Rules,
    /// Nobody is asked about this job, and this part of the chain is the one that says so.
    pub(crate) is_empty: bool,
}

/// The controllers of one rank for one job, in the order of the configuration.
#[derive(Clone)]
pub(crate) struct Level {
    pub(crate) name: Arc<str>,
    pub(crate) entries: Vec<Arc<Entry>>,
    rank: Rank,
}

/// Where a level stands: instance, groups from the root down, project, runner.
type Rank = (u8, usize);

/// When a controller is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// As soon as the job arrives: the levels up to project.
    Arrival,
    /// When this runner is chosen: the runner level, and policies that read `runner`.
    Runner(&'a str),
    /// All of it at once, for a job that arrives with its runner.
    Whole(&'a str),
}

/// Hash of what decides a chain's answers, in hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ChainVersion(Arc<str>);

impl Chains {
    /// The chains of these controllers.
    pub(crate) fn new(entries: Vec<Entry>, rules: Rules) -> Self {
        Self::of(entries.into_iter().map(Arc::new), rules)
    }

    fn of(entries: impl Iterator<Item = Arc<Entry>>, rules: Rules) -> Self {
        let member = |entry: Arc<Entry>| Member {
            level: entry.config.scope.to_string().into(),
            hashed: entry.hashed().into(),
            entry,
        };
        let members: Arc<[_]> = entries.map(member).collect();
        let asks_about_runners =
            members.iter().any(|Member { entry, .. }| entry.reads_runner || entry.is_runner_level());
        Self { members, rules, asks_about_runners }
    }

    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.members.iter().map(|member| &member.entry)
    }

    /// The same controllers, one of which now decides by `versions`; `None` when it did already.
    pub(crate) fn with_versions(
        &self,
        controller: &str,
        versions: &BTreeSet<Arc<str>>,
        reads_runner: Option<bool>,
    ) -> Option<Self> {
        let changed = |entry: &Arc<Entry>| {
            *entry.config.name == *controller
                && (entry.versions != *versions || reads_runner.is_some_and(|reads| reads != entry.reads_runner))
        };
        if !self.entries().any(changed) {
            return None;
        }
        let entries = self.entries().map(|entry| match changed(entry) {
            true => Arc::new(Entry {
                versions: versions.clone(),
                reads_runner: reads_runner.unwrap_or(entry.reads_runner),
                ..Entry::clone(entry)
            }),
            false => entry.clone(),
        });
        Some(Self::of(entries, self.rules))
    }

    /// The chain of a job of `project`, as far as `part` of it goes; `version` is its version.
    pub(crate) fn chain(&self, project: &ProjectPath, part: Part<'_>, version: ChainVersion) -> Chain {
        let applies = |Member { entry, .. }: &&Member| match part {
            Part::Arrival => !entry.reads_runner && entry.applies_to(project, None),
            Part::Runner(runner) => {
                entry.applies_to(project, Some(runner)) && (entry.reads_runner || entry.is_runner_level())
            }
            Part::Whole(runner) => entry.applies_to(project, Some(runner)),
        };
        let mut levels: Vec<Level> = Vec::new();
        let mut found: Vec<_> = self.members.iter().filter(applies).collect();
        // Stable: inside a level the order of the configuration stays.
        found.sort_by_key(|Member { entry, .. }| rank(&entry.config.scope));
        for Member { entry, level: name, .. } in found {
            let same = levels.last_mut().filter(|level| level.rank == rank(&entry.config.scope));
            match same {
                Some(level) => level.entries.push(entry.clone()),
                None => levels.push(Level {
                    name: name.clone(),
                    entries: vec![entry.clone()],
                    rank: rank(&entry.config.scope),
                }),
            }
        }
        Chain {
            version,
            is_empty: match part {
                Part::Arrival => !self.entries().any(|entry| entry.applies_to(project, None)),
                Part::Runner(_) => false,
                Part::Whole(_) => levels.is_empty(),
            },
            levels,
            rules: self.rules,
        }
    }

    /// The version of a job's chain: changes whenever the same question could get another answer.
    pub(crate) fn version(&self, project: &ProjectPath, part: Part<'_>) -> ChainVersion {
        let runner = match part {
            Part::Arrival => None,
            Part::Runner(runner) | Part::Whole(runner) => Some(runner),
        };
        let mut hash = Sha256::new();
        hash.update([u8::from(self.rules.no_controllers == NoControllers::Reject)]);
        for Member { hashed, .. } in self.members.iter().filter(|member| member.entry.applies_to(project, runner)) {
            hash.update(hashed);
        }
        let digest = hash.finalize();
        let hex = digest.iter().take(12).fold(String::with_capacity(24), |mut hex, byte| {
            use fmt::Write;
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        ChainVersion(hex.into())
    }

    /// Whether a job of `project` has controllers to ask when it arrives.
    pub(crate) fn asks_on_arrival(&self, project: &ProjectPath) -> bool {
        self.entries().any(|entry| !entry.reads_runner && entry.applies_to(project, None))
    }

    /// Whether a job of `project` has controllers to ask once `runner` is chosen.
    pub(crate) fn asks_about_runner(&self, project: &ProjectPath, runner: &str) -> bool {
        self.asks_about_runners
            && self
                .entries()
                .any(|entry| (entry.reads_runner || entry.is_runner_level()) && entry.applies_to(project, Some(runner)))
    }
}

impl Chain {
    /// Counts the job for each controller whose scope it matched, if this is the first time.
    pub(crate) fn count(&self, first: bool) {
        if first {
            for entry in self.levels.iter().flat_map(|level| &level.entries) {
                entry.matched.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Entry {
    fn applies_to(&self, project: &ProjectPath, runner: Option<&str>) -> bool {
        if self.config.state == ControllerState::Disabled {
            return false;
        }
        self.config.scope.covers(project, runner)
    }

    fn is_runner_level(&self) -> bool {
        matches!(self.config.scope, Scope::Runner(_))
    }

    /// Everything that decides an answer, each part with its length before it.
    fn hashed(&self) -> Vec<u8> {
        let config = &self.config;
        let on_failure = match config.on_failure {
            OnFailure::Reject => "reject",
            OnFailure::Wait => "wait",
            OnFailure::Admit => "admit",
        };
        let kind = match &config.kind {
            ControllerKind::Policy(paths) => format!("policy {paths:?}"),
            ControllerKind::Dialled(dial) => format!("grpc {:?}", dial.urls),
            ControllerKind::Attached { .. } => "attach".to_owned(),
            ControllerKind::Linked => "linked".to_owned(),
        };
        let (scope, expose) = (config.scope.to_string(), format!("{:?}", config.expose));
        let timeout = config.timeout.as_millis().to_string();
        let parts = [&*config.name, &scope, config.state.as_str(), on_failure, &kind, &expose, &timeout];
        let mut hashed = (self.versions.len() as u64).to_be_bytes().to_vec();
        for part in parts.into_iter().chain(self.versions.iter().map(|version| &**version)) {
            hashed.extend((part.len() as u64).to_be_bytes());
            hashed.extend(part.as_bytes());
        }
        hashed
    }
}

fn rank(scope: &Scope) -> Rank {
    match scope {
        Scope::Instance => (0, 0),
        Scope::Group(path) => (1, path.as_str().split('/').count()),
        Scope::Project(_) => (2, 0),
        Scope::Runner(_) => (3, 0),
    }
}

impl ChainVersion {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One that was written down.
    pub(crate) fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Debug for ChainVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries().map(|entry| &entry.config.name)).finish()
    }
}
