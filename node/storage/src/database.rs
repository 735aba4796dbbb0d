//! sled, made durable: one thread commits for everybody.
//!
//! ```text
//!   commit(batch, done) ──queue──▶ commit thread: take all that has queued
//!                                    apply_batch ─▶ flush ─▶ sync_data on a second handle ─▶ done, done, ...
//! ```
//!
//! While one sync runs the next commits gather, so that one sync serves many groups; that is all the
//! batching there is. `flush` writes sled's buffers into the file (and calls `sync_file_range`, which
//! does not reach the disk's cache); `sync_data` on any handle of the same file does.
//!
//! Ranges are deleted a bounded number of keys a commit, because purging a whole log at once held up
//! commits for seconds.
//!
//! After the first error nothing is acknowledged any more.

mod history;
mod panics;
mod sync;
mod unfinished;

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use node_consensus::{Batch, Engine, EngineError, Write};

use crate::{StorageError, files};

use history::{History, Mark};
use sync::Sync;

/// Commits that wait. Every raft group has one append under way, so this is never full on a healthy
/// disk; on a slow one, whoever commits waits.
const QUEUE_MAX: usize = 1_024;
/// Commits that share a sync at most.
const SHARED_MAX: usize = 512;
/// Keys that one commit deletes of a range.
const RANGE_STEP_KEYS: usize = 256;
/// sled keeps values up to a quarter of a segment in its log; larger ones become files of their own,
/// which it never syncs.
pub(crate) const VALUE_BYTES_MAX: usize = 4_000;

/// How long somebody who holds the database is waited for.
const LOCKED_MAX: Duration = Duration::from_secs(1);
const LOCKED_STEP: Duration = Duration::from_millis(10);

/// How a database is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of pages that stay in memory.
    pub cache_bytes: u64,
}

/// What the commit thread has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    pub commits: u64,
    pub syncs: u64,
}

type Done = Box<dyn FnOnce(Result<(), EngineError>) + Send>;

struct Job {
    batch: Batch,
    done: Done,
}

/// An ordered, durable key-value store.
pub struct Database {
    db: sled::Db,
    queue: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    commits: AtomicU64,
    syncs: AtomicU64,
    fault: OnceLock<String>,
}

impl Database {
    /// Opens the database in a folder, or makes one.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] when sled finds its file damaged, be it with an error or a panic, or
    /// when it has forgotten commits; [`StorageError::Locked`] while it is open.
    pub fn open(folder: &Path, options: Options) -> Result<Arc<Self>, StorageError> {
        files::create_dir_durably(folder)?;
        unfinished::remove(folder)?;
        sync::everything(folder)?;
        let config = sled::Config::new()
            .path(folder)
            .cache_capacity(options.cache_bytes)
            // Nothing flushes behind the commit thread's back.
            .flush_every_ms(None);
        let opened = panics::caught(|| open_when_free(&config));
        let corrupt = |reason: String| StorageError::Corrupt { path: folder.to_owned(), reason };
        let db = match opened {
            Ok(Ok(db)) => db,
            Ok(Err(sled::Error::Io(source))) if is_locked(&source) => {
                return Err(StorageError::Locked(folder.to_owned()));
            }
            Ok(Err(sled::Error::Io(source))) => return Err(StorageError::file("open", folder)(source)),
            Ok(Err(error)) => return Err(corrupt(error.to_string())),
            Err(panic) => return Err(corrupt(panic)),
        };
        // What sled has just made or repaired is there after a power cut as well.
        db.flush().map_err(|error| corrupt(error.to_string()))?;
        sync::everything(folder)?;
        let sync = Sync::of_sled(folder)?;
        let history = History::go_on(&db, &sync, folder)?;
        Ok(Self::start(db, sync, history, folder))
    }

