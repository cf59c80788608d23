//! The log since the last checkpoint, read at a start.

use std::collections::HashMap;

use prost::Message;

use super::{
    error::{Fault, OpenError},
    frame::{FRAME_HEADER, Frame, Kind, Place},
    index::Meta,
    log::Position,
    medium::{Access, Medium, read_from},
    pending::Delta,
    rows::{DecisionRow, SettingRow, SubmissionRow},
    segment::{End, SEGMENT_HEADER, name, scan},
};
use crate::{job::JobState, store::JobRow};

/// The log since a checkpoint.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) delta: Delta,
    /// Jobs with a row there: as they are last, or `None` once they are over.
    pub(super) jobs: HashMap<String, Option<JobRow>>,
    /// What is left of a frame that was not written completely: segment, first byte, byte after the last.
    pub(super) torn: Option<(u64, u64, u64)>,
    /// The last frame: where it begins, and its bytes.
    pub(super) last: Option<(u64, Vec<u8>)>,
}

impl Replay {
    pub(super) fn new(meta: Meta) -> Self {
        Self { delta: Delta::new(meta.contained, meta.highest), jobs: HashMap::new(), torn: None, last: None }
    }

    /// Reads the log from where the index ends.
    pub(super) fn read(&mut self, medium: &dyn Medium, mark: u64, segments: &[u64]) -> Result<(), OpenError> {
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
        let base = offset + FRAME_HEADER as u64;
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
