//! The index: live jobs, settings and submissions, and where in the log what is over lies. Written at checkpoints only, so it
//! is always as old as the position it names; the log after that is read again at a start.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use prost::Message;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    backend::Backend,
    error::{Fault, OpenError},
    frame::Place,
    live::{live_row, write_live},
    log::Position,
    medium::{Access, Medium},
    pending::{Delta, Highest},
    rows::{SubmissionRow, micros},
    segment::Segments,
};
use crate::store::{JobRow, StoreError, Submission};

/// The file of the index.
pub(super) const FILE: &str = "live.redb";

type PlaceRow = (u64, u64, u32);

/// A decision: its job and admission.
pub(super) type DecisionKey = (String, String);

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const LIVE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("live");
pub(super) const OVER: TableDefinition<'_, &str, PlaceRow> = TableDefinition::new("over");
pub(super) const DECISIONS: TableDefinition<'_, (&str, &str), PlaceRow> = TableDefinition::new("decisions");
pub(super) const SUBMISSIONS: TableDefinition<'_, (i64, &str, &str), &[u8]> = TableDefinition::new("submissions");
pub(super) const SETTINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");

/// The tables have this shape.
const FORMAT: u64 = 1;

#[derive(Debug)]
pub(super) struct Index {
    medium: Arc<dyn Medium>,
    cache_bytes: usize,
    open: RwLock<Open>,
    /// Live jobs with a document in each segment.
    documents: Mutex<BTreeMap<u64, u64>>,
}

#[derive(Clone, Debug)]
struct Open {
    database: Arc<Database>,
    backend: Backend,
    /// A write failed: redb refuses everything until the file is opened anew.
    broken: bool,
}

/// What the index says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) mark: u64,
    pub(super) contained: Position,
    pub(super) highest: Highest,
    /// Segments before this one were taken away.
    pub(super) first_segment: u64,
}

/// What is read back at a start.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// In the order of their ids.
    pub(super) jobs: Vec<JobRow>,
    pub(super) submissions: Vec<Submission>,
    pub(super) settings: BTreeMap<String, Vec<u8>>,
}

impl Index {
    /// Makes an index that contains nothing, under a name of its own first.
    pub(super) fn create(medium: &Arc<dyn Medium>, cache_bytes: usize, meta: Meta) -> Result<(), OpenError> {
        let draft = format!("{FILE}.new");
        let path = medium.path(FILE);
        let failed = |error: StoreError| OpenError::Io {
            what: format!("{path}: cannot be made"),
            source: std::io::Error::other(error),
        };
        let file = medium.open(&draft, Access::Create).map_err(OpenError::io(&path))?;
        let backend = Backend::held(file).map_err(OpenError::io(&path))?;
        backend.settle().map_err(OpenError::io(&path))?;
        guarded(&path, || {
            let database = builder(cache_bytes).create_with_backend(backend)?;
            let mut write = database.begin_write()?;
            write.set_quick_repair(true);
            {
                write.open_table(LIVE)?;
                write.open_table(OVER)?;
                write.open_table(DECISIONS)?;
                write.open_table(SUBMISSIONS)?;
                write.open_table(SETTINGS)?;
                let mut table = write.open_table(META)?;
                for (key, value) in meta.rows() {
                    table.insert(key, value)?;
                }
            }
            write.commit()?;
            database.close()?;
            Ok(())
        })
        .map_err(failed)?;
        medium.rename(&draft, FILE).and_then(|()| medium.sync_folder("")).map_err(OpenError::io(&path))
    }

    /// Opens the index without changing it: what redb writes is held until [`Index::settle`].
    pub(super) fn open(medium: Arc<dyn Medium>, cache_bytes: usize, thorough: bool) -> Result<Self, OpenError> {
        let path = medium.path(FILE);
        let file = medium.open(FILE, Access::Write).map_err(OpenError::io(&path))?;
        if file.length().map_err(OpenError::io(&path))? == 0 {
            return Err(Fault::new(path, Some(0), "the file is empty").into());
        }
        let backend = Backend::held(file).map_err(OpenError::io(&path))?;
        let open = Open::new(&path, backend, cache_bytes, thorough)
            .map_err(|error| Fault::new(path, None, error.to_string()))?;
        Ok(Self { medium, cache_bytes, open: RwLock::new(open), documents: Mutex::default() })
    }

