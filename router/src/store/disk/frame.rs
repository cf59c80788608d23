//! A frame is one batch in the log: a header, entries, zeros up to a multiple of eight bytes. All numbers are little-endian.
//!
//! | bytes | header of a frame |
//! |---|---|
//! | 0..8 | mark: the id of the log. Nobody outside knows it, so no document can look like a frame |
//! | 8..12 | CRC-32 of everything from byte 12 to the end of the entries, begun with the mark |
//! | 12..16 | length of the entries |
//! | 16..24 | number of the frame; each is one more than the one before |
//! | 24..32 | when it was written, in microseconds since 1970 |
//! | 32..40 | zero |
//!
//! | bytes | header of an entry |
//! |---|---|
//! | 0..4 | what it is |
//! | 4..8 | its length |
//! | 8..12 | CRC-32 of all the rest of it, so that one entry can be read without its frame |

use std::collections::HashMap;

use jiff::Timestamp;
use prost::Message;

use super::{
    recover::unused,
    replay::Replay,
    rows::{DecisionRow, SettingRow, SubmissionRow, append, micros},
};
use crate::store::{Batch, DocumentRef, JobRow, StoreError};

pub(super) const FRAME_HEADER: usize = 40;
pub(super) const ENTRY_HEADER: usize = 12;

/// Frames begin at multiples of this.
pub(super) const ALIGNMENT: usize = 8;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Row = 1,
    Document = 2,
    Decision = 3,
    Submission = 4,
    Setting = 5,
}

/// Where the bytes of an entry lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// A frame as it was encoded: where its parts will lie once it is written.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub(super) documents: Vec<DocumentRef>,
    pub(super) rows: Vec<Place>,
    pub(super) decisions: Vec<Place>,
}

/// Who and when a frame is.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameHead {
    pub(super) mark: u64,
    pub(super) number: u64,
    pub(super) time: Timestamp,
}

/// A frame as it was read.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) number: u64,
    pub(super) time: i64,
    pub(super) entries: &'a [u8],
    /// Bytes to the next frame.
    pub(super) size: usize,
}

/// An entry as it was read; `offset` is that of its bytes in the entries of its frame.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    pub(super) offset: usize,
    pub(super) bytes: &'a [u8],
}

