//! A start: the index as it was last written, and the log from there on. Everything is verified before anything is changed.

use std::{io, sync::Arc};

use super::{
    DiskOptions,
    directory::{FORMAT_FILE, read_format, write_format},
    error::{Fault, OpenError, Repair, Repairs},
    frame::FRAME_HEADER,
    index::{self, Index, Loaded, Meta},
    log::Position,
    medium::{Access, Medium, read_from},
    pending::{Delta, Highest},
    prepare::{make, zero},
    replay::Replay,
    restore::restore,
    segment::{FOLDER, SEGMENT_HEADER, Segments, check_header, name, number_of},
};
use crate::store::Restored;

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
    let after = file.length()?.saturating_sub(end.offset).min(FRAME_HEADER as u64);
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
