//! One group's log on the injected engine.
//!
//! ```text
//!   key = group u16 │ kind u8 │ index u64 │ chunk u16        (big-endian, so that order is order)
//!   kinds: 1 vote, 2 committed, 3 purged, 4 entry
//!   an entry = u32 length, then its postcard, cut into chunks of 3,500 bytes: sled writes larger
//!   values to files that it never syncs
//! ```
//!
//! The newest entries stay in memory, bounded by bytes: followers are sent what was just written.
//! Everything is handed to the engine under one lock, in the order in which openraft asks.

mod cache;
mod keys;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader, StorageError};
use proto::ids::{GroupId, NodeId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::engine::{Batch, Engine, EngineError};
use crate::saved::Saved;
use crate::types::{Entry, LogId, Types, Vote, storage_error};
use cache::Cache;
use keys::Keys;

/// What replication reads at a time: well below a message of the mesh (4 MiB).
const READ_BYTES_MAX: usize = 1 << 20;

/// The log of one group. Clones share it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    group: GroupId,
    keys: Keys,
    engine: Arc<dyn Engine>,
    saved: Saved,
    state: Mutex<State>,
}

struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Whether `committed` is newer than what the disk has.
    committed_dirty: bool,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Bytes appended since somebody last said [`Log::forget_growth`].
    grown_bytes: u64,
    cache: Cache,
}

