use std::{cell::RefCell, collections::HashMap, sync::Arc};

use crate::{
    chain::{ChainVersion, Chains, Part},
    path::ProjectPath,
};

/// Versions remembered at once: each costs a path and a hash.
const MOST: usize = 20_000;

/// Versions of chains, remembered until the chains change: matching asks for them again and again.
#[derive(Default)]
pub(super) struct Versions(RefCell<HashMap<ProjectPath, OfProject>>);

#[derive(Default)]
struct OfProject {
    arrival: Option<ChainVersion>,
    by_runner: HashMap<Arc<str>, ChainVersion>,
}

impl Versions {
    /// The version of a project's chain, as far as `part` of it goes.
    pub(super) fn of(&self, chains: &Chains, project: &ProjectPath, part: Part<'_>) -> ChainVersion {
        let mut known = self.0.borrow_mut();
        if let Some(version) = known.get(project).and_then(|of_project| of_project.get(part)) {
            return version.clone();
        }
        let version = chains.version(project, part);
        let of_project = entry(&mut known, project);
        match part {
            Part::Arrival => of_project.arrival = Some(version.clone()),
            Part::Runner(runner) | Part::Whole(runner) => {
                drop(of_project.by_runner.insert(runner.into(), version.clone()));
            }
        }
        version
    }
}

fn entry<'a>(known: &'a mut HashMap<ProjectPath, OfProject>, project: &ProjectPath) -> &'a mut OfProject {
    let too_large = |of_project: &OfProject| of_project.by_runner.len() >= MOST;
    if known.len() >= MOST || known.get(project).is_some_and(too_large) {
        known.clear();
    }
    known.entry(project.clone()).or_default()
}

impl OfProject {
    fn get(&self, part: Part<'_>) -> Option<&ChainVersion> {
        match part {
            Part::Arrival => self.arrival.as_ref(),
            Part::Runner(runner) | Part::Whole(runner) => self.by_runner.get(runner),
        }
    }
}
