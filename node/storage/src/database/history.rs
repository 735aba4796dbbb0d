//! How often a database was opened, counted inside and beside it.
//!
//! sled answers the damage of its file by leaving out what was there, down to an empty database. A
//! node that took that for a new disk would vote again in terms in which it has voted. So each time
//! it is opened a number is written into the database, and then into a file beside its folder: a
//! database that has a lower number than the file has lost something, also when the whole folder was
//! removed. What it lost since it was opened last, the raft logs have to find out themselves.

use std::path::Path;

use crate::{StorageError, files};

/// Above every raft group's keys and the facts.
const KEY: &[u8] = b"\xff\xffopened";
/// What the file beside a database's folder ends with.
const EXTENSION: &str = "opened";

/// # Errors
/// [`StorageError::Corrupt`] when the database is older than the file beside it.
pub(super) fn go_on(db: &sled::Db, folder: &Path) -> Result<(), StorageError> {
    let corrupt = |reason: String| StorageError::Corrupt { path: folder.to_owned(), reason };
    let path = folder.with_extension(EXTENSION);
    let beside = if path.try_exists().map_err(StorageError::file("look at", &path))? {
        number(&files::read_bounded(&path, 8)?)
            .ok_or_else(|| corrupt(format!("{} holds no number", path.display())))?
    } else {
        0
    };
    let found = db.get(KEY).map_err(|error| corrupt(error.to_string()))?;
    let inside = found.and_then(|bytes| number(&bytes)).unwrap_or(0);
    if inside < beside {
        return Err(corrupt(format!(
            "it was opened {beside} times and remembers {inside}: what it held then is gone"
        )));
    }
    let next = (inside + 1).to_be_bytes();
    db.insert(KEY, &next).and_then(|_| db.flush()).map_err(|error| corrupt(error.to_string()))?;
    super::Sync::of_sled(folder)?.data().map_err(StorageError::file("sync", folder))?;
    files::write_atomically(&path, &next, 0o600)
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
