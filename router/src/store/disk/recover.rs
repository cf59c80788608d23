//! A start: the index as it was last written, and the log from there on. Everything is verified before anything is changed.

use std::{collections::HashMap, io, sync::Arc};

use prost::Message;

use super::{
    DiskOptions,
    checkpoint::REPEATABLE,
    directory::{FORMAT_FILE, read_format, write_format},
    error::{Fault, OpenError, Repair, Repairs},
    frame::{Frame, Kind, Place},
    index::{self, Index, Loaded, Meta},
    log::Position,
    medium::{Access, Medium, read_from},
    pending::{Delta, Highest},
    prepare::{make, zero},
    rows::{DecisionRow, SettingRow, SubmissionRow, micros},
    segment::{End, FOLDER, SEGMENT_HEADER, Segments, check_header, name, number_of, scan},
};
use crate::{
    job::JobState,
    store::{JobRow, Restored},
};

/// How much of what is over is read back at a start.
const RECENT_JOBS: usize = 1_000;
const RECENT_DECISIONS: usize = 2_000;

/// An index of this size is read and verified as a whole at a start; of a larger one only what is read is.
const VERIFIED_INDEX: u64 = 1 << 30;

/// A store that was found good, ready to go on.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) mark: u64,
    /// Where the log goes on.
    pub(super) end: Position,
    /// Up to where it is in the index.
    pub(super) contained: Position,
    pub(super) first_segment: u64,
    pub(super) index: Index,
    /// What is not.
    pub(super) delta: Delta,
}

/// The log since a checkpoint.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) delta: Delta,
    /// Jobs with a row there: as they are last, or `None` once they are over.
    pub(super) jobs: HashMap<String, Option<JobRow>>,
    /// What is left of a frame that was not written completely: segment, first byte, byte after the last.
    pub(super) torn: Option<(u64, u64, u64)>,
    /// The last frame: where it begins, and its bytes.
    last: Option<(u64, Vec<u8>)>,
}

pub(super) fn recover(
    medium: &Arc<dyn Medium>,
    options: &DiskOptions,
) -> Result<(Recovered, Restored, Repairs), OpenError> {
    let mut repairs = Repairs::default();
    let Some(mark) = read_format(&**medium)? else {
        must_be_unused(&**medium)?;
        return begin(medium, options).map(|recovered| (recovered, Restored::default(), repairs));
    };
    let segments = list(&**medium)?;
    let (index, meta) = match open_index(medium, options)? {
        Some((index, meta)) => (Some(index), meta),
        None => (None, unused(mark)),
    };
    let path = medium.path(index::FILE);
    if meta.mark != mark {
        return Err(Fault::new(path, None, "the index belongs to another log").into());
    }
    if index.is_none() && segments.first() != Some(&1) {
        return Err(
            Fault::new(path, None, "the index is missing, and the log does not go back to its beginning").into()
        );
    }
    let (kept, retired): (Vec<_>, Vec<_>) = segments.into_iter().partition(|number| *number >= meta.first_segment);
    must_be_whole(&**medium, &kept, meta)?;
    let mut loaded = match &index {
        Some(index) => index.load()?,
        None => Loaded::default(),
    };
    documents_must_exist(&**medium, &loaded, &kept)?;
    let mut replay = Replay::new(meta);
    replay.read(&**medium, mark, &kept)?;
    replay.inherit_documents(&loaded.jobs);
    let end = replay.delta.until;
    let reader = Segments::new(medium.clone());
    let restored = restore(&mut loaded, &mut replay, index.as_ref(), &reader, options)?;

    // Everything is good: from here on the directory is changed.
    let index = match index {
        Some(index) => index,
        None => {
            Index::create(medium, options.cache_bytes, meta)?;
            if end != meta.contained {
                repairs.add(Repair::IndexRebuilt { file: path });
            }
            Index::open(medium.clone(), options.cache_bytes, false)?
        }
    };
    index.settle()?;
    if let Some((number, from, to)) = replay.torn {
        let path = medium.path(&name(number));
        let zeroed = medium.open(&name(number), Access::Write).and_then(|file| zero(&*file, from, to));
        zeroed.map_err(OpenError::io(&path))?;
        repairs.add(Repair::TornTail { file: path, offset: from });
    }
    confirm(&**medium, end, replay.last).map_err(OpenError::io(medium.path(&name(end.segment))))?;
    tidy(&**medium, &retired).map_err(OpenError::io(format_args!("{}: cannot be tidied", medium.path(FOLDER))))?;
    let recovered = Recovered {
        mark,
        end,
        contained: meta.contained,
        first_segment: meta.first_segment,
        index,
        delta: replay.delta,
    };
    Ok((recovered, restored, repairs))
}

