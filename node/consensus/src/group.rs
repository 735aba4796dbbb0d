//! One group on this node, as the parts that use it see it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, EmptyNode};
use proto::ids::{GroupId, NodeId};
use proto::limits::{BATCH_BYTES_MAX, VALUE_BYTES_MAX};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::apply::Machine;
use crate::batcher::Job;
use crate::clock::SlewedClock;
use crate::engine::EngineError;
use crate::machine::StateMachine;
use crate::replica::Replica;

/// Why a group can not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("group {group} is open already")]
    Twice { group: GroupId },
    #[error("group {group}: {source}")]
    Storage { group: GroupId, source: EngineError },
    #[error("group {group}: the settings make no sense: {reason}")]
    Settings { group: GroupId, reason: String },
    #[error("group {group} does not start: {reason}")]
    Raft { group: GroupId, reason: String },
}

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It was not executed.
    #[error("this node does not lead the group")]
    NotLeader { leader: Option<NodeId> },
    /// It was not executed.
    #[error("no majority of the group's replicas can be reached")]
    NoQuorum,
    /// It may be executed, now or later.
    #[error("no answer in time: it may or may not have been executed")]
    Unknown,
    /// It was not executed.
    #[error("the operation is larger than a log entry may be")]
    TooLarge,
    /// It was not executed.
    #[error("too many operations are waiting")]
    Busy,
    /// It was not executed.
    #[error("the group has stopped")]
    Stopped,
}

/// Why a read has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this node does not lead the group")]
    NotLeader { leader: Option<NodeId> },
    #[error("no majority of the group's replicas can be reached")]
    NoQuorum,
    #[error("the group has stopped")]
    Stopped,
}

/// Why a group's membership did not change. It can be asked for again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReconfigureError {
    #[error("this node does not lead the group")]
    NotLeader,
    #[error("{node} has not caught up with the log yet")]
    Behind { node: NodeId },
    #[error("the change did not finish in time")]
    Timeout,
    #[error("refused: {0}")]
    Refused(String),
}

/// How a group is, seen from here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupView {
    /// `None` while none is heard.
    pub leader: Option<NodeId>,
    /// Whether that is this node.
    pub is_leader: bool,
    pub term: u64,
    /// Whose votes count: those of both configurations while a change of them is half done.
    pub voters: BTreeSet<NodeId>,
    /// Where a change of the voters that is half done leads to. It stays half done when its leader dies in
    /// the middle of it, and until somebody finishes it a majority of the old voters is needed as well.
    pub becoming: Option<BTreeSet<NodeId>>,
    pub learners: BTreeSet<NodeId>,
    /// Index of the last entry that was applied here.
    pub applied: u64,
    pub last_log: u64,
    /// On a leader, followers and learners that have all but a few entries.
    pub caught_up: BTreeSet<NodeId>,
}

/// How long a new replica may take to catch up before the change is put off.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);
/// How long a membership entry may take.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// Operations that wait for the batcher: a second's worth for 64 impatient clients.
pub(crate) const QUEUE_MAX: usize = 4_096;
/// Bytes of them: the same second's worth, 64 batches.
pub(crate) const QUEUE_BYTES_MAX: usize = 64 * BATCH_BYTES_MAX;
/// An operation alone may be larger than a batch: a value of the largest size, and its envelope.
const OP_BYTES_MAX: usize = VALUE_BYTES_MAX + (64 << 10);

/// A handle to one group. Clones share it.
pub struct Group<S> {
    pub(crate) replica: Arc<Replica>,
    pub(crate) machine: Machine<S>,
    pub(crate) writes: mpsc::Sender<Job>,
    pub(crate) queue_bytes: Arc<Semaphore>,
    pub(crate) reads: mpsc::Sender<oneshot::Sender<Result<(), ReadError>>>,
    pub(crate) clock: Arc<SlewedClock>,
}

impl<S> Clone for Group<S> {
    fn clone(&self) -> Self {
        Self {
            replica: Arc::clone(&self.replica),
            machine: self.machine.clone(),
            writes: self.writes.clone(),
            queue_bytes: Arc::clone(&self.queue_bytes),
            reads: self.reads.clone(),
            clock: Arc::clone(&self.clock),
        }
    }
}

impl<S: StateMachine> Group<S> {
    pub fn id(&self) -> GroupId {
        self.replica.id
    }

    /// Whether nobody has formed or joined the group on this disk.
    pub fn is_pristine(&self) -> bool {
        self.replica.log.is_pristine()
    }

