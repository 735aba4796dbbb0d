//! How far a database had come, written beside it.
//!
//! sled answers the damage of its file by leaving out what was there: a part, the newest commits, or
//! everything. A node that took what is left for the whole would vote again in terms in which it has
//! voted, and forget what it has acknowledged. So every commit carries a number, and when it is
//! opened, about once a second and at the end the number of a commit that is on disk goes into a file
//! beside the database's folder. A database that remembers less than that file has lost something,
//! also when the whole folder was removed.
//!
//! What it lost of the last second before a power cut, and a part of it in the middle, the raft logs
//! find out themselves (a hole, or an end before what was committed).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::sync::Sync;
use crate::StorageError;
use crate::files::{self, DurableFile};

/// Above every raft group's keys and the facts.
const KEY: &[u8] = b"\xff\xffcommits";
/// What the file beside a database's folder ends with.
const EXTENSION: &str = "commits";
/// Two more syncs in this time are not felt.
const MARK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct History {
    path: PathBuf,
    commits: u64,
    marked: u64,
    /// When the newest mark was made or put off.
    marked_at: Instant,
}

/// What came of a mark.
#[derive(Debug)]
#[must_use]
pub(super) enum Mark {
    Made,
    /// No file could be opened for it, so that nothing was written either. It is due again later.
    PutOff(StorageError),
}

impl History {
    /// Counts the opening as a commit.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when the database remembers less than the file beside it.
    pub(super) fn go_on(db: &sled::Db, sync: &Sync, folder: &Path) -> Result<Self, StorageError> {
        let corrupt = |reason: String| StorageError::Corrupt { path: folder.to_owned(), reason };
        let path = folder.with_extension(EXTENSION);
        let marked = if path.try_exists().map_err(StorageError::file("look at", &path))? {
            let number = number(&files::read_bounded(&path, 8)?);
            number.ok_or_else(|| corrupt(format!("{} holds no number", path.display())))?
        } else {
            0
        };
        let found = db.get(KEY).map_err(|error| corrupt(error.to_string()))?;
        let commits = found.and_then(|bytes| number(&bytes)).unwrap_or(0);
        if commits < marked {
            return Err(corrupt(format!(
                "it remembers {commits} commits, and {} says that there were {marked}: what came later is gone",
                path.display()
            )));
        }
        let mut history = Self { path, commits, marked, marked_at: Instant::now() };
        let mut batch = sled::Batch::default();
        history.count(&mut batch);
        db.apply_batch(batch).and_then(|()| db.flush()).map_err(|error| corrupt(error.to_string()))?;
        sync.data().map_err(StorageError::file("sync", folder))?;
        match history.mark()? {
            Mark::Made => Ok(history),
            Mark::PutOff(error) => Err(error),
        }
    }

    /// Numbers the next commit.
    pub(super) fn count(&mut self, batch: &mut sled::Batch) {
        self.commits += 1;
        batch.insert(KEY, &self.commits.to_be_bytes());
    }

    /// How long until a mark is due, if one is missing.
    pub(super) fn due(&self) -> Option<Duration> {
        (self.marked < self.commits).then(|| MARK_EVERY.saturating_sub(self.marked_at.elapsed()))
    }

    /// Writes the newest number, which is on disk inside, beside the database.
    ///
    /// # Errors
    /// When bytes could not be written or synced. That a file could not be opened is no error: it says
    /// nothing of the disk, and nobody waits for a mark.
    pub(super) fn mark(&mut self) -> Result<Mark, StorageError> {
        self.marked_at = Instant::now();
        let mut file = match DurableFile::create(&self.path, 0o600) {
            Ok(file) => file,
            Err(error) => return Ok(Mark::PutOff(error)),
        };
        file.write_all(&self.commits.to_be_bytes()).map_err(StorageError::file("write", &self.path))?;
        match file.finish() {
            Ok(()) => {
                self.marked = self.commits;
                Ok(Mark::Made)
            }
            // The folder has to be opened to be synced.
            Err(error) if error.is_for_want_of_descriptors() => Ok(Mark::PutOff(error)),
            Err(error) => Err(error),
        }
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