/// Makes the end of the log durable. After a sync that failed, what is read may not be on the disk, and no sync that comes later
/// brings it there unless it is written again. That can be so of the last frame only, and of the zeros after it: every frame
/// before was acknowledged.
fn confirm(medium: &dyn Medium, end: Position, last: Option<(u64, Vec<u8>)>) -> io::Result<()> {
    let file = medium.open(&name(end.segment), Access::Write)?;
    if let Some((from, bytes)) = last {
        file.write_at(&bytes, from)?;
    }
    let after = file.length()?.saturating_sub(end.offset).min(super::frame::FRAME_HEADER as u64);
    zero(&*file, end.offset, end.offset + after)
}

/// Begins a store. The index comes last, and the format before it: until then there is nothing that could be lost.
fn begin(medium: &Arc<dyn Medium>, options: &DiskOptions) -> Result<Recovered, OpenError> {
    let (mark, _) = uuid::Uuid::new_v4().as_u64_pair();
    let made = medium.create_folder(FOLDER).and_then(|()| {
        tidy(&**medium, &list_files(&**medium)?)?;
        make(&**medium, 1, mark, options.segment_bytes)?;
        medium.sync_folder("")?;
        write_format(&**medium, mark)
    });
    made.map_err(OpenError::io(format_args!("{}: a store cannot be made here", medium.path(""))))?;
    let meta = unused(mark);
    Index::create(medium, options.cache_bytes, meta)?;
    let index = Index::open(medium.clone(), options.cache_bytes, false)?;
    index.settle()?;
    let (contained, delta) = (meta.contained, Delta::new(meta.contained, meta.highest));
    Ok(Recovered { mark, end: contained, contained, first_segment: 1, index, delta })
}

/// The index of a store that nothing was written to.
pub(super) fn unused(mark: u64) -> Meta {
    Meta { mark, contained: Position::START, highest: Highest::default(), first_segment: 1 }
}

/// Without the file that says what it is, a directory may hold the beginnings of a store, but nothing that was ever written.
fn must_be_unused(medium: &dyn Medium) -> Result<(), OpenError> {
    let files = medium.list("").map_err(OpenError::io(medium.path("")))?;
    let mut used = files.iter().any(|file| file == index::FILE);
    if files.iter().any(|file| file == FOLDER) {
        for number in list_files(medium).map_err(OpenError::io(medium.path(FOLDER)))? {
            let read = medium.open(&name(number), Access::Read).and_then(|file| read_from(&*file, SEGMENT_HEADER));
            let frames = read.map_err(OpenError::io(medium.path(&name(number))))?;
            used |= frames.iter().any(|byte| *byte != 0);
        }
    }
    if used {
        let what = "the file is missing, though there is a log or an index beside it";
        return Err(Fault::new(medium.path(FORMAT_FILE), None, what).into());
    }
    Ok(())
}

pub(super) fn list(medium: &dyn Medium) -> Result<Vec<u64>, OpenError> {
    match list_files(medium) {
        Ok(segments) => Ok(segments),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Fault::new(medium.path(FOLDER), None, "the log is missing").into())
        }
        Err(error) => Err(OpenError::io(medium.path(FOLDER))(error)),
    }
}

fn list_files(medium: &dyn Medium) -> io::Result<Vec<u64>> {
    let mut segments: Vec<u64> = medium.list(FOLDER)?.iter().filter_map(|file| number_of(file)).collect();
    segments.sort_unstable();
    Ok(segments)
}

fn open_index(medium: &Arc<dyn Medium>, options: &DiskOptions) -> Result<Option<(Index, Meta)>, OpenError> {
    let path = medium.path(index::FILE);
    let length = match medium.open(index::FILE, Access::Read).and_then(|file| file.length()) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(path)(error)),
    };
    let index = Index::open(medium.clone(), options.cache_bytes, length <= VERIFIED_INDEX)?;
    let meta = index.meta()?;
    Ok(Some((index, meta)))
}

