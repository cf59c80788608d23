//! What decides which jobs a runner may take, and its stable hash.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{
    config::{RunnerConfig, RunnerOwner},
    path::ProjectPath,
};

/// Version of the encoding below; the first byte of it.
const VERSION: u8 = 1;

/// Hash of a [`Capability`]: runners of equal fingerprints may take exactly the same jobs. The same on every machine and in
/// every version; `docs/fingerprint.md` says how to compute it elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Fingerprint([u8; 32]);

/// Everything that decides which jobs a runner may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Capability {
    pub(crate) owner: RunnerOwner,
    /// Sorted, each once.
    pub(crate) tags: Vec<String>,
    pub(crate) run_untagged: bool,
    pub(crate) protected: bool,
}

impl Capability {
    pub(crate) fn of(runner: &RunnerConfig) -> Self {
        Self {
            owner: runner.owner.clone(),
            tags: sorted(&runner.tags),
            run_untagged: runner.run_untagged,
            protected: runner.protected,
        }
    }

    /// The smallest runner that could take jobs of these tags: what they lack when there is none.
    pub(crate) fn lacking(tags: &[String]) -> Self {
        Self { owner: RunnerOwner::Instance, tags: sorted(tags), run_untagged: tags.is_empty(), protected: false }
    }

    /// Whether the rules of eligibility let such a runner take such a job; GitLab's own rules.
    pub(crate) fn may_take(&self, tags: &[String], protected: bool, project: &ProjectPath) -> bool {
        let fits = match tags {
            [] => self.run_untagged,
            tags => tags.iter().all(|tag| self.tags.binary_search(tag).is_ok()),
        };
        fits && (protected || !self.protected) && self.owner.covers(project)
    }

    /// Whether jobs are shared fairly between projects: on instance runners, as GitLab does.
    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self.owner, RunnerOwner::Instance)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let kind = match self.owner {
            RunnerOwner::Instance => 1_u8,
            RunnerOwner::Group(_) => 2,
            RunnerOwner::Project(_) => 3,
        };
        let owner = self.owner.path().unwrap_or_default().to_ascii_lowercase();
        let mut hash = Sha256::new();
        hash.update([VERSION, kind]);
        text(&mut hash, &owner);
        hash.update([u8::from(self.run_untagged), u8::from(self.protected)]);
        hash.update(length(self.tags.len()));
        for tag in &self.tags {
            text(&mut hash, tag);
        }
        Fingerprint(hash.finalize().into())
    }
}

fn sorted(tags: &[String]) -> Vec<String> {
    let mut tags = tags.to_vec();
    tags.sort_unstable();
    tags.dedup();
    tags
}

fn length(length: usize) -> [u8; 4] {
    // Paths and tags are far shorter than 4 GiB; they are checked when they are read.
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

fn text(hash: &mut Sha256, text: &str) {
    hash.update(length(text.len()));
    hash.update(text);
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `docs/fingerprint.md`: each line there is checked here.
    #[test]
    fn the_published_vectors_hold() {
        let page = include_str!("../../../docs/fingerprint.md");
        let mut checked = 0;
        for line in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let [kind, owner, tags, run_untagged, protected, expected] = cells[..] else { panic!("{line}") };
            let owner = match kind {
                "instance" => RunnerOwner::Instance,
                "group" => RunnerOwner::Group(owner.parse().unwrap()),
                "project" => RunnerOwner::Project(owner.parse().unwrap()),
                kind => panic!("{kind}"),
            };
            let tags: Vec<String> =
                tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(Into::into).collect();
            let capability = Capability {
                owner,
                tags: sorted(&tags),
                run_untagged: run_untagged == "true",
                protected: protected == "true",
            };
            assert_eq!(capability.fingerprint().to_string(), expected, "{line}");
            checked += 1;
        }
        assert!(checked >= 6, "{checked}");
    }

    #[test]
    fn everything_that_decides_is_in_it_and_nothing_else() {
        let base = Capability {
            owner: RunnerOwner::Group("acme".parse().unwrap()),
            tags: vec!["a".into(), "b".into()],
            run_untagged: false,
            protected: false,
        };
        let of = |change: fn(&mut Capability)| {
            let mut capability = base.clone();
            change(&mut capability);
            capability.fingerprint()
        };
        let same = base.fingerprint();
        assert_eq!(of(|c| c.owner = RunnerOwner::Group("ACME".parse().unwrap())), same, "paths have no case");
        for other in [
            of(|c| c.owner = RunnerOwner::Instance),
            of(|c| c.owner = RunnerOwner::Project("acme".parse().unwrap())),
            of(|c| c.tags = vec!["ab".into()]),
            of(|c| c.tags = vec!["A".into(), "b".into()]),
            of(|c| c.run_untagged = true),
            of(|c| c.protected = true),
        ] {
            assert_ne!(other, same);
        }
    }
}
