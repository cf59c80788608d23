use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// A version that no answer named for so long is forgotten once another one comes.
const MEMORY: Duration = Duration::from_secs(60);
/// Versions known at once; a controller that names another one in every answer must not fill the memory.
const MOST: usize = 16;

/// The policy versions that a dialled controller named in its answers.
///
/// Behind one address there may be instances of several versions during their roll-out; all of them count as known, so that
/// the version of the chain does not go back and forth with every answer.
#[derive(Default)]
pub(super) struct Versions(HashMap<Arc<str>, Instant>);

impl Versions {
    /// An answer named a version; gives the set of those known when it changed.
    pub(super) fn seen(&mut self, version: &Arc<str>, now: Instant) -> Option<BTreeSet<Arc<str>>> {
        if let Some(seen) = self.0.get_mut(version) {
            *seen = now;
            return None;
        }
        self.0.retain(|_, seen| now.saturating_duration_since(*seen) <= MEMORY);
        while self.0.len() >= MOST
            && let Some(oldest) = self.0.iter().min_by_key(|(_, seen)| **seen).map(|(version, _)| version.clone())
        {
            self.0.remove(&oldest);
        }
        self.0.insert(version.clone(), now);
        Some(self.0.keys().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_for_every_answer_fills_no_memory() {
        let mut versions = Versions::default();
        let now = Instant::now();
        let known = (0..1000u64).filter_map(|n| {
            versions.seen(&format!("v{n}").into(), now + Duration::from_millis(n)).map(|all| all.len())
        });
        assert_eq!(known.max(), Some(MOST));
    }

    #[test]
    fn versions_side_by_side_do_not_flap() {
        let mut versions = Versions::default();
        let began = Instant::now();
        let mut seen =
            |version: &str, at| versions.seen(&version.into(), began + Duration::from_secs(at)).map(|all| all.len());
        assert_eq!(seen("v1", 0), Some(1));
        assert_eq!(seen("v2", 1), Some(2));
        assert_eq!((seen("v1", 2), seen("v2", 3), seen("v1", 4)), (None, None, None));
        assert_eq!(seen("v3", 100), Some(1), "v1 and v2 are gone");
    }
}
