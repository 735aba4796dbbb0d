//! One group's state machine and its snapshots.
//!
//! The state lives in memory. A restart is the newest snapshot and the log after it, so the log is
//! purged only up to a snapshot that is durable: openraft purges after `build_snapshot` returns, and
//! that returns after [`Snapshots::save`] has. It does not wait like that for a snapshot that it
//! installs; there the log does (see [`crate::saved`]).

use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EmptyNode, EntryPayload, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageError};
use proto::ids::GroupId;
use serde::{Deserialize, Serialize};

use crate::clock::GroupClock;
use crate::engine::{EngineError, SnapshotError, Snapshots};
use crate::fault::Fault;
use crate::machine::{EntryMeta, StateMachine};
use crate::saved::Saved;
use crate::types::{Entry, LogId, Proposal, Replies, StoredMembership, Types, storage_error};

/// Between two attempts at what a snapshot takes, such as a free file descriptor.
const NOT_NOW_PAUSE: Duration = Duration::from_millis(500);

/// A group's applied state.
pub struct Applied<S> {
    pub machine: S,
    pub last: Option<LogId>,
    pub membership: StoredMembership,
    pub clock: Arc<GroupClock>,
}

/// Shares the applied state between openraft, which writes, and readers.
pub struct Machine<S> {
    group: GroupId,
    applied: Arc<RwLock<Applied<S>>>,
    snapshots: Arc<dyn Snapshots>,
    /// What the newest snapshot on disk has. Held while one is written.
    newest: Arc<Mutex<Option<LogId>>>,
    /// The same, for those who wait for it.
    saved: Saved,
    /// How large the newest snapshot is.
    snapshot_bytes: Arc<AtomicU64>,
    fault: Fault,
}

impl<S> Clone for Machine<S> {
    fn clone(&self) -> Self {
        Self {
            group: self.group,
            applied: Arc::clone(&self.applied),
            snapshots: Arc::clone(&self.snapshots),
            newest: Arc::clone(&self.newest),
            saved: self.saved.clone(),
            snapshot_bytes: Arc::clone(&self.snapshot_bytes),
            fault: self.fault.clone(),
        }
    }
}

/// What a snapshot file holds.
#[derive(Serialize, Deserialize)]
struct Stored {
    last: Option<LogId>,
    membership: StoredMembership,
    clock_ms: u64,
    #[serde(with = "serde_bytes")]
    state: Vec<u8>,
}

impl<S: StateMachine> Machine<S> {
    /// With the state of the newest snapshot, if there is one.
    ///
    /// # Errors
    /// When the snapshot can not be read. Going on without it would forget what the log no longer
    /// has.
    pub fn open(
        group: GroupId,
        snapshots: Arc<dyn Snapshots>,
        fault: Fault,
        machine: S,
    ) -> Result<Self, EngineError> {
        let mut applied =
            Applied { machine, last: None, membership: StoredMembership::default(), clock: Arc::default() };
        let snapshot_bytes = AtomicU64::new(0);
        if let Some(bytes) = snapshots.load(group)? {
            restore(&mut applied, &bytes)?;
            snapshot_bytes.store(bytes.len() as u64, Ordering::Relaxed);
        }
        let (newest, saved) = (Arc::new(Mutex::new(applied.last)), Saved::new(applied.last));
        let (applied, snapshot_bytes) = (Arc::new(RwLock::new(applied)), Arc::new(snapshot_bytes));
        Ok(Self { group, applied, snapshots, newest, saved, snapshot_bytes, fault })
    }

    pub fn clock(&self) -> Arc<GroupClock> {
        Arc::clone(&self.read().clock)
    }

    pub fn saved(&self) -> Saved {
        self.saved.clone()
    }

