//! Looks through a whole store and changes nothing.

use std::{collections::BTreeMap, collections::HashMap, path::Path, sync::Arc};

use jiff::Timestamp;
use prost::Message;
use redb::ReadableTable;
use serde::Serialize;

use super::{
    directory::{FORMAT_FILE, Opened, read_format},
    error::{Fault, OpenError},
    frame::{FRAME_HEADER, Frame, Kind, Place},
    index::{self, DECISIONS, Index, LIVE, Meta, OVER},
    live::live_row,
    medium::{Access, Directory, Medium, read_from},
    recover::{list, must_be_whole, unused},
    replay::Replay,
    rows::DecisionRow,
    segment::{End, SEGMENT_HEADER, Segments, check_header, name, scan},
};
use crate::{
    job::JobState,
    store::{DocumentRef, JobRow},
};

/// Memory for pages of the index.
const CACHE_BYTES: usize = 32 << 20;

/// What a store holds, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// Files of the log.
    pub segments: u64,
    /// Batches in them.
    pub frames: u64,
    /// Bytes of the log that are in use.
    pub bytes: u64,
    /// When the oldest batch was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// When the newest batch was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Timestamp>,
    /// Jobs that are not over, by state.
    pub live: BTreeMap<&'static str, u64>,
    /// Jobs that are over.
    pub finished: u64,
    /// Decisions.
    pub decisions: u64,
    /// Documents of jobs that are not over.
    pub documents: u64,
    /// Bytes of these documents.
    pub document_bytes: u64,
    /// A batch at the end of the log that was not written completely, and never acknowledged. It is removed when the store is
    /// opened; not a fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn: Option<Fault>,
    /// What is damaged.
    pub faults: Vec<Fault>,
}

/// Looks through the store in a directory.
///
/// # Errors
///
/// When it is in use, from a newer version, or no store; what is damaged is in the report.
pub fn check(directory: &Path) -> Result<CheckReport, OpenError> {
    let _lock = Opened::for_reading(directory)?;
    check_in(&(Arc::new(Directory::new(directory)) as Arc<dyn Medium>))
}

pub(super) fn check_in(medium: &Arc<dyn Medium>) -> Result<CheckReport, OpenError> {
    let Some(mark) = read_format(&**medium)? else {
        return Err(Fault::new(medium.path(FORMAT_FILE), None, "there is no such file; this is no store").into());
    };
    let mut report = CheckReport::default();
    let index = report.index(medium);
    let meta = index.as_ref().map_or_else(|| unused(mark), |(_, meta)| *meta);
    let mut segments = list(&**medium)?;
    segments.retain(|number| *number >= meta.first_segment);
    if let Err(error) = must_be_whole(&**medium, &segments, Meta { mark, ..meta }) {
        report.add(error);
    }
    let mut known = Known::default();
    if let Some((index, _)) = &index {
        known.load(index, &medium.path(index::FILE), &mut report.faults);
    }
    let mut search = Search { medium, mark, meta, index: index.as_ref().map(|(index, _)| index), known, report };
    let replay = search.log(&segments);
    search.compare(replay);
    Ok(search.report)
}

/// Live jobs as the index has them, and where the log has their last row of that time.
#[derive(Default)]
struct Known {
    jobs: HashMap<String, (JobRow, Option<Place>)>,
}

struct Search<'a> {
    medium: &'a Arc<dyn Medium>,
    mark: u64,
    meta: Meta,
    index: Option<&'a Index>,
    known: Known,
    report: CheckReport,
}

impl CheckReport {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    fn add(&mut self, error: OpenError) {
        match error {
            OpenError::Damaged(faults) => self.faults.extend(faults),
            error => self.faults.push(Fault::new("", None, error.to_string())),
        }
    }

    fn index(&mut self, medium: &Arc<dyn Medium>) -> Option<(Index, Meta)> {
        let index = match Index::open(medium.clone(), CACHE_BYTES, true) {
            Ok(index) => index,
            Err(error) => {
                self.add(error);
                return None;
            }
        };
        match index.meta() {
            Ok(meta) => Some((index, meta)),
            Err(fault) => {
                self.faults.push(fault);
                None
            }
        }
    }
}

