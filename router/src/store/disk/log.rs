//! The log is the truth: a batch is durable when its frame is. One write, one sync.

use std::{io, sync::Arc};

use jiff::Timestamp;

use super::{
    frame::{Encoded, FrameHead, encode},
    medium::{Access, Medium, MediumFile, reason},
    prepare::{Preparer, zero},
    segment::{SEGMENT_HEADER, name},
};
use crate::store::{Batch, StoreError};

/// Where the log goes on: the first byte after a frame, and the number of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) next: u64,
}

impl Position {
    /// Where a log begins.
    pub(super) const START: Self = Self { segment: 1, offset: SEGMENT_HEADER, next: 1 };
}

/// The end of the log, where it is written.
#[derive(Debug)]
pub(super) struct Log {
    medium: Arc<dyn Medium>,
    preparer: Arc<Preparer>,
    mark: u64,
    at: Position,
    file: Arc<dyn MediumFile>,
    capacity: u64,
    /// Where the remains of a write that failed may end; never before `at.offset`. They are written over before anything
    /// is written after them, so that they cannot be taken for damage.
    remains: u64,
    buffer: Vec<u8>,
}

/// A buffer that grew beyond this is given back.
const KEPT_BUFFER: usize = 1 << 20;

impl Log {
    /// Goes on at a position.
    pub(super) fn open(medium: Arc<dyn Medium>, preparer: Arc<Preparer>, mark: u64, at: Position) -> io::Result<Self> {
        let file = medium.open(&name(at.segment), Access::Write)?;
        let capacity = file.length()?;
        preparer.request(at.segment + 1);
        Ok(Self { medium, preparer, mark, at, file, capacity, remains: at.offset, buffer: Vec::new() })
    }

    pub(super) fn position(&self) -> Position {
        self.at
    }

    /// Writes a batch; it is durable when this returns.
    pub(super) fn append(&mut self, batch: &Batch, time: Timestamp) -> Result<Encoded, StoreError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.write(batch, time, &mut buffer);
        if buffer.capacity() <= KEPT_BUFFER {
            self.buffer = buffer;
        }
        written
    }

    fn write(&mut self, batch: &Batch, time: Timestamp, buffer: &mut Vec<u8>) -> Result<Encoded, StoreError> {
        let head = FrameHead { mark: self.mark, number: self.at.next, time };
        let mut encoded = encode(batch, head, self.at.segment, self.at.offset, buffer)?;
        if self.at.offset + buffer.len() as u64 > self.capacity {
            // Where documents lie is written in rows, and may take a few bytes more in another segment.
            self.roll(buffer.len() as u64 + 16 * (batch.documents.len() as u64 + 1))?;
            encoded = encode(batch, head, self.at.segment, self.at.offset, buffer)?;
        }
        let end = self.at.offset + buffer.len() as u64;
        // A sync that failed says nothing about what is on the disk: everything that may lie there is written anew.
        if self.remains > end {
            let beyond = usize::try_from(self.remains - self.at.offset).unwrap_or(buffer.len());
            buffer.resize(beyond, 0);
        }
        self.remains = self.at.offset + buffer.len() as u64;
        self.file.write_at(buffer, self.at.offset).map_err(|error| self.failed("cannot be written", &error))?;
        self.file.sync().map_err(|error| self.failed("cannot be made durable", &error))?;
        self.at = Position { segment: self.at.segment, offset: end, next: self.at.next + 1 };
        self.remains = end;
        Ok(encoded)
    }

    /// Goes on in the next segment, which must have room for a frame of this size.
    fn roll(&mut self, size: u64) -> Result<(), StoreError> {
        if self.remains > self.at.offset {
            zero(&*self.file, self.at.offset, self.remains)
                .map_err(|error| self.failed("cannot be written", &error))?;
            self.remains = self.at.offset;
        }
        let number = self.at.segment + 1;
        self.preparer.take(number)?;
        let file = name(number);
        let failed = |error: io::Error| self.failed_at(&file, 0, "cannot be made ready", &error);
        let next = self.medium.open(&file, Access::Write).map_err(failed)?;
        let length = next.length().map_err(failed)?;
        let needed = SEGMENT_HEADER + size;
        if needed > length {
            zero(&*next, length, needed).map_err(failed)?;
        }
        self.at = Position { segment: number, offset: SEGMENT_HEADER, next: self.at.next };
        self.file = next;
        self.capacity = length.max(needed);
        self.remains = self.at.offset;
        self.preparer.request(number + 1);
        Ok(())
    }

    fn failed(&self, what: &str, error: &io::Error) -> StoreError {
        self.failed_at(&name(self.at.segment), self.at.offset, what, error)
    }

    fn failed_at(&self, file: &str, offset: u64, what: &str, error: &io::Error) -> StoreError {
        let path = self.medium.path(file);
        StoreError::new(format!(
            "{path}, offset {offset}: {what}: {}; nothing new is accepted until it can be",
            reason(error)
        ))
    }
}