    /// Forms the group with these voters. On a group that exists it does nothing.
    ///
    /// # Errors
    /// When this node is not among them, or the group has stopped.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), ReconfigureError> {
        let members: BTreeSet<u64> = voters.into_iter().map(|id| id.0).collect();
        match self.replica.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(ReconfigureError::Refused(error.to_string())),
        }
    }

    /// Replicates an operation and answers what the state machine said, after a majority has it on
    /// disk and this node has applied it.
    ///
    /// # Errors
    /// [`WriteError::Unknown`] is the only one after which it may have been executed.
    pub async fn write(&self, op: Bytes) -> Result<Bytes, WriteError> {
        if op.len() > OP_BYTES_MAX {
            return Err(WriteError::TooLarge);
        }
        let bytes = u32::try_from(op.len()).map_err(|_| WriteError::TooLarge)?;
        let room = Arc::clone(&self.queue_bytes).acquire_many_owned(bytes);
        let room = tokio::time::timeout(self.replica.settings.write_timeout, room)
            .await
            .map_err(|_| WriteError::Busy)?
            .map_err(|_| WriteError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        self.writes.send(Job { op, reply, room }).await.map_err(|_| WriteError::Stopped)?;
        // Dropped while it was on its way: what was appended may still be committed, here or elsewhere.
        answer.await.unwrap_or(Err(WriteError::Unknown))
    }

    /// Looks at the state as it is at some moment between the call and its return: it holds every
    /// write that was acknowledged before the call, wherever that was.
    ///
    /// # Errors
    /// When this node does not lead, or can not prove that it does.
    pub async fn read<R>(&self, look: impl FnOnce(&S) -> R) -> Result<R, ReadError> {
        let (reply, answer) = oneshot::channel();
        self.reads.send(reply).await.map_err(|_| ReadError::Stopped)?;
        answer.await.unwrap_or(Err(ReadError::Stopped))?;
        Ok(self.local(look))
    }

    /// Looks at what this replica has applied, which may be behind.
    pub fn local<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&self.machine.read().machine)
    }

    pub fn watch(&self) -> watch::Receiver<GroupView> {
        self.replica.view.subscribe()
    }

    /// The group's time: Unix milliseconds that never go back on this node, but once: before the group's first
    /// entry, when there is nothing that could expire, it is what is on the wall, and the first entry may
    /// be of another wall. To stay at the highest reading would mean to stand still for as long as the
    /// walls differ.
    pub fn now_ms(&self) -> u64 {
        self.replica.clock.now_ms(self.clock.now_ms())
    }

    /// Brings the membership to these voters and learners: new replicas are added as learners, caught
    /// up with, then the voters change in one joint step. Safe to repeat after any error; a change
    /// that was left half done is finished by it.
    ///
    /// # Errors
    /// See [`ReconfigureError`].
    pub async fn reconfigure(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) -> Result<(), ReconfigureError> {
        let Ok(_changing) = self.replica.changing.try_lock() else {
            return Err(ReconfigureError::Refused("another change is under way".to_owned()));
        };
        let now = self.replica.view.borrow().clone();
        self.leads_and_belongs()?;
        let known: BTreeSet<NodeId> = now.voters.union(&now.learners).copied().collect();
        let wanted: BTreeSet<NodeId> = voters.union(&learners).copied().collect();
        for new in wanted.difference(&known) {
            self.change(self.replica.raft.add_learner(new.0, EmptyNode {}, false)).await?;
        }
        if now.voters != voters || now.becoming.is_some() {
            self.caught_up(voters.difference(&now.voters).copied().collect()).await?;
            let ids: BTreeSet<u64> = voters.iter().map(|id| id.0).collect();
            let change = ChangeMembers::ReplaceAllVoters(ids);
            // A voter that stays as a learner is kept in the same step.
            let retain = now.voters.difference(&voters).any(|id| learners.contains(id));
            self.change(self.replica.raft.change_membership(change, retain)).await?;
        }
        let surplus: BTreeSet<u64> = known.iter().filter(|id| !wanted.contains(id)).map(|id| id.0).collect();
        let left = self.replica.view.borrow().learners.iter().any(|id| surplus.contains(&id.0));
        // One that has removed itself leaves the rest to its successor: openraft, which lets it lead on for
        // a moment, takes changes from members only.
        self.leads_and_belongs()?;
        if left || (!surplus.is_empty() && now.voters == voters) {
            self.change(self.replica.raft.change_membership(ChangeMembers::RemoveNodes(surplus), false))
                .await?;
        }
        Ok(())
    }

    /// As a learner it belongs, too: one that gave up its vote leads on until somebody else is elected, and
    /// as long as it is heard nobody is.
    fn leads_and_belongs(&self) -> Result<(), ReconfigureError> {
        let view = self.replica.view.borrow();
        let me = &self.replica.me;
        let both = view.is_leader && (view.voters.contains(me) || view.learners.contains(me));
        if both { Ok(()) } else { Err(ReconfigureError::NotLeader) }
    }

    async fn change<T>(
        &self,
        change: impl Future<Output = Result<T, RaftError<u64, ClientWriteError<u64, EmptyNode>>>>,
    ) -> Result<(), ReconfigureError> {
        let changed =
            tokio::time::timeout(CHANGE_MAX, change).await.map_err(|_| ReconfigureError::Timeout)?;
        self.replica.refresh();
        match changed {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ReconfigureError::NotLeader)
            }
            Err(error) => Err(ReconfigureError::Refused(error.to_string())),
        }
    }

    async fn caught_up(&self, nodes: BTreeSet<NodeId>) -> Result<(), ReconfigureError> {
        let mut view = self.watch();
        let all = view.wait_for(|view| !view.is_leader || nodes.is_subset(&view.caught_up));
        match tokio::time::timeout(CATCH_UP_MAX, all).await {
            Ok(Ok(view)) if view.is_leader => return Ok(()),
            Ok(_) => return Err(ReconfigureError::NotLeader),
            Err(_) => {}
        }
        let view = self.replica.view.borrow();
        let behind = nodes.difference(&view.caught_up).next().copied();
        behind.map_or(Ok(()), |node| Err(ReconfigureError::Behind { node }))
    }
}