    pub fn snapshot_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.snapshot_bytes)
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Applied<S>> {
        // A panic in `apply` stops the group; what readers see until then is one whole operation or
        // a part of it, and the group acknowledges nothing any more.
        self.applied.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Applied<S>> {
        self.applied.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, error: &EngineError) -> StorageError<u64> {
        storage_error(self.group, error)
    }

    /// Does what takes its time where that disturbs nobody.
    ///
    /// What can not be done at the moment is tried again for as long as that lasts: any error would
    /// end the group, and the agent with it, while waiting costs no more than a longer log. The tasks
    /// that wait here are raft's own and end with the runtime.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl Fn(&Self) -> Result<T, SnapshotError> + Send + Sync + 'static,
    ) -> Result<T, StorageError<u64>> {
        let work = Arc::new(work);
        let mut told = false;
        loop {
            let (me, attempt) = (self.clone(), Arc::clone(&work));
            let attempted = if self.snapshots.is_prompt() {
                Ok(attempt(&me))
            } else {
                tokio::task::spawn_blocking(move || attempt(&me)).await
            };
            let error = match attempted {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(SnapshotError::NotNow(reason))) => {
                    if !told {
                        tracing::warn!(group = %self.group, reason, "a snapshot has to wait");
                        told = true;
                    }
                    tokio::time::sleep(NOT_NOW_PAUSE).await;
                    continue;
                }
                Ok(Err(SnapshotError::Fault(error))) => error,
                Err(panic) => EngineError(format!("a snapshot failed: {panic}")),
            };
            // raft's task for the machine ends with this, and whatever is queued for it. Its core, which would
            // tell, may wait for the very snapshot that was next.
            self.saved.end(&error.0);
            return Err(self.error(&error));
        }
    }

    /// Puts a snapshot in place of the one before, unless that is newer: raft may receive one while it
    /// makes one of its own, and forgets the log before the newer of the two.
    fn save(&self, bytes: &[u8], last: Option<LogId>) -> Result<(), SnapshotError> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if *newest > last {
            return Ok(());
        }
        self.snapshots.save(self.group, bytes)?;
        *newest = last;
        self.saved.tell(last);
        self.snapshot_bytes.store(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl<S: StateMachine> RaftSnapshotBuilder<Types> for Machine<S> {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        self.blocking(|me| {
            let (bytes, meta) = {
                let applied = me.read();
                (encode(&applied), meta(applied.last, &applied.membership))
            };
            me.save(&bytes, meta.last_log_id)?;
            Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
        })
        .await
    }
}

impl<S: StateMachine> RaftStateMachine<Types> for Machine<S> {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError<u64>> {
        let applied = self.read();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Replies>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // Declared before the lock is taken, so that the lock is free again when the fault is told.
        let _guard = self.fault.guard("a state machine");
        let mut applied = self.write();
        Ok(entries.into_iter().map(|entry| apply_one(&mut applied, entry)).collect())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta<u64, EmptyNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let installing = self.saved.installing();
        self.blocking(move |me| {
            // Looked at before it replaces the one on disk. raft does not wait for it to be durable: it
            // answers the leader after this, but purges the log at once, and there the log waits.
            let bytes = snapshot.get_ref();
            let last = {
                let mut applied = me.write();
                restore(&mut applied, bytes)?;
                applied.last
            };
            me.save(bytes, last)
        })
        .await?;
        installing.done();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        self.blocking(|me| {
            let Some(bytes) = me.snapshots.load(me.group)? else { return Ok(None) };
            let stored = decode(&bytes)?;
            let meta = meta(stored.last, &stored.membership);
            Ok(Some(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
        })
        .await
    }
}

fn apply_one<S: StateMachine>(applied: &mut Applied<S>, entry: Entry) -> Replies {
    let index = entry.log_id.index;
    applied.last = Some(entry.log_id);
    match entry.payload {
        EntryPayload::Blank => Replies::default(),
        EntryPayload::Membership(membership) => {
            applied.membership = StoredMembership::new(Some(entry.log_id), membership);
            Replies::default()
        }
        EntryPayload::Normal(Proposal { clock_ms, seed, ops }) => {
            // A new leader's clock may be behind its predecessor's: time does not go back.
            applied.clock.heard(clock_ms);
            let meta = EntryMeta { index, clock_ms: applied.clock.last_ms(), seed };
            Replies(ops.iter().map(|op| applied.machine.apply(&meta, op)).collect())
        }
    }
}

fn meta(last: Option<LogId>, membership: &StoredMembership) -> SnapshotMeta<u64, EmptyNode> {
    // The same state is the same snapshot, wherever it was made.
    let snapshot_id =
        last.map_or_else(|| "empty".to_owned(), |last| format!("{}-{}", last.leader_id, last.index));
    SnapshotMeta { last_log_id: last, last_membership: membership.clone(), snapshot_id }
}

fn encode<S: StateMachine>(applied: &Applied<S>) -> Vec<u8> {
    let stored = Stored {
        last: applied.last,
        membership: applied.membership.clone(),
        clock_ms: applied.clock.last_ms(),
        state: applied.machine.snapshot(),
    };
    postcard::to_stdvec(&stored).expect("plain data of a known length always serialises")
}

fn decode(bytes: &[u8]) -> Result<Stored, EngineError> {
    postcard::from_bytes(bytes).map_err(|error| EngineError(format!("the snapshot is damaged: {error}")))
}

fn restore<S: StateMachine>(applied: &mut Applied<S>, bytes: &[u8]) -> Result<(), EngineError> {
    let stored = decode(bytes)?;
    applied.machine.restore(&stored.state).map_err(|error| EngineError(error.to_string()))?;
    applied.last = stored.last;
    applied.membership = stored.membership;
    applied.clock.heard(stored.clock_ms);
    Ok(())
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::machine::RestoreError;
    use crate::memory::MemorySnapshots;

    const GROUP: GroupId = GroupId(1);

    /// Remembers the last operation.
    struct Last(Vec<u8>);

    impl StateMachine for Last {
        fn apply(&mut self, _meta: &EntryMeta, op: &bytes::Bytes) -> bytes::Bytes {
            self.0 = op.to_vec();
            op.clone()
        }

        fn snapshot(&self) -> Vec<u8> {
            self.0.clone()
        }

        fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
            self.0 = snapshot.to_vec();
            Ok(())
        }
    }

