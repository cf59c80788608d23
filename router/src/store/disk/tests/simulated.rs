//! A file system in memory that counts operations, fails one of them, and loses power: of what was not synced nothing, all, or
//! any part may be left, in pieces of a sector.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::store::disk::medium::{Access, Medium, MediumFile};

const SECTOR: usize = 512;

/// A directory in memory. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Simulated(Arc<Mutex<Disk>>);

#[derive(Clone, Debug, Default)]
struct Disk {
    files: Vec<Inode>,
    /// As a program sees it.
    names: Names,
    /// As it is on the disk.
    durable_names: Names,
    name_steps: Vec<NameStep>,
    operations: u64,
    plan: Option<Plan>,
    /// Everything fails from here on.
    is_off: bool,
    /// Bytes that all files may have together.
    room: Option<usize>,
}

#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<String, usize>,
    folders: BTreeSet<String>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug)]
enum NameStep {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
    Folder(String),
}

/// What happens to one operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Which, from 0.
    pub(super) at: u64,
    /// How.
    pub(super) how: How,
}

/// How an operation goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Power is lost half way through it.
    PowerLoss,
    /// It fails once, half done; what a failed sync was to make durable may still become it.
    Full,
    /// It fails once, half done; what a failed sync was to make durable never becomes it, though it can be read.
    Broken,
}

/// What is left of what was not synced when power is lost.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    Nothing,
    Everything,
    /// Any part, by this seed.
    Some(u64),
}

/// A small generator of numbers, so that a seed means the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

impl Simulated {
    pub(super) fn with_plan(plan: Plan) -> Self {
        let disk = Disk { plan: Some(plan), ..Disk::default() };
        Self(Arc::new(Mutex::new(disk)))
    }

    /// Operations so far that could fail.
    pub(super) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Everything fails from here on.
    pub(super) fn turn_off(&self) {
        self.lock().is_off = true;
    }

    /// Only the process had ended.
    pub(super) fn turn_on(&self) {
        self.lock().is_off = false;
    }

    /// Files cannot grow any more; or can again.
    pub(super) fn set_full(&self, full: bool) {
        let mut disk = self.lock();
        let used = disk.used();
        disk.room = full.then_some(used);
    }

    pub(super) fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// Operation `at` goes wrong.
    pub(super) fn set_plan(&self, plan: Option<Plan>) {
        self.lock().plan = plan;
    }

    /// The disk as it is found after power was lost.
    pub(super) fn after_power_loss(&self, left: Left) -> Self {
        let mut disk = self.lock().clone();
        let mut dice = Dice(if let Left::Some(seed) = left { seed } else { 0 });
        for file in &mut disk.files {
            for change in std::mem::take(&mut file.unsynced) {
                let length = match &change {
                    Change::Length(length) => *length,
                    Change::Write(at, bytes) => file.durable.len().max(at + bytes.len()),
                };
                match (left, change) {
                    (Left::Nothing, _) => {}
                    (Left::Everything, change) => change.apply(&mut file.durable),
                    (Left::Some(_), Change::Length(_)) => {
                        if dice.roll(2) == 0 {
                            file.durable.resize(length, 0);
                        }
                    }
                    (Left::Some(_), Change::Write(at, bytes)) => {
                        let mut from = 0;
                        while from < bytes.len() {
                            let to = bytes.len().min((at + from).next_multiple_of(SECTOR).max(at + from + 1) - at);
                            if dice.roll(2) == 0 {
                                Change::Write(at + from, bytes[from..to].to_vec()).apply(&mut file.durable);
                            }
                            from = to;
                        }
                    }
                }
            }
            file.seen = file.durable.clone();
        }
        let kept = match left {
            Left::Nothing => 0,
            Left::Everything => disk.name_steps.len(),
            Left::Some(_) => dice.roll(disk.name_steps.len() as u64 + 1) as usize,
        };
        for step in std::mem::take(&mut disk.name_steps).into_iter().take(kept) {
            step.apply(&mut disk.durable_names);
        }
        disk.names = disk.durable_names.clone();
        disk.plan = None;
        disk.is_off = false;
        disk.operations = 0;
        Self(Arc::new(Mutex::new(disk)))
    }

    /// A copy that goes on by itself.
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.lock().clone())))
    }

    /// All files, as a program sees them.
    pub(super) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let disk = self.lock();
        disk.names.files.iter().map(|(name, file)| (name.clone(), disk.files[*file].seen.clone())).collect()
    }

    /// Changes a file behind everybody's back.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.lock();
        let file = disk.names.files[name];
        change(&mut disk.files[file].seen);
        disk.files[file].durable = disk.files[file].seen.clone();
    }

    /// Takes a file away behind everybody's back.
    pub(super) fn lose(&self, name: &str) {
        let mut disk = self.lock();
        disk.names.files.remove(name).unwrap();
        disk.durable_names.files.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }
}

