//! The directory of a store as a whole: who has it open, who can read it, and what format it is of.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::{Fault, OpenError, Repair, Repairs},
    index,
    medium::{Access, Directory, Medium, create_private, open_private, read_from, write_whole},
    segment::FOLDER,
};

const LOCK: &str = "lock";

/// The file that says what the directory is.
pub(super) const FORMAT_FILE: &str = "format";

const FORMAT: u64 = 1;

/// A directory that this process has for itself.
#[derive(Debug)]
pub(super) struct Opened {
    directory: PathBuf,
    lock: File,
}

impl Opened {
    /// Makes the directory, if there is none, and locks it.
    pub(super) fn for_writing(directory: &Path) -> Result<Self, OpenError> {
        let shown = directory.display();
        create_private(directory).map_err(OpenError::io(format_args!("{shown}: cannot be made")))?;
        let files = Directory::new(directory).list("");
        let files = files.map_err(OpenError::io(format_args!("{shown}: cannot be listed")))?;
        let ours = [LOCK, FORMAT_FILE, FOLDER, index::FILE, "format.new", "live.redb.new"];
        if !files.is_empty() && !files.iter().any(|file| ours.contains(&file.as_str())) {
            return Err(OpenError::NotAStore { directory: directory.to_owned() });
        }
        let path = directory.join(LOCK);
        let lock = open_private(&path).map_err(OpenError::io(path.display()))?;
        Self::lock(directory, lock)
    }

    /// Locks a directory that is only read; nothing is made.
    pub(super) fn for_reading(directory: &Path) -> Result<Option<Self>, OpenError> {
        let path = directory.join(LOCK);
        match OpenOptions::new().read(true).open(&path) {
            Ok(lock) => Self::lock(directory, lock).map(Some),
            // Perhaps a copy of a store. Whoever opens it makes this file first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::io(path.display())(error)),
        }
    }

    fn lock(directory: &Path, lock: File) -> Result<Self, OpenError> {
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { directory: directory.to_owned() }),
            Err(TryLockError::Error(error)) => {
                Err(OpenError::io(format_args!("{}: cannot be locked", directory.join(LOCK).display()))(error))
            }
        }
    }

    pub(super) fn medium(&self) -> Arc<dyn Medium> {
        Arc::new(Directory::new(&self.directory))
    }

    pub(super) fn into_lock(self) -> File {
        self.lock
    }

    /// Keeps others than the owner out.
    pub(super) fn tighten(&self, repairs: &mut Repairs) -> Result<(), OpenError> {
        let mut paths = vec![self.directory.clone()];
        for folder in [self.directory.clone(), self.directory.join(FOLDER)] {
            let listed = fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let listed = listed.map_err(OpenError::io(folder.display()))?;
            paths.extend(listed.into_iter().map(|entry| entry.path()));
        }
        for path in paths {
            let failed = || OpenError::io(format_args!("{}: cannot be kept from others", path.display()).to_string());
            // A draft may have been renamed since it was listed.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let mode = metadata.mode() & 0o7777;
            if mode & 0o077 != 0 && !metadata.is_symlink() {
                fs::set_permissions(&path, Permissions::from_mode(mode & 0o700)).map_err(failed())?;
                repairs.add(Repair::Permissions { path: path.display().to_string(), mode });
            }
        }
        Ok(())
    }
}

/// Writes the file that says what the directory is.
pub(super) fn write_format(medium: &dyn Medium, mark: u64) -> io::Result<()> {
    let text = format!("jobgate store\nformat {FORMAT}\nlog {mark:016x}\n");
    write_whole(medium, FORMAT_FILE, text.as_bytes())
}

/// Reads it: the id of the log; `None` if there is no such file.
pub(super) fn read_format(medium: &dyn Medium) -> Result<Option<u64>, OpenError> {
    let path = medium.path(FORMAT_FILE);
    let read = medium.open(FORMAT_FILE, Access::Read).and_then(|file| read_from(&*file, 0));
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(path)(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let unreadable = || Fault::new(&path, None, "this is not what jobgate writes there");
    let mut lines = text.lines();
    if lines.next() != Some("jobgate store") {
        return Err(unreadable().into());
    }
    let format = lines.next().and_then(|line| line.strip_prefix("format ")?.parse().ok()).ok_or_else(unreadable)?;
    if format > FORMAT {
        return Err(OpenError::Newer { file: path, found: format, known: FORMAT });
    }
    let mark = lines.next().and_then(|line| u64::from_str_radix(line.strip_prefix("log ")?, 16).ok());
    Ok(Some(mark.filter(|mark| *mark != 0).ok_or_else(unreadable)?))
}
