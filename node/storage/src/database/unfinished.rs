//! What sled has begun to write and not finished.
//!
//! When it is opened, sled writes a snapshot of its page table as `snap.<lsn>.generating`, syncs it and
//! takes the ending off. A kill, a full disk or a power cut in between leaves the file, which sled's
//! next opening takes for the newest snapshot: it calls the whole database corrupt, although all that
//! the snapshot sums up is still in the log and in the snapshot before.

use std::fs;
use std::path::Path;

use crate::{StorageError, files};

const BEGIN: &str = "snap.";
const END: &str = ".generating";

/// Removes such files, durably. Nobody else may be opening the database: it would be their work.
pub(super) fn remove(folder: &Path) -> Result<(), StorageError> {
    let mut removed = 0;
    for entry in fs::read_dir(folder).map_err(StorageError::file("read", folder))? {
        let entry = entry.map_err(StorageError::file("read", folder))?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(BEGIN) && name.ends_with(END)) {
            let path = entry.path();
            fs::remove_file(&path).map_err(StorageError::file("remove", &path))?;
            removed += 1;
        }
    }
    if removed > 0 {
        tracing::info!(folder = %folder.display(), removed, "removed snapshots that an opening had begun");
        files::sync_dir(folder)?;
    }
    Ok(())
}
