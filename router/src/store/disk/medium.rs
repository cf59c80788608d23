//! What the store asks of the file system, so that tests can put another one in its place: one that fails and loses power.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A directory. Names are relative to it, with `/`; `""` is the directory itself.
pub(super) trait Medium: fmt::Debug + Send + Sync + 'static {
    /// Names of the files in a folder.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Makes a folder, unless there is one.
    fn create_folder(&self, name: &str) -> io::Result<()>;
    /// Opens a file.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn MediumFile>>;
    /// Takes a file away.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, over another if there is one.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes durable which files are in a folder.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
    /// The name as people find it.
    fn path(&self, name: &str) -> String;
}

/// An open file. Any thread may read and write it at once.
pub(super) trait MediumFile: fmt::Debug + Send + Sync + 'static {
    /// Its length.
    fn length(&self) -> io::Result<u64>;
    /// Fills `into`, or fails.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes`, or fails, perhaps half way.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts it, or extends it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes what was written, and the length, durable.
    fn sync(&self) -> io::Result<()>;
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reading.
    Read,
    /// Reading and writing what is there.
    Write,
    /// Reading and writing a file that is empty at first.
    Create,
}

/// A directory of the file system.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }
}

/// Makes a directory that only its owner can enter.
pub(super) fn create_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Opens a file that only its owner can read, made if there is none.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

impl Medium for Directory {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(folder))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        create_private(&self.at(name))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn MediumFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read).mode(0o600);
        if access == Access::Create {
            options.create(true).truncate(true);
        }
        Ok(Arc::new(options.open(self.at(name))?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        File::open(self.at(folder))?.sync_all()
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }
}

impl MediumFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Writes a small file as a whole: under another name first, so that it is there completely or not at all.
pub(super) fn write_whole(medium: &dyn Medium, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = format!("{name}.new");
    let file = medium.open(&draft, Access::Create)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    medium.rename(&draft, name)?;
    medium.sync_folder("")
}

/// Reads a file as a whole, from `offset` on.
pub(super) fn read_from(file: &dyn MediumFile, offset: u64) -> io::Result<Vec<u8>> {
    let length = file.length()?.saturating_sub(offset);
    let length = usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// What the system says, and what to do about it where that is known.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("no space left ({error}); free some, or give the directory more; what was accepted is kept")
        }
        _ => error.to_string(),
    }
}
