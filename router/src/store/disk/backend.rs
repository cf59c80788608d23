//! The file of the index, as redb sees it. While a store is opened nothing may change on the disk, though redb writes when it
//! opens a file; so its writes are kept in memory, in order, until everything else is found good.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, PoisonError, RwLock},
};

use redb::StorageBackend;

use super::medium::MediumFile;

const PAGE: u64 = 4096;

/// A file for redb. Clones are the same file.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    file: Arc<dyn MediumFile>,
    mode: Arc<RwLock<Mode>>,
}

#[derive(Debug)]
enum Mode {
    /// Writes are kept in memory.
    Held(Held),
    /// Writes go to the file.
    Through,
    /// Nothing goes to the file, or comes from it: another has taken its place.
    Detached,
}

#[derive(Debug, Default)]
struct Held {
    length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

impl Backend {
    /// A file whose writes are held.
    pub(super) fn held(file: Arc<dyn MediumFile>) -> io::Result<Self> {
        let length = file.length()?;
        let held = Held { length, ..Held::default() };
        Ok(Self { file, mode: Arc::new(RwLock::new(Mode::Held(held))) })
    }

    /// Lets held writes go to the file, in the order they came, and all later ones.
    pub(super) fn settle(&self) -> io::Result<()> {
        let mut mode = self.mode.write().unwrap_or_else(PoisonError::into_inner);
        if let Mode::Held(held) = &*mode {
            // After a sync that failed, what is read may not be on the disk. redb changes its first page last, so that one only.
            let mut first = vec![0; usize::try_from(self.file.length()?.min(PAGE)).unwrap_or(0)];
            self.file.read_at(&mut first, 0)?;
            self.file.write_at(&first, 0)?;
            self.file.sync()?;
            for step in &held.steps {
                match step {
                    Step::Write(offset, bytes) => self.file.write_at(bytes, *offset)?,
                    Step::Length(length) => self.file.set_length(*length)?,
                    Step::Sync => self.file.sync()?,
                }
            }
            *mode = Mode::Through;
        }
        Ok(())
    }

    /// Keeps whoever still has it from the file.
    pub(super) fn detach(&self) {
        *self.mode.write().unwrap_or_else(PoisonError::into_inner) = Mode::Detached;
    }
}

impl Held {
    fn read(&self, file: &dyn MediumFile, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let in_file = file.length()?.saturating_sub(offset).min(out.len() as u64);
        let (there, beyond) = out.split_at_mut(usize::try_from(in_file).unwrap_or(0));
        file.read_at(there, offset)?;
        beyond.fill(0);
        let end = offset + out.len() as u64;
        for (page, bytes) in self.pages.range(offset / PAGE..=end / PAGE) {
            let start = page * PAGE;
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            if from < to {
                let (into, of) = (between(offset, from, to), between(start, from, to));
                if let (Some(into), Some(of)) = (out.get_mut(into), bytes.get(of)) {
                    into.copy_from_slice(of);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, file: &dyn MediumFile, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        self.length = self.length.max(end);
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let start = page * PAGE;
            if !self.pages.contains_key(&page) {
                let mut bytes = vec![0; PAGE as usize];
                let there = usize::try_from(self.length.saturating_sub(start).min(PAGE)).unwrap_or(0);
                self.read(file, start, bytes.get_mut(..there).unwrap_or_default())?;
                self.pages.insert(page, bytes);
            }
            let (from, to) = (start.max(offset), (start + PAGE).min(end));
            let into = self.pages.get_mut(&page).and_then(|bytes| bytes.get_mut(between(start, from, to)));
            if let (Some(into), Some(of)) = (into, data.get(between(offset, from, to))) {
                into.copy_from_slice(of);
            }
        }
        self.steps.push(Step::Write(offset, data.to_vec()));
        Ok(())
    }

    fn set_length(&mut self, length: u64) {
        for (page, bytes) in self.pages.range_mut(length / PAGE..) {
            let kept = usize::try_from(length.saturating_sub(page * PAGE)).unwrap_or(bytes.len()).min(bytes.len());
            bytes.get_mut(kept..).unwrap_or_default().fill(0);
        }
        self.length = length;
        self.steps.push(Step::Length(length));
    }
}

fn between(base: u64, from: u64, to: u64) -> std::ops::Range<usize> {
    let at = |place: u64| usize::try_from(place - base).unwrap_or(usize::MAX);
    at(from)..at(to)
}

fn detached() -> io::Error {
    io::Error::other("the index was opened anew")
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        match &*self.mode.read().unwrap_or_else(PoisonError::into_inner) {
            Mode::Held(held) => Ok(held.length),
            Mode::Through => self.file.length(),
            Mode::Detached => Err(detached()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.mode.read().unwrap_or_else(PoisonError::into_inner) {
            Mode::Held(held) => held.read(&*self.file, offset, out),
            Mode::Through => self.file.read_at(out, offset),
            Mode::Detached => Err(detached()),
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        match &mut *self.mode.write().unwrap_or_else(PoisonError::into_inner) {
            Mode::Held(held) => held.set_length(length),
            Mode::Through => self.file.set_length(length)?,
            Mode::Detached => return Err(detached()),
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not under the lock for writing: readers go on while the disk works.
        if let Mode::Held(held) = &mut *self.mode.write().unwrap_or_else(PoisonError::into_inner) {
            held.steps.push(Step::Sync);
            return Ok(());
        }
        match &*self.mode.read().unwrap_or_else(PoisonError::into_inner) {
            Mode::Detached => Err(detached()),
            _ => self.file.sync(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Mode::Held(held) = &mut *self.mode.write().unwrap_or_else(PoisonError::into_inner) {
            return held.write(&*self.file, offset, data);
        }
        match &*self.mode.read().unwrap_or_else(PoisonError::into_inner) {
            Mode::Detached => Err(detached()),
            _ => self.file.write_at(data, offset),
        }
    }
}