impl Log {
    /// Reads what the engine has of the group. What is purged later waits until it is `saved`.
    ///
    /// # Errors
    /// When the disk can not be read, or what it holds is no log.
    pub fn open(group: GroupId, engine: Arc<dyn Engine>, saved: Saved) -> Result<Self, EngineError> {
        let keys = Keys::of(group);
        let purged: Option<LogId> = load(&*engine, &keys.purged())?;
        let mut state = State {
            vote: load(&*engine, &keys.vote())?,
            committed: load(&*engine, &keys.committed())?,
            committed_dirty: false,
            last: purged,
            purged,
            grown_bytes: 0,
            cache: Cache::default(),
        };
        let first = purged.map_or(0, |id| id.index + 1);
        // A purge that was cut off left entries behind; finishing it is harmless.
        if first > 0 {
            let mut batch = Batch::default();
            batch.delete_range(keys.entry(0), keys.entry(first));
            engine.commit(batch, Box::new(|_| ()));
        }
        if let Some(last) = check_entries(&*engine, &keys, first)? {
            state.last = Some(last.log_id);
        }
        let inner = Inner { group, keys, engine, saved, state: Mutex::new(state) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether the group has neither voted nor logged: nobody has formed it here.
    pub fn is_pristine(&self) -> bool {
        let state = self.state();
        state.vote.is_none() && state.last.is_none()
    }

    /// Whether the log and the snapshot that was found beside it can be of one replica's life.
    ///
    /// # Errors
    /// When something is missing between them, or was there and is gone.
    pub fn check_against(&self, snapshot: Option<LogId>) -> Result<(), EngineError> {
        let state = self.state();
        let damaged = |reason: &str| Err(EngineError(format!("the log is damaged: {reason}")));
        if state.purged > snapshot {
            return damaged("it begins after the snapshot ends");
        }
        if state.committed > state.last.max(snapshot) {
            return damaged("it ends before what it knows to be committed");
        }
        // A group is formed by an entry, and then a vote.
        let has_history = snapshot.is_some() || state.last.is_some_and(|last| last.index > 0);
        if state.vote.is_none() && has_history {
            return damaged("it has entries and no vote");
        }
        Ok(())
    }

    /// A leader that ended before it had any entry in its term does not lead on. raft would start it as the
    /// leader that it was, without the entry that a term begins with, so that what is before it would
    /// never be committed; as one that has only voted it looks for a leader as everybody.
    pub fn forget_leadership_without_entry(&self, me: NodeId) {
        let mut state = self.state();
        let last_term = state.last.map_or(0, |last| last.leader_id.term);
        if let Some(vote) = &mut state.vote
            && vote.leader_id.node_id == me.0
            && last_term < vote.leader_id.term
        {
            vote.committed = false;
        }
    }

    /// Whom this replica votes for or follows.
    pub fn vote(&self) -> Option<Vote> {
        self.state().vote
    }

    pub fn last_log_id(&self) -> Option<LogId> {
        self.state().last
    }

    pub fn has_grown_by(&self, bytes: u64) -> bool {
        self.state().grown_bytes >= bytes
    }

    pub fn forget_growth(&self) {
        self.state().grown_bytes = 0;
    }

    /// The group ends. A purge that still waits for its snapshot would keep raft from it.
    pub fn end(&self) {
        self.inner.saved.end("the group ends");
    }

    /// Writes the commit index that openraft has told, if the disk has an older one. It is a hint
    /// that lets a restarted node apply what it knows to be committed without asking anybody; being
    /// a little old does no harm, so it is not worth a sync of its own with every entry.
    pub fn flush_committed(&self) {
        let mut state = self.state();
        if !state.committed_dirty {
            return;
        }
        let mut batch = Batch::default();
        self.take_committed(&mut state, &mut batch);
        self.inner.engine.commit(batch, Box::new(|_| ()));
    }

    fn take_committed(&self, state: &mut State, batch: &mut Batch) {
        if std::mem::take(&mut state.committed_dirty) {
            batch.put(self.inner.keys.committed(), encode(&state.committed));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held can only have been in `encode`, before anything was changed.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, error: &EngineError) -> StorageError<u64> {
        storage_error(self.inner.group, error)
    }

    /// Commits and waits until it is durable. The lock is only held while it is queued.
    async fn durably(
        &self,
        change: impl FnOnce(&mut State, &mut Batch) + Send,
    ) -> Result<(), StorageError<u64>> {
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.state();
            let mut batch = Batch::default();
            change(&mut state, &mut batch);
            let done = Box::new(move |result| drop(tell.send(result)));
            self.inner.engine.commit(batch, done);
        }
        told.await
            .unwrap_or_else(|_| Err(EngineError("the storage has stopped".to_owned())))
            .map_err(|error| self.error(&error))
    }

    fn read(&self, from: u64, to: u64, limit: usize) -> Result<Vec<Entry>, StorageError<u64>> {
        if from >= to {
            return Ok(Vec::new());
        }
        if let Some(found) = self.state().cache.read(from, to, limit) {
            return Ok(found);
        }
        entries(&*self.inner.engine, &self.inner.keys, from, to, limit).map_err(|error| self.error(&error))
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        let (from, to) = bounds(&range, self.last_log_id());
        self.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        self.read(start, end, READ_BYTES_MAX)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError<u64>> {
        let key = self.inner.keys.vote();
        self.durably(|state, batch| {
            state.vote = Some(*vote);
            #[cfg(holdfast_mutants)]
            if mutation::is("vote-forgotten") {
                return;
            }
            batch.put(key, encode(&state.vote));
        })
        .await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError<u64>> {
        Ok(self.state().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError<u64>> {
        let mut state = self.state();
        state.committed_dirty |= state.committed != committed;
        state.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError<u64>> {
        Ok(self.state().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.state();
        let mut batch = Batch::default();
        for entry in entries {
            let encoded = encode(&entry);
            for (chunk, value) in keys::chunks(&encoded) {
                batch.put(self.inner.keys.chunk(entry.log_id.index, chunk), value);
            }
            state.last = Some(entry.log_id);
            state.grown_bytes += encoded.len() as u64;
            state.cache.push(entry, encoded.len());
        }
        self.take_committed(&mut state, &mut batch);
        let done = move |result: Result<(), EngineError>| {
            callback.log_io_completed(result.map_err(|error| io::Error::other(error.0)));
        };
        // Still under the lock: the engine keeps the order of the calls.
        self.inner.engine.commit(batch, Box::new(done));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError<u64>> {
        let last = self.last_log_id().map_or(0, |last| last.index);
        let before = match log_id.index.checked_sub(1) {
            None => None,
            Some(index) => self.read(index, log_id.index, usize::MAX)?.first().map(|entry| entry.log_id),
        };
        let doomed = chunk_keys(&*self.inner.engine, &self.inner.keys, log_id.index, last + 1)
            .map_err(|error| self.error(&error))?;
        self.durably(|state, batch| {
            // From the back, so that a commit that is cut leaves no hole.
            for key in doomed.into_iter().rev() {
                batch.delete(key);
            }
            state.cache.truncate(log_id.index);
            state.last = before.or(state.purged);
        })
        .await
    }

    /// Waits for the snapshot that replaces what is purged. raft's core waits with it, and does not hear its
    /// leader meanwhile; going on would mean to append after a gap, which no restart could tell from
    /// damage. Whoever saves needs nothing of the core.
    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError<u64>> {
        self.inner.saved.reached(log_id).await.map_err(|error| self.error(&error))?;
        let keys = self.inner.keys;
        self.durably(|state, batch| {
            let first = state.purged.map_or(0, |id| id.index + 1);
            state.purged = Some(log_id);
            if state.last.is_none_or(|last| last.index < log_id.index) {
                state.last = Some(log_id);
            }
            state.cache.purge(log_id.index);
            batch.put(keys.purged(), encode(&state.purged));
            batch.delete_range(keys.entry(first), keys.entry(log_id.index + 1));
        })
        .await
    }
}

fn bounds(range: &impl RangeBounds<u64>, last: Option<LogId>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => last.map_or(0, |last| last.index + 1),
    };
    (from, to)
}

/// The entries that the engine has, in order and without a hole, up to a limit of bytes but at least
/// one.
fn entries(
    engine: &dyn Engine,
    keys: &Keys,
    from: u64,
    to: u64,
    limit: usize,
) -> Result<Vec<Entry>, EngineError> {
    let mut found = Vec::new();
    let mut assembly = keys::Assembly::default();
    let mut bytes = 0;
    let mut damage = None;
    engine.range(&keys.entry(from), &keys.entry(to), &mut |key, value| match assembly.push(key, value) {
        Ok(None) => ControlFlow::Continue(()),
        Ok(Some(encoded)) => match decode::<Entry>(&encoded) {
            Ok(entry) => {
                bytes += encoded.len();
                found.push(entry);
                if bytes >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            Err(error) => {
                damage = Some(error);
                ControlFlow::Break(())
            }
        },
        Err(reason) => {
            damage = Some(EngineError(format!("the log is damaged: {reason}")));
            ControlFlow::Break(())
        }
    })?;
    damage.map_or(Ok(found), Err)
}

/// The newest entry, after a look at all of them. sled answers the damage of its file by leaving out
/// what was there, so that a hole is all one sees of it; a log that ended at the hole would make this
/// replica forget what it has acknowledged.
fn check_entries(engine: &dyn Engine, keys: &Keys, first: u64) -> Result<Option<Entry>, EngineError> {
    let mut assembly = keys::Assembly::default();
    let mut newest = None;
    let mut expected = first;
    let mut damage = None;
    engine.range(&keys.entry(first), &keys.entry(u64::MAX), &mut |key, value| {
        let pushed = match keys::index_of(key) {
            Some(index) if index == expected => assembly.push(key, value),
            Some(index) => Err(format!("entry {expected} is missing, and there is {index}")),
            None => Err("a key that is none".to_owned()),
        };
        match pushed {
            Ok(None) => {}
            Ok(Some(encoded)) => {
                newest = Some(encoded);
                expected += 1;
            }
            Err(reason) => {
                damage = Some(reason);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    if damage.is_none() && assembly.is_unfinished() {
        damage = Some(format!("entry {expected} is incomplete"));
    }
    match damage {
        Some(reason) => Err(EngineError(format!("the log is damaged: {reason}"))),
        None => newest.map(|encoded| decode(&encoded)).transpose(),
    }
}

fn chunk_keys(engine: &dyn Engine, keys: &Keys, from: u64, to: u64) -> Result<Vec<Vec<u8>>, EngineError> {
    let mut found = Vec::new();
    engine.range(&keys.entry(from), &keys.entry(to), &mut |key, _| {
        found.push(key.to_vec());
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn load<T: DeserializeOwned>(engine: &dyn Engine, key: &[u8]) -> Result<Option<T>, EngineError> {
    match engine.get(key)? {
        None => Ok(None),
        // Stored as an Option, which a vote that was never given makes None.
        Some(bytes) => decode(&bytes),
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EngineError> {
    postcard::from_bytes(bytes).map_err(|error| EngineError(format!("the log is damaged: {error}")))
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data of a known length always serialises")
}

#[cfg(test)]
mod tests;
