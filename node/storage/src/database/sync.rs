//! The sync that makes sled durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use crate::StorageError;

/// A second handle to sled's file.
pub(super) struct Sync {
    file: File,
}

impl Sync {
    pub(super) fn of_sled(folder: &Path) -> Result<Self, StorageError> {
        let path = folder.join("db");
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        Ok(Self { file: opened.map_err(StorageError::file("open", &path))? })
    }

    /// Returns when everything that was written to the file, by whatever handle, is on disk
    /// (fdatasync(2)).
    pub(super) fn data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
