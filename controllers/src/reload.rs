use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use jobgate_sdk::{AdmissionRequest, Controller, Verdict, async_trait};
use jobgate_yaml::{Fault, Faults};
use tokio::sync::watch;

use crate::{LoadOptions, Loaded, PolicySet, files::Files};

/// The policies of one controller, which may change while it decides.
///
/// A question is answered by one version from beginning to end. Clones share the policies. To reload when files change, see
/// [`watch`](crate::watch).
#[derive(Clone, Debug)]
pub struct PolicyHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    paths: Vec<PathBuf>,
    options: LoadOptions,
    current: ArcSwap<PolicySet>,
    stale: AtomicBool,
    version: watch::Sender<Arc<str>>,
    // One reload at a time, so that an older reading never replaces a newer one.
    reloading: Mutex<()>,
}

/// What a reload came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The files say what they said before.
    Unchanged,
    /// A new version decides from now on.
    Published {
        /// Its digest.
        version: Arc<str>,
        /// What is allowed, but hardly meant.
        warnings: Vec<Fault>,
    },
    /// The files are faulty, empty or gone: the version that decided goes on deciding, and is stale.
    Kept {
        /// Its digest.
        version: Arc<str>,
        /// What is wrong with the files.
        faults: Faults,
    },
}

impl PolicyHandle {
    /// Loads policies for the first time; gives what is hardly meant beside them. See [`PolicySet::load`].
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them.
    pub fn load(paths: &[PathBuf], options: LoadOptions) -> Result<(Self, Vec<Fault>), Faults> {
        let Loaded { set, warnings } = PolicySet::load(paths, &options)?;
        let shared = Shared {
            paths: paths.to_vec(),
            options,
            version: watch::Sender::new(set.version().clone()),
            current: ArcSwap::from_pointee(set),
            stale: AtomicBool::new(false),
            reloading: Mutex::default(),
        };
        Ok((Self { shared: shared.into() }, warnings))
    }

    /// The policies that decide now.
    #[must_use]
    pub fn current(&self) -> Arc<PolicySet> {
        self.shared.current.load_full()
    }

    /// Digest of the version that decides, and every one that will.
    #[must_use]
    pub fn version(&self) -> watch::Receiver<Arc<str>> {
        self.shared.version.subscribe()
    }

    /// Whether the files could not be loaded the last time that was tried, so that an older version decides.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.shared.stale.load(Ordering::Relaxed)
    }

    /// Where the policies come from.
    #[must_use]
    pub fn paths(&self) -> &[PathBuf] {
        &self.shared.paths
    }

    /// Reads the files again, and publishes what they say if it is new and sound. Contents count, times do not.
    ///
    /// Reads and compiles on a thread that may block; cancelling does not undo it.
    pub async fn reload(&self) -> ReloadOutcome {
        let handle = self.clone();
        match tokio::task::spawn_blocking(move || handle.shared.reload()).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.shared.stale.store(true, Ordering::Relaxed);
                let fault = Fault::new("policy", format!("loading it did not end well: {error}"));
                ReloadOutcome::Kept { version: self.current().version().clone(), faults: fault.into() }
            }
        }
    }
}

impl Shared {
    fn reload(&self) -> ReloadOutcome {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load().version().clone();
        let loaded = Files::read(&self.paths).and_then(|files| match files.digest() == before {
            true => Ok(None),
            false => PolicySet::compile(&files, &self.options).map(Some),
        });
        self.stale.store(loaded.is_err(), Ordering::Relaxed);
        match loaded {
            Ok(None) => ReloadOutcome::Unchanged,
            Ok(Some(Loaded { set, warnings })) => {
                let version = set.version().clone();
                self.current.store(set.into());
                self.version.send_replace(version.clone());
                ReloadOutcome::Published { version, warnings }
            }
            Err(faults) => ReloadOutcome::Kept { version: before, faults },
        }
    }
}

#[async_trait]
impl Controller for PolicyHandle {
    async fn admit(&self, request: &AdmissionRequest) -> Verdict {
        self.current().admit(request).await
    }
}

/// Directories to watch for changes of these paths, and whether with all below them. A file is watched by its directory, since
/// editors and ConfigMaps put another file in its place; what lies in other directories there is no business of its: the state
/// of a router may.
pub(crate) fn watched(paths: &[PathBuf]) -> BTreeMap<PathBuf, bool> {
    let mut directories = BTreeMap::new();
    for path in paths {
        match path.is_dir() {
            true => drop(directories.insert(path.clone(), true)),
            false => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                directories.entry(parent.to_owned()).or_insert(false);
            }
        }
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_watched_by_its_directory_and_not_by_what_lies_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        let file = folder.path().join("a.yaml");
        let watched = watched(&[file.clone(), policies.clone(), policies.join("b.yaml")]);
        assert_eq!(watched, BTreeMap::from([(folder.path().to_owned(), false), (policies, true)]));
    }
}
