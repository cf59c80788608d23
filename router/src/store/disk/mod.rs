//! A store in a directory.
//!
//! ```text
//! lock                 held by the process that has the directory open
//! format               version of all this, and the id of the log
//! log/0000000001.seg   the log: batches as they came, one frame each; filled with zeros ahead of need
//! live.redb            the index, written at checkpoints: live jobs, settings, where in the log what is over lies
//! ```
//!
//! The log is the truth. A commit writes one frame and syncs once; the index follows every few seconds and names the position
//! up to which the log is in it. A start reads the index, then the log from there on.

mod archive;
mod backend;
mod check;
mod checkpoint;
mod directory;
mod error;
mod frame;
mod index;
mod live;
mod log;
mod medium;
mod pending;
mod prepare;
mod queries;
mod recover;
mod replay;
mod restore;
mod retention;
mod rows;
mod segment;
#[cfg(test)]
mod tests;

use std::{fmt, fs::File, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use jiff::Timestamp;

pub use check::{CheckReport, check};
pub use error::{Fault, OpenError, Repair, Repairs};
#[doc(hidden)]
pub use frame::fuzz_store_frame;

use self::{checkpoint::Checkpointer, log::Log, medium::Medium, prepare::Preparer};
use super::{Archive, Batch, DocumentRef, Restored, Store, StoreError};

/// A store in a directory: see [`DiskStore::open`].
#[derive(Debug)]
pub struct DiskStore {
    log: Log,
    preparer: Arc<Preparer>,
    checkpointer: Arc<Checkpointer>,
    archive: Arc<archive::DiskArchive>,
    options: DiskOptions,
    threads: Vec<JoinHandle<()>>,
    /// Held as long as the store is open; given up last.
    _lock: Option<File>,
}

/// How a store in a directory works.
#[derive(Clone)]
pub struct DiskOptions {
    /// Size of the files of the log.
    pub segment_bytes: u64,
    /// How long decisions and jobs that are over can be read back. They are forgotten by whole files of the log.
    pub retention: Duration,
    /// How often the index is written.
    pub checkpoint_interval: Duration,
    /// After how much of the log it is written at once.
    pub checkpoint_bytes: u64,
    /// Memory for pages of the index.
    pub cache_bytes: usize,
    /// What time it is.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            retention: Duration::from_secs(30 * 24 * 3600),
            checkpoint_interval: Duration::from_secs(5),
            checkpoint_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            clock: Arc::new(Timestamp::now),
        }
    }
}

impl fmt::Debug for DiskOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("retention", &self.retention)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("checkpoint_bytes", &self.checkpoint_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}

/// Who writes checkpoints and makes segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Background {
    /// Threads.
    Threads,
    /// The caller, in the same order every time.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests repeat a history step by step"))]
    Inline,
}

impl DiskStore {
    /// Opens the store in a directory, which is made if there is none: what it held, and what had to be put right.
    ///
    /// # Errors
    ///
    /// When the directory is in use, damaged, or from a newer version; nothing in it was changed then. Or when the system does
    /// not let us.
    pub fn open(directory: &Path, options: DiskOptions) -> Result<(Self, Restored, Repairs), OpenError> {
        let opened = directory::Opened::for_writing(directory)?;
        let (mut store, restored, mut repairs) = Self::open_in(opened.medium(), options, Background::Threads)?;
        opened.tighten(&mut repairs)?;
        store._lock = Some(opened.into_lock());
        Ok((store, restored, repairs))
    }

    fn open_in(
        medium: Arc<dyn Medium>,
        options: DiskOptions,
        background: Background,
    ) -> Result<(Self, Restored, Repairs), OpenError> {
        let threaded = background == Background::Threads;
        let (recovered, restored, repairs) = recover::recover(&medium, &options)?;
        let preparer = Arc::new(Preparer::new(medium.clone(), recovered.mark, options.segment_bytes, threaded));
        let mut threads = Vec::new();
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
            thread.map_err(OpenError::io("a thread of the store cannot be started"))
        };
        if threaded {
            let preparer = preparer.clone();
            threads.push(start("store-segments", Box::new(move || preparer.run()))?);
        }
        let log = Log::open(medium.clone(), preparer.clone(), recovered.mark, recovered.end);
        let log = log.map_err(OpenError::io(medium.path(&segment::name(recovered.end.segment))));
        let checkpointer = Arc::new(Checkpointer::new(medium, recovered, &options));
        let mut store = Self {
            log: match log {
                Ok(log) => log,
                Err(error) => {
                    preparer.stop();
                    return Err(error);
                }
            },
            preparer,
            archive: Arc::new(archive::DiskArchive::new(checkpointer.shared())),
            checkpointer: checkpointer.clone(),
            options,
            threads,
            _lock: None,
        };
        if threaded {
            store.threads.push(start("store-checkpoints", Box::new(move || checkpointer.run()))?);
        }
        Ok((store, restored, repairs))
    }

    /// Writes the index now.
    #[cfg(test)]
    fn checkpoint(&self) -> Result<(), StoreError> {
        self.checkpointer.checkpoint()
    }
}

impl Store for DiskStore {
    fn commit(&mut self, batch: &Batch) -> Result<Vec<DocumentRef>, StoreError> {
        let nothing = batch.rows.is_empty()
            && batch.documents.is_empty()
            && batch.decisions.is_empty()
            && batch.submissions.is_empty()
            && batch.settings.is_empty();
        if nothing {
            return Ok(Vec::new());
        }
        self.checkpointer.wait_for_room();
        let before = self.log.position();
        let encoded = self.log.append(batch, (self.options.clock)())?;
        self.checkpointer.note(batch, &encoded, before, self.log.position());
        Ok(encoded.documents)
    }

    fn archive(&self) -> Option<Arc<dyn Archive>> {
        Some(self.archive.clone())
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.preparer.stop();
        self.checkpointer.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Err(error) = self.checkpointer.checkpoint() {
            tracing::error!("the index was not written at the end; the next start reads more of the log: {error}");
        }
    }
}
