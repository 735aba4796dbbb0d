//! The syncs that make sled durable.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use crate::{StorageError, files};

/// A second handle to sled's file.
pub(super) struct Sync {
    file: File,
}

impl Sync {
    pub(super) fn of_sled(folder: &Path) -> Result<Self, StorageError> {
        Self::of(&folder.join("db"))
    }

    pub(super) fn of(path: &Path) -> Result<Self, StorageError> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        Ok(Self { file: opened.map_err(StorageError::file("open", path))? })
    }

    /// Returns when everything that was written to the file, by whatever handle, is on disk
    /// (fdatasync(2)).
    pub(super) fn data(&self) -> io::Result<()> {
        #[cfg(holdfast_mutants)]
        if mutation::is("sync-removed") {
            return Ok(());
        }
        self.file.sync_data()
    }
}

/// Syncs every file of the folder and the folder itself. sled writes its configuration without a
/// sync; and it makes a durable snapshot of its page table when it is opened, which must not know
/// more than is on disk of what a killed process had written.
pub(super) fn everything(folder: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(folder).map_err(StorageError::file("read", folder))? {
        let entry = entry.map_err(StorageError::file("read", folder))?;
        let path = entry.path();
        if entry.file_type().map_err(StorageError::file("look at", &path))?.is_file() {
            File::open(&path).and_then(|file| file.sync_all()).map_err(StorageError::file("sync", &path))?;
        }
    }
    files::sync_dir(folder)
}
