//! A segment is one file of the log: a header, frames one after the other, and zeros up to its end.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    error::Fault,
    frame::{ALIGNMENT, ENTRY_HEADER, Frame, Kind, Parsed, Place, is_entry, number32, number64, parse},
    medium::{Access, Medium, MediumFile},
};
use crate::store::StoreError;

/// The folder of the segments.
pub(super) const FOLDER: &str = "log";

pub(super) const SEGMENT_HEADER: u64 = 40;

const MAGIC: &[u8; 8] = b"jobgate\n";
const FORMAT: u32 = 1;

/// The file of a segment.
pub(super) fn name(number: u64) -> String {
    format!("{FOLDER}/{number:010}.seg")
}

/// The number of a segment, by the name of its file in the folder.
pub(super) fn number_of(file: &str) -> Option<u64> {
    file.strip_suffix(".seg").filter(|digits| digits.len() >= 10).and_then(|digits| digits.parse().ok())
}

/// The header of a segment: magic, format, checksum of what follows, number, mark of the log, zero.
pub(super) fn header(number: u64, mark: u64) -> [u8; SEGMENT_HEADER as usize] {
    let mut header = [0; SEGMENT_HEADER as usize];
    let (head, rest) = header.split_at_mut(16);
    rest[..8].copy_from_slice(&number.to_le_bytes());
    rest[8..16].copy_from_slice(&mark.to_le_bytes());
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    head[12..].copy_from_slice(&crc32fast::hash(rest).to_le_bytes());
    header
}

/// Checks the header of a segment.
pub(super) fn check_header(header: &[u8], number: u64, mark: u64) -> Result<(), &'static str> {
    if header.len() < SEGMENT_HEADER as usize || header.get(..8) != Some(MAGIC) {
        return Err("this is no segment of a log");
    }
    if number32(header, 12) != crc32fast::hash(header.get(16..SEGMENT_HEADER as usize).unwrap_or_default()) {
        return Err("the checksum of the header is wrong");
    }
    if number32(header, 8) != FORMAT {
        return Err("the segment is of an unknown format");
    }
    if number64(header, 16) != number {
        return Err("this is another segment than its name says");
    }
    if number64(header, 24) != mark {
        return Err("the segment belongs to another store");
    }
    Ok(())
}

/// How the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With zeros, or with the file.
    Clean,
    /// With something that is no frame, and nothing valid after it: a write that did not complete, and its last byte.
    Torn { what: &'static str, remains: u64 },
}

/// Goes through the frames of a segment. `bytes` begin at `base` of the file; each frame must have the next number, if it is
/// known. Returns where the frames end, and how.
pub(super) fn scan(
    file: &str,
    bytes: &[u8],
    base: u64,
    mark: u64,
    next: &mut Option<u64>,
    mut each: impl FnMut(u64, &Frame<'_>) -> Result<(), Fault>,
) -> Result<(u64, End), Fault> {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let offset = base + at as u64;
        let what = match parse(mark, rest) {
            Parsed::Frame(frame) => {
                if let Some(expected) = next.filter(|next| *next != frame.number) {
                    let what = format!("frame {} lies where frame {expected} should; frames are missing", frame.number);
                    return Err(Fault::new(file, Some(offset), what));
                }
                each(offset, &frame)?;
                *next = Some(frame.number + 1);
                at += frame.size;
                continue;
            }
            Parsed::Nothing => "a frame is missing",
            Parsed::Bad(what) => what,
        };
        let Some(last) = last_used(rest) else { return Ok((offset, End::Clean)) };
        return match later(mark, rest) {
            Some((there, number)) => {
                let what = format!("{what}, though frame {number} follows at offset {}", offset + there as u64);
                Err(Fault::new(file, Some(offset), what))
            }
            None => Ok((offset, End::Torn { what, remains: offset + last as u64 + 1 })),
        };
    }
}

/// Where the last byte is that is not zero. Most of a segment is zeros: they are compared by pages.
fn last_used(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let used = bytes.rchunks(ZEROS.len()).enumerate().find(|(_, page)| **page != ZEROS[..page.len()]);
    let (pages, page) = used?;
    let before = bytes.len() - pages * ZEROS.len() - page.len();
    page.iter().rposition(|byte| *byte != 0).map(|at| before + at)
}

/// The first valid frame after the beginning: where, and its number.
fn later(mark: u64, bytes: &[u8]) -> Option<(usize, u64)> {
    (ALIGNMENT..bytes.len()).step_by(ALIGNMENT).filter(|at| number64(bytes, *at) == mark).find_map(|at| {
        match parse(mark, bytes.get(at..)?) {
            Parsed::Frame(frame) => Some((at, frame.number)),
            _ => None,
        }
    })
}

/// The segments as they are read: a few files are kept open.
#[derive(Debug)]
pub(super) struct Segments {
    medium: Arc<dyn Medium>,
    open: Mutex<Vec<(u64, Arc<dyn MediumFile>)>>,
}

/// Files kept open for reading.
const OPEN_FILES: usize = 16;

impl Segments {
    pub(super) fn new(medium: Arc<dyn Medium>) -> Self {
        Self { medium, open: Mutex::default() }
    }

    fn file(&self, number: u64) -> io::Result<Arc<dyn MediumFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(open, _)| *open == number) {
            let found = open.remove(at);
            let file = found.1.clone();
            open.push(found);
            return Ok(file);
        }
        let file = self.medium.open(&name(number), Access::Read)?;
        if open.len() >= OPEN_FILES {
            open.remove(0);
        }
        open.push((number, file.clone()));
        Ok(file)
    }

    /// Forgets a segment that is taken away.
    pub(super) fn forget(&self, number: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| *open != number);
    }

    /// Reads the bytes of an entry, and checks them. `None` when the segment is not there, or not any more.
    pub(super) fn entry(&self, kind: Kind, at: Place) -> Result<Option<Vec<u8>>, StoreError> {
        let fault = |what: &str| {
            let path = self.medium.path(&name(at.segment));
            StoreError::from(Fault::new(path, Some(at.offset), what))
        };
        let file = match self.file(at.segment) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(&format!("cannot be opened: {error}"))),
        };
        let start = at.offset.checked_sub(ENTRY_HEADER as u64).ok_or_else(|| fault("no entry can lie here"))?;
        let mut bytes = vec![0; ENTRY_HEADER + at.length as usize];
        file.read_at(&mut bytes, start).map_err(|error| fault(&format!("cannot be read: {error}")))?;
        let rest = bytes.split_off(ENTRY_HEADER);
        if !is_entry(kind, &bytes, &rest) {
            return Err(fault("the entry is damaged (its checksum is wrong); look with `jobgate store check`"));
        }
        Ok(Some(rest))
    }
}