/// Every segment from the first to the last is there, and is one; the index does not know more than the log.
pub(super) fn must_be_whole(medium: &dyn Medium, segments: &[u64], meta: Meta) -> Result<(), OpenError> {
    let mut faults = Vec::new();
    let last = segments.last().copied().unwrap_or(0).max(meta.contained.segment);
    let mut present = segments.iter().copied().peekable();
    for number in meta.first_segment..=last {
        let path = medium.path(&name(number));
        if present.next_if_eq(&number).is_none() {
            faults.push(Fault::new(path, None, "the segment is missing"));
            continue;
        }
        let mut header = [0; SEGMENT_HEADER as usize];
        let file = medium.open(&name(number), Access::Read).map_err(OpenError::io(&path))?;
        let length = file.length().map_err(OpenError::io(&path))?;
        let needed = if number == meta.contained.segment { meta.contained.offset } else { SEGMENT_HEADER };
        if length < needed.max(SEGMENT_HEADER) {
            faults.push(Fault::new(path, Some(length), "the file is cut off"));
            continue;
        }
        file.read_at(&mut header, 0).map_err(OpenError::io(&path))?;
        if let Err(what) = check_header(&header, number, meta.mark) {
            faults.push(Fault::new(path, Some(0), what));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(OpenError::Damaged(faults)) }
}

fn documents_must_exist(medium: &dyn Medium, loaded: &Loaded, segments: &[u64]) -> Result<(), OpenError> {
    for job in &loaded.jobs {
        if let Some(document) = job.document.filter(|document| segments.binary_search(&document.segment).is_err()) {
            let what = format!("the segment with the document of job {} is missing", job.id);
            return Err(Fault::new(medium.path(&name(document.segment)), Some(document.offset), what).into());
        }
    }
    Ok(())
}

fn tidy(medium: &dyn Medium, segments: &[u64]) -> io::Result<()> {
    for number in segments {
        medium.remove(&name(*number))?;
    }
    let drafts: Vec<_> = medium.list(FOLDER)?.into_iter().filter(|file| file.ends_with(".seg.new")).collect();
    for file in &drafts {
        medium.remove(&format!("{FOLDER}/{file}"))?;
    }
    if segments.is_empty() && drafts.is_empty() { Ok(()) } else { medium.sync_folder(FOLDER) }
}

impl Replay {
    pub(super) fn new(meta: Meta) -> Self {
        Self { delta: Delta::new(meta.contained, meta.highest), jobs: HashMap::new(), torn: None, last: None }
    }

    /// Reads the log from where the index ends.
    fn read(&mut self, medium: &dyn Medium, mark: u64, segments: &[u64]) -> Result<(), OpenError> {
        let from = self.delta.until;
        let mut next = Some(from.next);
        for number in segments.iter().copied().filter(|number| *number >= from.segment) {
            let path = medium.path(&name(number));
            let base = if number == from.segment { from.offset } else { SEGMENT_HEADER };
            let read = medium.open(&name(number), Access::Read).and_then(|file| read_from(&*file, base));
            let bytes = read.map_err(OpenError::io(&path))?;
            let before = self.torn;
            let mut last = None;
            let (end, how) = scan(&path, &bytes, base, mark, &mut next, |offset, frame| {
                if let Some((torn, at, _)) = before {
                    let what = format!("a frame is damaged or missing, though segment {number} goes on");
                    return Err(Fault::new(medium.path(&name(torn)), Some(at), what));
                }
                self.take(number, offset, frame).map_err(|what| Fault::new(&path, Some(offset), what))?;
                let end = offset + frame.size as u64;
                last = Some((offset, end));
                self.delta.until = Position { segment: number, offset: end, next: frame.number + 1 };
                Ok(())
            })
            .map_err(|fault| match before {
                // Frames are missing here because of what is wrong there.
                Some((torn, at, _)) => {
                    Fault::new(medium.path(&name(torn)), Some(at), format!("a frame is damaged or missing: {fault}"))
                }
                None => fault,
            })?;
            if let Some((from, to)) = last {
                let at = |place: u64| usize::try_from(place - base).unwrap_or(usize::MAX);
                self.last = Some((from, bytes.get(at(from)..at(to)).unwrap_or_default().to_vec()));
            }
            if let End::Torn { what, remains } = how {
                if let Some((torn, at, _)) = before {
                    let first = Fault::new(medium.path(&name(torn)), Some(at), "a frame is damaged or missing");
                    return Err(OpenError::Damaged(vec![first, Fault::new(path, Some(end), what)]));
                }
                self.torn = Some((number, end, remains));
            }
        }
        Ok(())
    }

    /// Takes in what a frame says.
    pub(super) fn take(&mut self, segment: u64, offset: u64, frame: &Frame<'_>) -> Result<(), String> {
        let base = offset + super::frame::FRAME_HEADER as u64;
        for entry in frame.entries() {
            let entry = entry?;
            let length = u32::try_from(entry.bytes.len()).map_err(|error| error.to_string())?;
            let place = Place { segment, offset: base + entry.offset as u64, length };
            let unreadable = |error: prost::DecodeError| format!("an entry of the frame cannot be read: {error}");
            match entry.kind {
                Kind::Document => {}
                Kind::Row => self.job(JobRow::decode(entry.bytes).map_err(unreadable)?, place),
                Kind::Decision => {
                    let row = DecisionRow::decode(entry.bytes).map_err(unreadable)?;
                    self.delta.decision(&row.job, &row.admission, place);
                }
                Kind::Submission => {
                    let row = SubmissionRow::decode(entry.bytes).map_err(unreadable)?;
                    self.delta.submissions.push(row.submission()?);
                }
                Kind::Setting => {
                    let row = SettingRow::decode(entry.bytes).map_err(unreadable)?;
                    self.delta.settings.insert(row.key, row.value);
                }
            }
        }
        Ok(())
    }

    fn job(&mut self, mut row: JobRow, place: Place) {
        let is_over = row.job_state().is_some_and(JobState::is_final);
        self.delta.job(&row.id, place, is_over, row.document);
        self.delta.highest.see(row.lease, row.sequence);
        if is_over {
            self.jobs.insert(row.id, None);
        } else {
            row.document = self.delta.live.get(row.id.as_str()).and_then(|job| job.document);
            self.jobs.insert(row.id.clone(), Some(row));
        }
    }

    /// A row that does not say where the document lies means the one that the index knows.
    pub(super) fn inherit_documents(&mut self, loaded: &[JobRow]) {
        for row in self.jobs.values_mut().flatten().filter(|row| row.document.is_none()) {
            if let Ok(at) = loaded.binary_search_by(|known| known.id.cmp(&row.id)) {
                row.document = loaded.get(at).and_then(|known| known.document);
            }
        }
    }
}

fn restore(
    loaded: &mut Loaded,
    replay: &mut Replay,
    index: Option<&Index>,
    reader: &Segments,
    options: &DiskOptions,
) -> Result<Restored, OpenError> {
    let mut restored = Restored {
        jobs: std::mem::take(&mut loaded.jobs),
        submissions: std::mem::take(&mut loaded.submissions),
        settings: std::mem::take(&mut loaded.settings),
        highest_lease: replay.delta.highest.lease,
        highest_sequence: replay.delta.highest.sequence,
        ..Restored::default()
    };
    if !replay.jobs.is_empty() {
        restored.jobs.retain(|job| !replay.jobs.contains_key(&job.id));
    }
    restored.jobs.extend(std::mem::take(&mut replay.jobs).into_values().flatten());
    restored.jobs.sort_by_key(|job| job.sequence);
    for (key, value) in &replay.delta.settings {
        match value {
            Some(value) => restored.settings.insert(key.clone(), value.clone()),
            None => restored.settings.remove(key),
        };
    }
    let now = micros((options.clock)());
    restored.submissions.extend(replay.delta.submissions.iter().cloned());
    restored.submissions.retain(|one| micros(one.time).saturating_add(REPEATABLE.as_micros() as i64) >= now);
    restored.submissions.sort_by_key(|submission| submission.time);
    restored.finished = recent_jobs(replay, index, reader)?;
    restored.decisions = recent_decisions(replay, index, reader)?;
    Ok(restored)
}

/// Jobs that were over last, among those submitted last: ids are in the order of submission.
fn recent_jobs(replay: &Replay, index: Option<&Index>, reader: &Segments) -> Result<Vec<JobRow>, OpenError> {
    let mut places: HashMap<String, Place> = HashMap::new();
    if let Some(index) = index {
        places.extend(index.over_before(None, RECENT_JOBS).map_err(fault)?);
    }
    places.extend(replay.delta.over_before(None).take(RECENT_JOBS).map(|(id, place)| (id.to_owned(), place)));
    places.retain(|id, _| !replay.delta.live.contains_key(id.as_str()));
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    places.truncate(RECENT_JOBS);
    let mut rows = Vec::with_capacity(places.len());
    for (_, place) in places {
        if let Some(bytes) = reader.entry(Kind::Row, place).map_err(fault)? {
            rows.push(JobRow::decode(bytes.as_slice()).map_err(fault)?);
        }
    }
    rows.sort_by(|a, b| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
    Ok(rows)
}

/// Decisions made last, among those about jobs submitted last.
fn recent_decisions(
    replay: &Replay,
    index: Option<&Index>,
    reader: &Segments,
) -> Result<Vec<crate::decision::Decision>, OpenError> {
    let mut places: HashMap<(String, String), Place> = HashMap::new();
    if let Some(index) = index {
        places.extend(index.newest_decisions(RECENT_DECISIONS).map_err(fault)?);
    }
    let newest = replay.delta.decisions.iter().rev().take(RECENT_DECISIONS);
    places.extend(newest.map(|((job, admission), place)| ((job.to_string(), admission.to_string()), *place)));
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_unstable_by(|a, b| b.0.cmp(&a.0));
    places.truncate(RECENT_DECISIONS);
    let mut decisions = Vec::with_capacity(places.len());
    for (_, place) in places {
        if let Some(bytes) = reader.entry(Kind::Decision, place).map_err(fault)? {
            let row = DecisionRow::decode(bytes.as_slice()).map_err(fault)?;
            decisions.push(row.decision().map_err(fault)?);
        }
    }
    decisions.reverse();
    decisions.sort_by_key(|decision| decision.time);
    Ok(decisions)
}

fn fault(error: impl std::fmt::Display) -> OpenError {
    OpenError::Unreadable(error.to_string())
}