impl Change {
    fn apply(self, to: &mut Vec<u8>) {
        match self {
            Self::Length(length) => to.resize(length, 0),
            Self::Write(at, bytes) => {
                if to.len() < at + bytes.len() {
                    to.resize(at + bytes.len(), 0);
                }
                to[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
    }
}

impl NameStep {
    fn apply(self, to: &mut Names) {
        match self {
            Self::Link(name, file) => drop(to.files.insert(name, file)),
            Self::Unlink(name) => drop(to.files.remove(&name)),
            Self::Rename(from, name) => {
                if let Some(file) = to.files.remove(&from) {
                    to.files.insert(name, file);
                }
            }
            Self::Folder(name) => drop(to.folders.insert(name)),
        }
    }
}

impl Disk {
    /// Counts an operation; `Some` when it goes wrong.
    fn goes_wrong(&mut self) -> io::Result<Option<How>> {
        if self.is_off {
            return Err(io::Error::other("power is lost"));
        }
        let number = self.operations;
        self.operations += 1;
        let how = self.plan.filter(|plan| plan.at == number).map(|plan| plan.how);
        self.is_off = how == Some(How::PowerLoss);
        Ok(how)
    }

    fn name(&mut self, step: NameStep) -> io::Result<()> {
        match self.goes_wrong()? {
            Some(how) => Err(how.error()),
            None => {
                step.clone().apply(&mut self.names);
                self.name_steps.push(step);
                Ok(())
            }
        }
    }

    fn used(&self) -> usize {
        self.names.files.values().map(|file| self.files[*file].seen.len()).sum()
    }

    fn write(&mut self, file: usize, change: Change) -> io::Result<()> {
        let how = self.goes_wrong()?;
        let length = match &change {
            Change::Length(length) => *length,
            Change::Write(at, bytes) => at + bytes.len(),
        };
        let more = length.saturating_sub(self.files[file].seen.len());
        if more > 0 && self.room.is_some_and(|room| self.used() + more > room) {
            return Err(How::Full.error());
        }
        let change = match (how, change) {
            (Some(how), Change::Length(_)) => return Err(how.error()),
            (Some(_), Change::Write(at, mut bytes)) => {
                bytes.truncate(bytes.len() / 2);
                Change::Write(at, bytes)
            }
            (None, change) => change,
        };
        change.clone().apply(&mut self.files[file].seen);
        self.files[file].unsynced.push(change);
        how.map_or(Ok(()), |how| Err(how.error()))
    }
}

impl How {
    fn error(self) -> io::Error {
        match self {
            Self::PowerLoss => io::Error::other("power is lost"),
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Broken => io::Error::other("input/output error"),
        }
    }
}

impl Medium for Simulated {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let disk = self.lock();
        if !folder.is_empty() && !disk.names.folders.contains(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = |name: &str| match name.rsplit_once('/') {
            Some((parent, rest)) => (parent == folder).then(|| rest.to_owned()),
            None => folder.is_empty().then(|| name.to_owned()),
        };
        let folders = disk.names.folders.iter().filter(|_| folder.is_empty()).cloned();
        Ok(disk.names.files.keys().filter_map(|name| below(name)).chain(folders).collect())
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        self.lock().name(NameStep::Folder(name.to_owned()))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn MediumFile>> {
        let mut disk = self.lock();
        let known = disk.names.files.get(name).copied();
        let file = match (known, access) {
            (Some(file), Access::Read | Access::Write) => file,
            (None, Access::Read | Access::Write) => return Err(io::ErrorKind::NotFound.into()),
            (Some(file), Access::Create) => {
                disk.write(file, Change::Length(0))?;
                file
            }
            (None, Access::Create) => {
                let file = disk.files.len();
                disk.files.push(Inode::default());
                disk.name(NameStep::Link(name.to_owned(), file))?;
                file
            }
        };
        Ok(Arc::new(OpenFile { disk: self.clone(), file }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.lock();
        if !disk.names.files.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.name(NameStep::Unlink(name.to_owned()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.lock().name(NameStep::Rename(from.to_owned(), to.to_owned()))
    }

    fn sync_folder(&self, _folder: &str) -> io::Result<()> {
        let mut disk = self.lock();
        if let Some(how) = disk.goes_wrong()? {
            return Err(how.error());
        }
        for step in std::mem::take(&mut disk.name_steps) {
            step.apply(&mut disk.durable_names);
        }
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        format!("store/{name}")
    }
}

#[derive(Debug)]
struct OpenFile {
    disk: Simulated,
    file: usize,
}

impl MediumFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.file].seen.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = self.disk.lock();
        let from = offset as usize;
        let bytes = disk.files[self.file].seen.get(from..from + into.len());
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.lock().write(self.file, Change::Write(offset as usize, bytes.to_vec()))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.lock().write(self.file, Change::Length(length as usize))
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let how = disk.goes_wrong()?;
        let file = &mut disk.files[self.file];
        match how {
            None => {
                for change in std::mem::take(&mut file.unsynced) {
                    change.apply(&mut file.durable);
                }
                Ok(())
            }
            Some(how) => {
                if how == How::Broken {
                    file.unsynced.clear();
                }
                Err(how.error())
            }
        }
    }
}
