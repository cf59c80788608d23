use std::{fmt, io, path::PathBuf};

use serde::Serialize;

use crate::store::StoreError;

/// Why a store could not be opened. Nothing in its directory was changed, unless [`OpenError::Io`] says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it open.
    #[error("{}: the directory is in use by another process; stop that one, or choose another directory", .directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// It holds something else.
    #[error("{}: the directory is not empty, and holds no store; choose an empty or a new one", .directory.display())]
    NotAStore {
        /// The directory.
        directory: PathBuf,
    },
    /// A newer version of jobgate wrote it.
    #[error(
        "{file}: format {found} is newer than this version of jobgate reads ({known}); use the version that wrote it"
    )]
    Newer {
        /// The file that says so.
        file: String,
        /// Its format.
        found: u64,
        /// The newest that is read.
        known: u64,
    },
    /// It is damaged.
    #[error("the store is damaged, and nothing in it was changed: {}; look with `jobgate store check`, then restore the directory from a copy", Listed(.0))]
    Damaged(Vec<Fault>),
    /// Something in it cannot be read.
    #[error("the store cannot be read, and nothing in it was changed: {0}")]
    Unreadable(String),
    /// The system did not let us.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and where.
        what: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Something in a store that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
}

/// What was put right when a store was opened: tell people of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repairs(Vec<Repair>);

/// Something that was put right.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// A batch was being written when the process or the machine stopped. It was never acknowledged.
    TornTail {
        /// The segment.
        file: String,
        /// Where the log ends now.
        offset: u64,
    },
    /// Others than the owner could read it.
    Permissions {
        /// The directory or file.
        path: String,
        /// Its mode before.
        mode: u32,
    },
    /// The index was missing; the log, which is whole, had everything.
    IndexRebuilt {
        /// The index.
        file: String,
    },
}

struct Listed<'a>(&'a [Fault]);

impl Fault {
    pub(super) fn new(file: impl Into<String>, offset: Option<u64>, what: impl Into<String>) -> Self {
        Self { file: file.into(), offset, what: what.into() }
    }
}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Damaged(vec![fault])
    }
}

impl OpenError {
    pub(super) fn io(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::new(fault.to_string())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{}, offset {offset}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if number == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl Repairs {
    pub(super) fn add(&mut self, repair: Repair) {
        self.0.push(repair);
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Repair> {
        self.0.iter()
    }

    /// Whether nothing had to be put right.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { file, offset } => write!(
                f,
                "{file}, offset {offset}: the last batch was not written completely, and was never acknowledged; it was removed"
            ),
            Self::Permissions { path, mode } => {
                write!(f, "{path}: others could reach it (mode {mode:o}); now only its owner can")
            }
            Self::IndexRebuilt { file } => {
                write!(f, "{file}: was missing; it was made again from the log, which is whole")
            }
        }
    }
}