impl Known {
    fn load(&mut self, index: &Index, path: &str, faults: &mut Vec<Fault>) {
        let read = index.read(|read| {
            for row in read.open_table(LIVE)?.iter()? {
                let (id, value) = row?;
                match live_row(value.value()) {
                    Ok(row) => drop(self.jobs.insert(id.value().to_owned(), (row, None))),
                    Err(what) => faults.push(Fault::new(path, None, format!("job {}: {what}", id.value()))),
                }
            }
            Ok(())
        });
        if let Err(error) = read {
            faults.push(Fault::new(path, None, error.to_string()));
        }
    }
}

impl Search<'_> {
    /// Reads every frame. What the index should contain is looked up there; the rest is what it does not contain yet.
    fn log(&mut self, segments: &[u64]) -> Replay {
        let mut replay = Replay::new(self.meta);
        let mut next = None;
        for number in segments {
            let path = self.medium.path(&name(*number));
            let read = self.medium.open(&name(*number), Access::Read).and_then(|file| read_from(&*file, 0));
            let bytes = match read {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.report.faults.push(Fault::new(path, None, format!("cannot be read: {error}")));
                    continue;
                }
            };
            self.report.segments += 1;
            if check_header(&bytes, *number, self.mark).is_err() {
                // Said already. Which frames are missing is not known.
                next = None;
                continue;
            }
            let frames = bytes.get(SEGMENT_HEADER as usize..).unwrap_or_default();
            let scanned = scan(&path, frames, SEGMENT_HEADER, self.mark, &mut next, |offset, frame| {
                self.frame(*number, offset, frame, &mut replay).map_err(|what| Fault::new(&path, Some(offset), what))
            });
            match scanned {
                Ok((end, how)) => {
                    self.report.bytes += end;
                    if let End::Torn { what, .. } = how
                        && let Some(earlier) = self.report.torn.replace(Fault::new(&path, Some(end), what))
                    {
                        self.report.faults.push(earlier);
                    }
                }
                Err(fault) => {
                    self.report.faults.extend(self.report.torn.take());
                    self.report.faults.push(fault);
                    next = None;
                }
            }
        }
        let contained = self.meta.contained;
        if next.is_some_and(|next| next < contained.next) {
            let what = format!("the log ends before frame {}, which the index has", contained.next - 1);
            self.report.faults.push(Fault::new(
                self.medium.path(&name(contained.segment)),
                Some(contained.offset),
                what,
            ));
        }
        replay
    }

    /// What is torn must be the end: a frame after it makes it damage.
    fn frame(&mut self, number: u64, offset: u64, frame: &Frame<'_>, replay: &mut Replay) -> Result<(), String> {
        if let Some(torn) = self.report.torn.take() {
            self.report.faults.push(torn);
        }
        self.report.frames += 1;
        let time = Timestamp::from_microsecond(frame.time).ok();
        self.report.oldest = self.report.oldest.or(time);
        self.report.newest = time.or(self.report.newest);
        if frame.number >= self.meta.contained.next {
            return replay.take(number, offset, frame);
        }
        let Some(index) = self.index else { return Ok(()) };
        for entry in frame.entries() {
            let entry = entry?;
            let at = offset + (FRAME_HEADER + entry.offset) as u64;
            let place = Place { segment: number, offset: at, length: u32::try_from(entry.bytes.len()).unwrap_or(0) };
            let missing = |what: String| format!("{what}, and the index does not know it");
            match entry.kind {
                Kind::Row => {
                    let row = JobRow::decode(entry.bytes).map_err(|error| error.to_string())?;
                    let is_over = row.job_state().is_some_and(JobState::is_final);
                    if let Some(known) = self.known.jobs.get_mut(&row.id) {
                        known.1 = Some(place);
                    } else {
                        let known = index.over(&row.id).map_err(|error| error.to_string())?;
                        if known
                            .is_none_or(|known| (known.segment, known.offset) < (number, if is_over { at } else { 0 }))
                        {
                            self.report.faults.push(Fault::new(
                                self.medium.path(&name(number)),
                                Some(at),
                                missing(format!("there is a row of job {} here", row.id)),
                            ));
                        }
                    }
                }
                Kind::Decision => {
                    let row = DecisionRow::decode(entry.bytes).map_err(|error| error.to_string())?;
                    let known = index.read(|read| {
                        let table = read.open_table(DECISIONS)?;
                        let place = table.get((row.job.as_str(), row.admission.as_str()))?;
                        Ok(place.map(|place| Place::from_row(place.value())))
                    });
                    let known = known.map_err(|error| error.to_string())?;
                    if known.is_none_or(|known| (known.segment, known.offset) < (number, at)) {
                        self.report.faults.push(Fault::new(
                            self.medium.path(&name(number)),
                            Some(at),
                            missing(format!("there is a decision about job {} here", row.job)),
                        ));
                    }
                }
                Kind::Document | Kind::Submission | Kind::Setting => {}
            }
        }
        Ok(())
    }

    /// What the index says lies in the log is there; every live job has its document.
    fn compare(&mut self, mut replay: Replay) {
        let reader = Segments::new(self.medium.clone());
        let mut faults = std::mem::take(&mut self.report.faults);
        if let Some(index) = self.index
            && let Err(error) = self.places(index, &reader, &replay, &mut faults)
        {
            faults.push(Fault::new(self.medium.path(index::FILE), None, error.to_string()));
        }
        for (id, (row, place)) in &self.known.jobs {
            let Some(place) = *place else { continue };
            let in_log = reader.entry(Kind::Row, place).ok().flatten();
            let in_log = in_log.and_then(|bytes| JobRow::decode(bytes.as_slice()).ok());
            let same = in_log.is_some_and(|in_log| JobRow { document: row.document, ..in_log } == *row);
            if !same {
                let what = format!("job {id} is not as the log has it");
                faults.push(Fault::new(self.medium.path(index::FILE), None, what));
            }
        }
        let mut loaded: Vec<_> = std::mem::take(&mut self.known.jobs).into_values().map(|(row, _)| row).collect();
        loaded.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        replay.inherit_documents(&loaded);
        let live = loaded.iter().filter(|row| !replay.jobs.contains_key(&row.id));
        for row in live.chain(replay.jobs.values().flatten()) {
            let Some(state) = row.job_state() else {
                let what = format!("job {} has an unknown state", row.id);
                faults.push(Fault::new(self.medium.path(index::FILE), None, what));
                continue;
            };
            *self.report.live.entry(state.as_str()).or_insert(0) += 1;
            if let Some(document) = row.document {
                self.report.documents += 1;
                self.report.document_bytes += u64::from(document.length);
                faults.extend(self.document(&reader, &row.id, document).err());
            }
        }
        self.report.finished += replay.delta.over.len() as u64;
        self.report.decisions += replay.delta.decisions.len() as u64;
        self.report.faults = faults;
    }

    fn document(&self, reader: &Segments, job: &str, at: DocumentRef) -> Result<(), Fault> {
        let place = Place { segment: at.segment, offset: at.offset, length: at.length };
        let path = self.medium.path(&name(at.segment));
        match reader.entry(Kind::Document, place) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Fault::new(path, None, format!("the document of job {job} is missing with the segment"))),
            Err(error) => Err(Fault::new(path, Some(at.offset), format!("the document of job {job}: {error}"))),
        }
    }

    fn places(
        &mut self,
        index: &Index,
        reader: &Segments,
        replay: &Replay,
        faults: &mut Vec<Fault>,
    ) -> Result<(), crate::store::StoreError> {
        let path = self.medium.path(index::FILE);
        let unreadable = |what: String, place: Place| {
            Fault::new(&path, None, format!("{what} should be at offset {} of segment {}", place.offset, place.segment))
        };
        index.read(|read| {
            for row in read.open_table(OVER)?.iter()? {
                let (id, place) = row?;
                let (id, place) = (id.value(), Place::from_row(place.value()));
                self.report.finished += u64::from(!replay.delta.over.contains_key(id));
                let found = reader.entry(Kind::Row, place).ok().flatten();
                let found = found.and_then(|bytes| JobRow::decode(bytes.as_slice()).ok());
                if found.is_none_or(|row| row.id != id) {
                    faults.push(unreadable(format!("the last row of job {id}"), place));
                }
                if self.known.jobs.contains_key(id) {
                    faults.push(Fault::new(&path, None, format!("job {id} is both live and over")));
                }
            }
            for row in read.open_table(DECISIONS)?.iter()? {
                let (key, place) = row?;
                let ((job, admission), place) = (key.value(), Place::from_row(place.value()));
                let key = (Box::from(job), Box::from(admission));
                self.report.decisions += u64::from(!replay.delta.decisions.contains_key(&key));
                let found = reader.entry(Kind::Decision, place).ok().flatten();
                let found = found.and_then(|bytes| DecisionRow::decode(bytes.as_slice()).ok());
                if found.is_none_or(|row| row.job != job || row.decision().is_err()) {
                    faults.push(unreadable(format!("a decision about job {job}"), place));
                }
            }
            Ok(())
        })
    }
}
