//! Whole files, durable and atomic.
//!
//! A file is written under another name in the same folder, synced, renamed, and the folder synced:
//! after a power cut it is the old one or the new one, whole. Folders are this user's alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::StorageError;

const FOLDER_MODE: u32 = 0o700;
/// What an unfinished file's name ends with; whoever opens a folder may remove such leftovers.
pub const UNFINISHED: &str = ".unfinished";

/// Replaces the file by these bytes. When it returns, they survive a power cut.
///
/// # Errors
/// When the disk refuses; the old file is then still there.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StorageError> {
    let mut file = DurableFile::create(path, mode)?;
    file.write_all(bytes).map_err(StorageError::file("write", path))?;
    file.finish()
}

/// Reads a file that may not be larger than `max` bytes.
///
/// # Errors
/// When it is larger, is not there, or can not be read.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, StorageError> {
    let file = File::open(path).map_err(StorageError::file("open", path))?;
    let mut bytes = Vec::new();
    // One byte more, to tell a file that is exactly as large as it may be from a larger one: its
    // length may change while it is read.
    let read = file.take(max.saturating_add(1)).read_to_end(&mut bytes);
    let length = read.map_err(StorageError::file("read", path))? as u64;
    if length > max {
        return Err(StorageError::TooLarge { path: path.to_owned(), bytes: length, max });
    }
    Ok(bytes)
}

/// Creates the folder and the missing ones above it, durably.
///
/// # Errors
/// When the disk refuses.
pub fn create_dir_durably(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = parent(path) {
        create_dir_durably(parent)?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StorageError::file("create the folder", path)(error));
        }
        Ok(()) | Err(_) => {}
    }
    sync_dir(parent(path).unwrap_or(Path::new(".")))
}

/// Makes what was created, renamed or removed in a folder survive a power cut.
///
/// # Errors
/// When the disk refuses.
pub fn sync_dir(path: &Path) -> Result<(), StorageError> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|folder| folder.sync_all()).map_err(StorageError::file("sync the folder", path))
}

/// Removes what unfinished writes have left in a folder. How many there were.
///
/// # Errors
/// When the folder can not be read, or a file not removed.
pub fn remove_unfinished(folder: &Path) -> Result<usize, StorageError> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(StorageError::file("read", folder))? {
        let path = entry.map_err(StorageError::file("read", folder))?.path();
        if path.to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(&path).map_err(StorageError::file("remove", &path))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// A file that comes into being when it is complete.
pub struct DurableFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl DurableFile {
    /// Begins to write what will be at `target`, with these permissions.
    ///
    /// # Errors
    /// When the folder is not there or can not be written.
    pub fn create(target: &Path, mode: u32) -> Result<Self, StorageError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = target.with_file_name(format!(".{name}.{}.{count}{UNFINISHED}", std::process::id()));
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
        let file = opened.map_err(StorageError::file("create", &temporary))?;
        Ok(Self { file, temporary, target: target.to_owned(), finished: false })
    }

    /// Puts the file in place. When it returns, it survives a power cut.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish(self) -> Result<(), StorageError> {
        let target = self.target.clone();
        self.finish_at(&target)
    }

    /// Puts the file in place under a name that was not known at its beginning, such as its hash. The
    /// place has to be on the same filesystem.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn finish_at(mut self, target: &Path) -> Result<(), StorageError> {
        self.file.sync_all().map_err(StorageError::file("sync", &self.temporary))?;
        fs::rename(&self.temporary, target).map_err(StorageError::file("put in place", target))?;
        self.finished = true;
        sync_dir(parent(target).unwrap_or(Path::new(".")))
    }
}

impl Write for DurableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for DurableFile {
    fn drop(&mut self) {
        if !self.finished {
            // What stays is found by `remove_unfinished`.
            let _left_behind = fs::remove_file(&self.temporary);
        }
    }
}

fn parent(path: &Path) -> Option<&Path> {
    path.parent().filter(|parent| !parent.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_atomically(&path, b"one", 0o600).unwrap();
        write_atomically(&path, b"two", 0o600).unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_larger_than_expected_is_not_read_into_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        fs::write(&path, vec![0; 100]).unwrap();
        assert!(matches!(read_bounded(&path, 99), Err(StorageError::TooLarge { .. })));
        assert_eq!(read_bounded(&path, 100).unwrap().len(), 100);
    }

    #[test]
    fn a_write_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = DurableFile::create(&dir.path().join("half"), 0o600).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_writer_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = DurableFile::create(&dir.path().join("half"), 0o600).unwrap();
        std::mem::forget(file);
        fs::write(dir.path().join("whole"), b"x").unwrap();
        assert_eq!(remove_unfinished(dir.path()).unwrap(), 1);
        assert!(dir.path().join("whole").exists());
    }
}
