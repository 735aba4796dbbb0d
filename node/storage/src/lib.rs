//! The only place that opens durable files.
//!
//! ```text
//!   Database   sled, for raft logs and a node's facts: ordered keys, group commit by one thread
//!   files      whole files written atomically; streams that become files when they are complete
//!   Snapshots  one checksummed file per raft group
//!   DirLock    one agent per data folder
//! ```
//!
//! sled 0.34.7's `flush` does not survive a power cut by itself (it uses `sync_file_range`); what it
//! takes to make it durable, and to survive its corruption, is in [`Database`] and nowhere else, so
//! that the engine can be changed in a day.
//!
//! Architecture Invariant: no sled type leaves this crate. Nothing is acknowledged before
//! `File::sync_data` has returned. No fsync is ever repeated after it failed: the kernel may have
//! dropped what it could not write (Rebello et al., 2020).

mod database;
mod dir_lock;
mod facts;
pub mod files;
mod snapshots;

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

pub use database::{Database, Options, Stats};
pub use dir_lock::DirLock;
pub use facts::Facts;
pub use snapshots::SnapshotFiles;

/// What a disk refused, or what was found damaged.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("can not {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} has {bytes} bytes, more than the {max} that it may have", path.display())]
    TooLarge { path: PathBuf, bytes: u64, max: u64 },
    #[error("the fact {name} has {bytes} bytes, more than a fact may have")]
    FactTooLarge { name: String, bytes: usize },
    /// Moving the folder aside and joining anew, under a new identity, is the way back.
    #[error("the database {} is damaged: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("another agent uses {}", .0.display())]
    Locked(PathBuf),
    #[error("the database has stopped: {0}")]
    Stopped(String),
}

impl StorageError {
    /// Whether the process or the system had no file descriptor left. Nothing is wrong with the disk
    /// then, and the same may succeed later.
    pub fn is_for_want_of_descriptors(&self) -> bool {
        let source = match self {
            Self::File { source, .. } => source,
            Self::TooLarge { .. }
            | Self::FactTooLarge { .. }
            | Self::Corrupt { .. }
            | Self::Locked(_)
            | Self::Stopped(_) => return false,
        };
        matches!(Errno::from_io_error(source), Some(Errno::MFILE | Errno::NFILE))
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        let kind = match &error {
            StorageError::File { source, .. } => source.kind(),
            StorageError::TooLarge { .. }
            | StorageError::FactTooLarge { .. }
            | StorageError::Corrupt { .. }
            | StorageError::Locked(_)
            | StorageError::Stopped(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