    /// Lets what redb wrote go to the disk, from now on.
    pub(super) fn settle(&self) -> Result<(), OpenError> {
        let open = self.current();
        open.backend.settle().map_err(OpenError::io(format_args!("{}: cannot be written", self.medium.path(FILE))))
    }

    pub(super) fn meta(&self) -> Result<Meta, Fault> {
        let path = self.medium.path(FILE);
        let rows = self.read(|read| {
            let mut rows = BTreeMap::new();
            for row in read.open_table(META)?.iter()? {
                let (key, value) = row?;
                rows.insert(key.value().to_owned(), value.value());
            }
            Ok(rows)
        });
        let rows = rows.map_err(|error| Fault::new(&path, None, error.to_string()))?;
        let get = |key: &str| {
            rows.get(key)
                .copied()
                .ok_or_else(|| Fault::new(&path, None, format!("`{key}` is missing from its table `meta`")))
        };
        if get("format")? != FORMAT {
            return Err(Fault::new(&path, None, format!("format {} of the index is unknown", get("format")?)));
        }
        Ok(Meta {
            mark: get("mark")?,
            contained: Position { segment: get("segment")?, offset: get("offset")?, next: get("next")? },
            highest: Highest { lease: get("lease")?, sequence: get("sequence")? },
            first_segment: get("first_segment")?,
        })
    }

    /// Reads all that is live.
    pub(super) fn load(&self) -> Result<Loaded, Fault> {
        let mut documents = BTreeMap::new();
        let loaded = self.read(|read| {
            let mut loaded = Loaded::default();
            for row in read.open_table(LIVE)?.iter()? {
                let (id, value) = row?;
                let row = live_row(value.value()).map_err(|what| damaged(format!("job {}: {what}", id.value())))?;
                if let Some(document) = row.document {
                    *documents.entry(document.segment).or_insert(0) += 1;
                }
                loaded.jobs.push(row);
            }
            for row in read.open_table(SUBMISSIONS)?.iter()? {
                let (_, value) = row?;
                let row = SubmissionRow::decode(value.value()).map_err(|error| damaged(error.to_string()))?;
                loaded.submissions.push(row.submission().map_err(|what| damaged(what.to_owned()))?);
            }
            for row in read.open_table(SETTINGS)?.iter()? {
                let (key, value) = row?;
                loaded.settings.insert(key.value().to_owned(), value.value().to_vec());
            }
            Ok(loaded)
        });
        *self.documents.lock().unwrap_or_else(PoisonError::into_inner) = documents;
        loaded.map_err(|error| Fault::new(self.medium.path(FILE), None, error.to_string()))
    }

    /// Writes a checkpoint.
    pub(super) fn apply(&self, delta: &Delta, segments: &Segments, forget_before: i64) -> Result<(), StoreError> {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.write(|write| {
            write_live(write, delta, segments, &mut documents)?;
            let mut over = write.open_table(OVER)?;
            for (id, place) in &delta.over {
                over.insert(&**id, place.row())?;
            }
            let mut decisions = write.open_table(DECISIONS)?;
            for ((job, admission), place) in &delta.decisions {
                decisions.insert((&**job, &**admission), place.row())?;
            }
            let mut submissions = write.open_table(SUBMISSIONS)?;
            for submission in &delta.submissions {
                let row = SubmissionRow::new(submission);
                let key = (micros(submission.time), &*row.token, &*row.key);
                submissions.insert(key, row.encode_to_vec().as_slice())?;
            }
            submissions.retain_in(..(forget_before, "", ""), |_, _| false)?;
            let mut settings = write.open_table(SETTINGS)?;
            for (key, value) in &delta.settings {
                match value {
                    Some(value) => settings.insert(&**key, value.as_slice())?,
                    None => settings.remove(&**key)?,
                };
            }
            let mut meta = write.open_table(META)?;
            for (key, value) in position_rows(delta.until).into_iter().chain(highest_rows(delta.highest)) {
                meta.insert(key, value)?;
            }
            Ok(())
        })?;
        *self.documents.lock().unwrap_or_else(PoisonError::into_inner) = documents;
        Ok(())
    }