    /// A disk on which the first save is overtaken by the second, if anybody begins one meanwhile.
    #[derive(Default)]
    struct Slow {
        files: MemorySnapshots,
        saves: Mutex<u32>,
        saved: std::sync::Condvar,
    }

    impl Snapshots for Slow {
        fn save(&self, group: GroupId, bytes: &[u8]) -> Result<(), SnapshotError> {
            let mut saves = self.saves.lock().unwrap();
            *saves += 1;
            if *saves == 1 {
                let overtaken = |saves: &mut u32| *saves < 3;
                let (guard, _) =
                    self.saved.wait_timeout_while(saves, Duration::from_millis(300), overtaken).unwrap();
                drop(guard);
                return self.files.save(group, bytes);
            }
            self.files.save(group, bytes)?;
            *saves += 1;
            self.saved.notify_all();
            Ok(())
        }

        fn load(&self, group: GroupId) -> Result<Option<Vec<u8>>, SnapshotError> {
            self.files.load(group)
        }
    }

    fn machine(snapshots: &Arc<impl Snapshots>) -> Machine<Last> {
        let snapshots = Arc::clone(snapshots) as Arc<dyn Snapshots>;
        Machine::open(GROUP, snapshots, Fault::none(), Last(Vec::new())).unwrap()
    }

    fn entry(index: u64) -> Entry {
        let payload = EntryPayload::Normal(Proposal {
            clock_ms: index,
            seed: 0,
            ops: vec![bytes::Bytes::from(index.to_string())],
        });
        Entry { log_id: LogId::new(CommittedLeaderId::new(1, 1), index), payload }
    }

    #[tokio::test]
    async fn who_waits_for_a_snapshot_hears_that_the_machine_has_failed_before_it() {
        let snapshots = Arc::new(MemorySnapshots::new());
        let mut machine = machine(&snapshots);
        snapshots.set_broken(true);
        let (saved, awaited) = (machine.saved(), entry(9).log_id);
        let (waited, failed) = tokio::join!(saved.reached(awaited), machine.get_current_snapshot());
        failed.unwrap_err();
        waited.unwrap_err();
    }

    /// raft builds a snapshot in a task of its own, and may install a newer one from the leader before
    /// that has been written.
    #[tokio::test]
    async fn a_snapshot_that_is_late_does_not_replace_a_newer_one() {
        let leaders = Arc::new(MemorySnapshots::new());
        let mut leader = machine(&leaders);
        leader.apply([entry(1), entry(2)]).await.unwrap();
        let newer = leader.build_snapshot().await.unwrap();

        let mine = Arc::new(Slow::default());
        let mut follower = machine(&mine);
        follower.apply([entry(1)]).await.unwrap();
        let mut builder = follower.get_snapshot_builder().await;
        let building = async { builder.build_snapshot().await };
        let installing = async {
            while *mine.saves.lock().unwrap() == 0 {
                tokio::task::yield_now().await;
            }
            follower.install_snapshot(&newer.meta, newer.snapshot).await.unwrap();
        };
        let (built, ()) = tokio::join!(building, installing);
        built.unwrap();
        let kept = follower.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(kept.meta.last_log_id.map(|id| id.index), Some(2));
        assert_eq!(machine(&mine).read().machine.0, b"2");
    }
}
