//! Forgets what is older than the retention, by whole segments, oldest first.

use std::{io, sync::PoisonError};

use prost::Message;

use super::{
    checkpoint::Checkpointer,
    error::Fault,
    frame::{FRAME_HEADER, Kind, Parsed, number64, parse},
    index::DecisionKey,
    medium::{Access, read_from},
    rows::{DecisionRow, micros},
    segment::{FOLDER, SEGMENT_HEADER, name},
};
use crate::{
    job::JobState,
    store::{JobRow, StoreError},
};

impl Checkpointer {
    /// Takes away the segments of which everything is older than the retention, as long as the index contains them and no
    /// live job has its document there.
    pub(super) fn retire(&self) -> Result<(), StoreError> {
        let shared = self.shared();
        let mut written = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let retention = i64::try_from(self.options.retention.as_micros()).unwrap_or(i64::MAX);
        let until = micros((self.options.clock)()).saturating_sub(retention);
        // The newest frame of a segment is no newer than the first of the next.
        while written.first_segment < written.until.segment
            && !shared.index.has_documents_in(written.first_segment)
            && self.first_time(written.first_segment + 1)?.is_some_and(|time| time < until)
        {
            let number = written.first_segment;
            let (over, decisions) = self.contents(number)?;
            shared.index.retire(number, &over, &decisions)?;
            written.first_segment += 1;
            shared.segments.forget(number);
            let file = name(number);
            let removed = shared.medium.remove(&file).and_then(|()| shared.medium.sync_folder(FOLDER));
            // What is left is taken away when the store is opened.
            removed
                .map_err(|error| Fault::new(shared.medium.path(&file), None, format!("cannot be removed: {error}")))?;
            tracing::debug!(segment = number, "a segment older than the retention was removed");
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn first_segment(&self) -> u64 {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).first_segment
    }

    /// When the first frame of a segment was written.
    fn first_time(&self, number: u64) -> Result<Option<i64>, StoreError> {
        let mut header = [0; FRAME_HEADER];
        let shared = self.shared();
        let file = name(number);
        let read = shared.medium.open(&file, Access::Read).and_then(|file| {
            if file.length()? < SEGMENT_HEADER + FRAME_HEADER as u64 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            file.read_at(&mut header, SEGMENT_HEADER)
        });
        read.map_err(|error| Fault::new(shared.medium.path(&file), None, format!("cannot be read: {error}")))?;
        Ok((number64(&header, 0) != 0).then(|| number64(&header, 24).cast_signed()))
    }

    /// Jobs that are over and decisions with an entry in a segment. A frame that is damaged ends it: what comes after cannot
    /// be read either, and an index entry to nowhere is told as what is not known any more.
    fn contents(&self, number: u64) -> Result<(Vec<String>, Vec<DecisionKey>), StoreError> {
        let shared = self.shared();
        let file = name(number);
        let read = shared.medium.open(&file, Access::Read).and_then(|file| read_from(&*file, 0));
        let bytes =
            read.map_err(|error| Fault::new(shared.medium.path(&file), None, format!("cannot be read: {error}")))?;
        let mark = number64(&bytes, 24);
        let (mut over, mut decisions) = (Vec::new(), Vec::new());
        let mut at = usize::try_from(SEGMENT_HEADER).unwrap_or_default();
        while let Parsed::Frame(frame) = parse(mark, bytes.get(at..).unwrap_or_default()) {
            for entry in frame.entries().flatten() {
                match entry.kind {
                    Kind::Row => {
                        let row = JobRow::decode(entry.bytes).unwrap_or_default();
                        if row.job_state().is_some_and(JobState::is_final) {
                            over.push(row.id);
                        }
                    }
                    Kind::Decision => {
                        let row = DecisionRow::decode(entry.bytes).unwrap_or_default();
                        decisions.push((row.job, row.admission));
                    }
                    Kind::Document | Kind::Submission | Kind::Setting => {}
                }
            }
            at += frame.size;
        }
        Ok((over, decisions))
    }
}