    /// Forgets what lies in a segment, which must be the first: jobs that are over, and decisions.
    pub(super) fn retire(&self, segment: u64, over: &[String], decisions: &[DecisionKey]) -> Result<(), StoreError> {
        self.write(|write| {
            let lies_there =
                |place: Option<redb::AccessGuard<'_, PlaceRow>>| place.is_some_and(|place| place.value().0 == segment);
            let mut table = write.open_table(OVER)?;
            for id in over {
                let there = lies_there(table.get(id.as_str())?);
                if there {
                    table.remove(id.as_str())?;
                }
            }
            let mut table = write.open_table(DECISIONS)?;
            for (job, admission) in decisions {
                let key = (job.as_str(), admission.as_str());
                let there = lies_there(table.get(key)?);
                if there {
                    table.remove(key)?;
                }
            }
            write.open_table(META)?.insert("first_segment", segment + 1)?;
            Ok(())
        })
    }

    /// Whether a live job that the index knows has its document in this segment.
    pub(super) fn has_documents_in(&self, segment: u64) -> bool {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&segment)
    }

    /// Reads, as of one moment.
    pub(super) fn read<T>(&self, of: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let open = self.current();
        guarded(&self.medium.path(FILE), || of(&open.database.begin_read()?))
    }

    fn write(&self, what: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> Result<(), StoreError> {
        let mut open = self.current();
        if open.broken {
            open = self.reopen(&open)?;
        }
        let written = guarded(&self.medium.path(FILE), || {
            let mut write = open.database.begin_write()?;
            // After a crash the file is good as it is: nothing has to be walked at a start.
            write.set_quick_repair(true);
            what(&write)?;
            write.commit()?;
            Ok(())
        });
        if written.is_err() {
            self.open.write().unwrap_or_else(PoisonError::into_inner).broken = true;
            // Reading goes on, if the file can be opened.
            let _ = self.reopen(&open);
        }
        written
    }

    /// Opens the file anew, after a write failed.
    fn reopen(&self, old: &Open) -> Result<Open, StoreError> {
        let path = self.medium.path(FILE);
        let failed = |error: std::io::Error| StoreError::new(format!("{path}: cannot be opened anew: {error}"));
        old.backend.detach();
        let backend = Backend::held(self.medium.open(FILE, Access::Write).map_err(failed)?).map_err(failed)?;
        let open = Open::new(&path, backend, self.cache_bytes, false)?;
        open.backend.settle().map_err(failed)?;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = open.clone();
        Ok(open)
    }

    fn current(&self) -> Open {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Open {
    fn new(path: &str, backend: Backend, cache_bytes: usize, thorough: bool) -> Result<Self, StoreError> {
        let database = guarded(path, || {
            let mut builder = builder(cache_bytes);
            builder.set_check_integrity_on_open(thorough);
            Ok(builder.create_with_backend(backend.clone())?)
        })?;
        Ok(Self { database: Arc::new(database), backend, broken: false })
    }
}

fn builder(cache_bytes: usize) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder
}

impl Meta {
    fn rows(self) -> impl Iterator<Item = (&'static str, u64)> {
        [("format", FORMAT), ("mark", self.mark), ("first_segment", self.first_segment)]
            .into_iter()
            .chain(position_rows(self.contained))
            .chain(highest_rows(self.highest))
    }
}

fn position_rows(at: Position) -> [(&'static str, u64); 3] {
    [("segment", at.segment), ("offset", at.offset), ("next", at.next)]
}

fn highest_rows(highest: Highest) -> [(&'static str, u64); 2] {
    [("lease", highest.lease), ("sequence", highest.sequence)]
}

impl Place {
    fn row(self) -> PlaceRow {
        (self.segment, self.offset, self.length)
    }

    pub(super) fn from_row((segment, offset, length): PlaceRow) -> Self {
        Self { segment, offset, length }
    }
}

pub(super) fn damaged(what: String) -> redb::Error {
    redb::Error::Corrupted(what)
}

/// redb may panic over a file that was changed by somebody else.
fn guarded<T>(path: &str, of: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    let failed = |error: &dyn fmt::Display| StoreError::new(format!("{path}: {error}"));
    match catch_unwind(AssertUnwindSafe(of)) {
        Ok(done) => done.map_err(|error| match error {
            redb::Error::TableDoesNotExist(table) => failed(&format_args!("its table `{table}` is missing")),
            error => failed(&error),
        }),
        Err(_) => Err(failed(&"the index is damaged: redb could not go on with it")),
    }
}