    fn start(db: sled::Db, sync: Sync, history: History, folder: &Path) -> Arc<Self> {
        let shared = Arc::new(Shared::default());
        let (queue, jobs) = sync_channel(QUEUE_MAX);
        let committer = Committer {
            db: db.clone(),
            sync,
            history,
            shared: Arc::clone(&shared),
            ranges: VecDeque::new(),
            marks_put_off: false,
        };
        let thread = std::thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || committer.run(&jobs))
            .unwrap_or_else(|error| panic!("no thread for the database {}: {error}", folder.display()));
        Arc::new(Self { db, queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)), shared })
    }

    pub fn stats(&self) -> Stats {
        Stats {
            commits: self.shared.commits.load(Ordering::Relaxed),
            syncs: self.shared.syncs.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The thread ends when the queue is gone and empty.
        drop(self.queue.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take()
            && std::thread::current().id() != thread.thread().id()
            && thread.join().is_err()
        {
            tracing::error!("the commit thread had panicked");
        }
        if self.shared.fault.get().is_some() {
            // sled would sync once more at its end, which may succeed after what failed, and panic where it
            // does not. The process is about to end, and the kernel takes back what it holds.
            std::mem::forget(self.db.clone());
        }
    }
}

impl Engine for Database {
    fn commit(&self, batch: Batch, done: Done) {
        for write in &batch.writes {
            if let Write::Put { value, .. } = write {
                assert!(
                    value.len() <= VALUE_BYTES_MAX,
                    "a value of {} bytes would not be synced",
                    value.len()
                );
            }
        }
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = match queue {
            Some(queue) => queue.send(Job { batch, done }).err().map(|error| error.0),
            None => Some(Job { batch, done }),
        };
        if let Some(job) = refused {
            (job.done)(Err(EngineError("the database has stopped".to_owned())));
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let found = self.db.get(key).map_err(|error| EngineError(error.to_string()))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn range(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        for item in self.db.range(from..to) {
            let (key, value) = item.map_err(|error| EngineError(error.to_string()))?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The commit thread's own.
struct Committer {
    db: sled::Db,
    sync: Sync,
    history: History,
    shared: Arc<Shared>,
    /// Ranges that are still to be deleted, the oldest first.
    ranges: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// The newest mark could not be made, which has been logged.
    marks_put_off: bool,
}

impl Committer {
    fn run(mut self, jobs: &Receiver<Job>) {
        while let Some(first) = self.next(jobs) {
            let batch: Vec<Job> = first.into_iter().chain(jobs.try_iter().take(SHARED_MAX)).collect();
            let result = self.commit(&batch);
            self.shared.commits.fetch_add(batch.len() as u64, Ordering::Relaxed);
            if let Err(error) = &result {
                self.fail(error);
            }
            for job in batch {
                (job.done)(result.clone());
            }
            // Nobody waits for the mark.
            if self.history.due().is_some_and(|due| due.is_zero()) {
                self.mark();
            }
        }
        self.mark();
        self.end();
    }

    /// sled syncs at its end, and panics where that fails. So it is seen here whether it would.
    fn end(&self) {
        if self.shared.fault.get().is_some() {
            return;
        }
        if let Err(error) = self.sync() {
            self.fail(&error);
        }
    }

    /// What was applied is on the disk when this returns.
    fn sync(&self) -> Result<(), EngineError> {
        self.db.flush().map_err(|error| EngineError(error.to_string()))?;
        self.sync.data().map_err(|error| EngineError(format!("fsync: {error}")))
    }

    fn mark(&mut self) {
        if self.shared.fault.get().is_some() || self.history.due().is_none() {
            return;
        }
        match self.history.mark() {
            Ok(Mark::Made) => self.marks_put_off = false,
            Ok(Mark::PutOff(error)) => {
                if !self.marks_put_off {
                    tracing::warn!(%error, "how far the database has come is written down later");
                }
                self.marks_put_off = true;
            }
            Err(error) => self.fail(&EngineError(error.to_string())),
        }
    }

    fn fail(&self, error: &EngineError) {
        if self.shared.fault.set(error.0.clone()).is_ok() {
            tracing::error!(%error, "the disk failed; nothing is acknowledged any more");
        }
    }

    /// What is to be committed next; nothing but a part of a range, or a mark, when nobody asks.
    /// `None` when nobody can ask any more.
    fn next(&self, jobs: &Receiver<Job>) -> Option<Option<Job>> {
        let patience = match (self.shared.fault.get(), self.ranges.is_empty()) {
            (Some(_), _) => None,
            (None, true) => self.history.due(),
            (None, false) => Some(Duration::ZERO),
        };
        match patience {
            None => jobs.recv().ok().map(Some),
            Some(patience) => match jobs.recv_timeout(patience) {
                Ok(job) => Some(Some(job)),
                Err(RecvTimeoutError::Timeout) => Some(None),
                Err(RecvTimeoutError::Disconnected) => None,
            },
        }
    }

    fn commit(&mut self, jobs: &[Job]) -> Result<(), EngineError> {
        if let Some(fault) = self.shared.fault.get() {
            self.ranges.clear();
            return Err(EngineError(fault.clone()));
        }
        let failed = |error: sled::Error| EngineError(error.to_string());
        let changes = !jobs.is_empty() || !self.ranges.is_empty();
        let mut batch = sled::Batch::default();
        self.delete_some(&mut batch).map_err(failed)?;
        for write in jobs.iter().flat_map(|job| &job.batch.writes) {
            match write {
                Write::Put { key, value } => batch.insert(key.as_slice(), value.as_slice()),
                Write::Delete { key } => batch.remove(key.as_slice()),
                Write::DeleteRange { from, to } => self.ranges.push_back((from.clone(), to.clone())),
            }
        }
        if changes {
            self.history.count(&mut batch);
            self.db.apply_batch(batch).map_err(failed)?;
            self.sync()?;
            self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One step through the oldest range.
    fn delete_some(&mut self, batch: &mut sled::Batch) -> sled::Result<()> {
        let Some((from, to)) = self.ranges.front() else { return Ok(()) };
        let mut keys = 0;
        for key in self.db.range(from.clone()..to.clone()).keys().take(RANGE_STEP_KEYS) {
            batch.remove(key?);
            keys += 1;
        }
        if keys < RANGE_STEP_KEYS {
            self.ranges.pop_front();
        }
        Ok(())
    }
}

/// sled's own threads let go of its file a moment after the database was dropped.
fn open_when_free(config: &sled::Config) -> sled::Result<sled::Db> {
    let begun = Instant::now();
    loop {
        match config.open() {
            Err(sled::Error::Io(source)) if is_locked(&source) && begun.elapsed() < LOCKED_MAX => {
                std::thread::sleep(LOCKED_STEP);
            }
            opened => return opened,
        }
    }
}

/// sled has no error of its own for this.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().contains("could not acquire lock")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn put(database: &Database, key: &[u8]) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        batch.put(key.to_vec(), vec![1]);
        let (tell, told) = mpsc::channel();
        database.commit(batch, Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    }

    #[test]
    fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("db");
        let db = sled::Config::new().path(&folder).flush_every_ms(None).open().unwrap();
        let history = History::go_on(&db, &Sync::of_sled(&folder).unwrap(), &folder).unwrap();
        // A device that can not be synced (EINVAL).
        let sync = Sync::of(Path::new("/dev/null")).unwrap();
        let database = Database::start(db, sync, history, &folder);
        let refused = put(&database, b"one").unwrap_err();
        assert!(refused.0.starts_with("fsync"), "{refused}");
        assert_eq!(put(&database, b"two"), Err(refused), "the first error is the last word");
        assert_eq!(database.get(b"two"), Ok(None));
        assert_eq!(database.stats().syncs, 0);
        // Nor is anything synced at its end: sled, which would do so, still has it.
        drop(database);
        let again = Database::open(&folder, Options { cache_bytes: 1 << 20 });
        assert!(matches!(again, Err(StorageError::Locked(_))));
    }
}