/// What lies where a frame could begin.
#[derive(Debug)]
pub(super) enum Parsed<'a> {
    /// Zeros: the log ends.
    Nothing,
    /// A frame.
    Frame(Frame<'a>),
    /// Something else.
    Bad(&'static str),
}

impl Kind {
    fn from_number(number: u32) -> Option<Self> {
        [Self::Row, Self::Document, Self::Decision, Self::Submission, Self::Setting]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// Encodes a batch as a frame that will lie at `offset` of `segment`.
pub(super) fn encode(
    batch: &Batch,
    head: FrameHead,
    segment: u64,
    offset: u64,
    into: &mut Vec<u8>,
) -> Result<Encoded, StoreError> {
    into.clear();
    into.resize(FRAME_HEADER, 0);
    let mut encoded = Encoded::default();
    for (_, document) in &batch.documents {
        let place = entry(into, Kind::Document, segment, offset, |into| {
            into.extend_from_slice(document);
            Ok(())
        })?;
        encoded.documents.push(DocumentRef { segment, offset: place.offset, length: place.length });
    }
    let documents: HashMap<&str, DocumentRef> =
        batch.documents.iter().map(|(job, _)| job.as_str()).zip(encoded.documents.iter().copied()).collect();
    for row in &batch.rows {
        let place = entry(into, Kind::Row, segment, offset, |into| {
            let encoded = match documents.get(row.id.as_str()) {
                // One that was offered before may say where its document lay in the frame that failed.
                Some(at) => JobRow { document: Some(*at), ..row.clone() }.encode(into),
                None => row.encode(into),
            };
            encoded.map_err(|error| StoreError::new(format!("job {}: {error}", row.id)))
        })?;
        encoded.rows.push(place);
    }
    for decision in &batch.decisions {
        let place = entry(into, Kind::Decision, segment, offset, |into| append(&DecisionRow::new(decision)?, into))?;
        encoded.decisions.push(place);
    }
    for submission in &batch.submissions {
        entry(into, Kind::Submission, segment, offset, |into| append(&SubmissionRow::new(submission), into))?;
    }
    for (key, value) in &batch.settings {
        entry(into, Kind::Setting, segment, offset, |into| append(&SettingRow::new(key, value.as_deref()), into))?;
    }
    let length = u32::try_from(into.len() - FRAME_HEADER).map_err(|_| too_large())?;
    into.resize(into.len().next_multiple_of(ALIGNMENT), 0);
    put(into, 0, &head.mark.to_le_bytes());
    put(into, 12, &length.to_le_bytes());
    put(into, 16, &head.number.to_le_bytes());
    put(into, 24, &micros(head.time).to_le_bytes());
    let crc = frame_crc(head.mark, into.get(12..FRAME_HEADER + length as usize).unwrap_or_default());
    put(into, 8, &crc.to_le_bytes());
    Ok(encoded)
}

fn entry(
    into: &mut Vec<u8>,
    kind: Kind,
    segment: u64,
    frame: u64,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), StoreError>,
) -> Result<Place, StoreError> {
    let start = into.len();
    into.resize(start + ENTRY_HEADER, 0);
    write(into)?;
    let bytes = start + ENTRY_HEADER;
    let length = u32::try_from(into.len() - bytes).map_err(|_| too_large())?;
    let crc = entry_crc(kind, into.get(bytes..).unwrap_or_default());
    put(into, start, &(kind as u32).to_le_bytes());
    put(into, start + 4, &length.to_le_bytes());
    put(into, start + 8, &crc.to_le_bytes());
    Ok(Place { segment, offset: frame + bytes as u64, length })
}

fn too_large() -> StoreError {
    StoreError::new("the batch is larger than 4 GiB; submit fewer documents at once")
}

fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = into.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// Reads any bytes as a frame, and then as the entries of one, for fuzzing: neither may panic.
#[doc(hidden)]
pub fn fuzz_store_frame(bytes: &[u8]) {
    let mark = number64(bytes, 0);
    let take = |frame: &Frame<'_>| drop(Replay::new(unused(mark)).take(1, 0, frame));
    if let Parsed::Frame(frame) = parse(mark, bytes) {
        take(&frame);
    }
    take(&Frame { number: 1, time: 0, entries: bytes, size: bytes.len() });
    // With checksums that are right, so that what lies in entries is read too.
    let mut entries = Vec::new();
    for part in bytes.chunk_by(|_, byte| *byte != 0xff) {
        let kind = part.get(1).and_then(|number| Kind::from_number(u32::from(*number % 6))).unwrap_or(Kind::Row);
        let write = |into: &mut Vec<u8>| {
            into.extend_from_slice(part.get(2..).unwrap_or_default());
            Ok(())
        };
        if entry(&mut entries, kind, 1, 0, write).is_err() {
            return;
        }
    }
    take(&Frame { number: 1, time: 0, entries: &entries, size: entries.len() });
}

/// What is at the beginning of `bytes`.
pub(super) fn parse(mark: u64, bytes: &[u8]) -> Parsed<'_> {
    let Some(header) = bytes.get(..FRAME_HEADER) else {
        return if bytes.iter().all(|byte| *byte == 0) { Parsed::Nothing } else { Parsed::Bad("half a frame header") };
    };
    if header.iter().all(|byte| *byte == 0) {
        return Parsed::Nothing;
    }
    if number64(header, 0) != mark {
        return Parsed::Bad("no frame begins here");
    }
    let length = number32(header, 12) as usize;
    let Some(end) = FRAME_HEADER.checked_add(length).filter(|end| *end <= bytes.len()) else {
        return Parsed::Bad("the frame is longer than the file");
    };
    let covered = bytes.get(12..end).unwrap_or_default();
    if frame_crc(mark, covered) != number32(header, 8) {
        return Parsed::Bad("the checksum of the frame is wrong");
    }
    Parsed::Frame(Frame {
        number: number64(header, 16),
        time: number64(header, 24).cast_signed(),
        entries: bytes.get(FRAME_HEADER..end).unwrap_or_default(),
        size: end.next_multiple_of(ALIGNMENT),
    })
}

impl<'a> Frame<'a> {
    /// Its entries, or what is wrong with them. The checksum of the frame has them covered, so an error means that another
    /// program wrote them.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<Entry<'a>, &'static str>> + use<'a> {
        let (all, mut at) = (self.entries, 0);
        std::iter::from_fn(move || {
            if at >= all.len() {
                return None;
            }
            let entry = parse_entry(all, at);
            at = entry.as_ref().map_or(all.len(), |entry| entry.offset + entry.bytes.len());
            Some(entry)
        })
    }
}

fn parse_entry(all: &[u8], at: usize) -> Result<Entry<'_>, &'static str> {
    let offset = at + ENTRY_HEADER;
    let header = all.get(at..offset).ok_or("half an entry")?;
    let kind = Kind::from_number(number32(header, 0)).ok_or("an entry of an unknown kind")?;
    let end = offset.checked_add(number32(header, 4) as usize).ok_or("an entry is longer than its frame")?;
    let bytes = all.get(offset..end).ok_or("an entry is longer than its frame")?;
    if entry_crc(kind, bytes) != number32(header, 8) {
        return Err("the checksum of an entry is wrong");
    }
    Ok(Entry { kind, offset, bytes })
}

/// Whether `bytes` are those of an entry with this header.
pub(super) fn is_entry(kind: Kind, header: &[u8], bytes: &[u8]) -> bool {
    header.len() == ENTRY_HEADER
        && number32(header, 0) == kind as u32
        && number32(header, 4) as usize == bytes.len()
        && number32(header, 8) == entry_crc(kind, bytes)
}

fn frame_crc(mark: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&mark.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn entry_crc(kind: Kind, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(kind as u32).to_le_bytes());
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// The number at `at`; zero beyond the end.
pub(super) fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The number at `at`; zero beyond the end.
pub(super) fn number64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
