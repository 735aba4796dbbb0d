//! One agent per data folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::StorageError;

/// Holds the folder until it is dropped or its process ends, however that happens.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// # Errors
    /// [`StorageError::Locked`] when another process holds it.
    pub fn acquire(folder: &Path) -> Result<Self, StorageError> {
        let path = folder.join("lock");
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(StorageError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StorageError::Locked(folder.to_owned())),
            Err(TryLockError::Error(source)) => Err(StorageError::file("lock", &path)(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirLock::acquire(dir.path()).unwrap();
        assert!(matches!(DirLock::acquire(dir.path()), Err(StorageError::Locked(_))));
        drop(held);
        DirLock::acquire(dir.path()).unwrap();
    }
}
