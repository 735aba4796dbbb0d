//! All groups of a node: opens them, routes what peers send, and runs their elections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use openraft::error::Fatal;
use proto::ids::{GroupId, NodeId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::apply::Machine;
use crate::batcher;
use crate::clock::SlewedClock;
use crate::elections;
use crate::engine::{Engine, Snapshots};
use crate::group::{Core, Group, OpenError, QUEUE_MAX};
use crate::log::Log;
use crate::machine::StateMachine;
use crate::network::Network;
use crate::reads;
use crate::settings::Settings;
use crate::transport::Transport;
use crate::types::{Metrics, Raft};
use crate::wire::{self, Request};

/// Why a peer's message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// It may be opened here in a moment.
    #[error("group {0} is not open here")]
    UnknownGroup(GroupId),
    #[error("the message makes no sense: {0}")]
    Malformed(String),
    #[error("the group has stopped")]
    Stopped,
}

/// The groups of one node. Clones share them.
#[derive(Clone)]
pub struct Groups {
    shared: Arc<Shared>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// What the election task shares with the handles.
pub(crate) struct Shared {
    pub me: NodeId,
    pub transport: Arc<dyn Transport>,
    cores: RwLock<BTreeMap<GroupId, Arc<Core>>>,
    suspects: RwLock<BTreeSet<NodeId>>,
    clock: Arc<SlewedClock>,
    fault: watch::Sender<Option<String>>,
}

impl Groups {
    /// Starts the election driver. Groups end when `stop` is cancelled.
    pub fn new(
        me: NodeId,
        transport: Arc<dyn Transport>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            me,
            transport,
            cores: RwLock::default(),
            suspects: RwLock::default(),
            clock: Arc::new(SlewedClock::new()),
            fault: watch::Sender::new(None),
        });
        tracker.spawn(elections::run(Arc::clone(&shared), tracker.clone(), stop.clone()));
        Self { shared, tracker, stop }
    }

    pub fn me(&self) -> NodeId {
        self.shared.me
    }

    /// Opens a group with what this disk has of it.
    ///
    /// # Errors
    /// See [`OpenError`]. A damaged log or snapshot is not gone around: this replica would forget
    /// what it acknowledged.
    pub async fn open<S: StateMachine>(
        &self,
        id: GroupId,
        engine: Arc<dyn Engine>,
        snapshots: Arc<dyn Snapshots>,
        settings: Settings,
        machine: S,
    ) -> Result<Group<S>, OpenError> {
        if self.shared.core(id).is_some() {
            return Err(OpenError::Twice { group: id });
        }
        let storage = |source| OpenError::Storage { group: id, source };
        let config = settings
            .openraft()
            .map_err(|error| OpenError::Settings { group: id, reason: error.to_string() })?;
        let log = Log::open(id, engine).map_err(storage)?;
        let machine = Machine::open(id, snapshots, machine).map_err(storage)?;
        let me = self.shared.me;
        let network = Network { me, group: id, transport: Arc::clone(&self.shared.transport) };
        let raft = Raft::new(me.0, Arc::new(config), network, log.clone(), machine.clone())
            .await
            .map_err(|error| OpenError::Raft { group: id, reason: error.to_string() })?;
        let core = Arc::new(Core::new(id, me, raft, log, settings));
        core.refresh();
        let (writes, jobs) = mpsc::channel(QUEUE_MAX);
        let (reads, waiters) = mpsc::channel(QUEUE_MAX);
        let clock = Arc::clone(&self.shared.clock);
        let stop = &self.stop;
        self.tracker.spawn(batcher::run(
            Arc::clone(&core),
            machine.clone(),
            Arc::clone(&clock),
            jobs,
            stop.clone(),
        ));
        self.tracker.spawn(reads::run(Arc::clone(&core), waiters, stop.clone()));
        self.tracker.spawn(follow(Arc::clone(&core), Arc::clone(&self.shared), stop.clone()));
        self.shared.cores.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&core));
        Ok(Group { core, machine, writes, reads, clock })
    }

    /// Answers what `from` (proved by its certificate) sent to a group.
    ///
    /// # Errors
    /// When the group is not here, or the payload is no message of it.
    pub async fn handle(&self, from: NodeId, group: GroupId, payload: Bytes) -> Result<Bytes, HandleError> {
        let core = self.shared.core(group).ok_or(HandleError::UnknownGroup(group))?;
        let request: Request =
            wire::decode(&payload).map_err(|error| HandleError::Malformed(error.to_string()))?;
        let claimed = claimed_sender(&request);
        if claimed.is_some_and(|claimed| claimed != from) {
            return Err(HandleError::Malformed(format!("node {from} speaks in another's name")));
        }
        let encoded = match request {
            Request::Append(rpc) => {
                let answer = core.raft.append_entries(rpc).await;
                if !matches!(answer, Ok(openraft::raft::AppendEntriesResponse::HigherVote(_)) | Err(_)) {
                    core.leader_heard();
                }
                wire::encode(&answer)
            }
            Request::Vote(rpc) => wire::encode(&core.raft.vote(rpc).await),
            Request::Snapshot(rpc) => {
                let answer = core.raft.install_snapshot(rpc).await;
                if answer.is_ok() {
                    core.leader_heard();
                }
                wire::encode(&answer)
            }
            Request::PreVote(request) => {
                let suspect = self.shared.leader_suspect(&core);
                wire::encode(&elections::answer(&core, &request, suspect))
            }
        };
        encoded.map_err(|error| HandleError::Malformed(error.to_string()))
    }

    /// The membership's word on which nodes are suspected or gone. Leaders among them are replaced
    /// sooner; nothing else follows from it.
    pub fn set_suspects(&self, suspects: BTreeSet<NodeId>) {
        *self.shared.suspects.write().unwrap_or_else(PoisonError::into_inner) = suspects;
    }

    /// Set once a group has stopped because its storage failed. The agent must end then: a replica
    /// that can not write must not go on as if it could.
    pub fn fault(&self) -> watch::Receiver<Option<String>> {
        self.shared.fault.subscribe()
    }
}

impl Shared {
    pub fn core(&self, group: GroupId) -> Option<Arc<Core>> {
        self.cores.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    pub fn cores(&self) -> Vec<Arc<Core>> {
        self.cores.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn leader_suspect(&self, core: &Core) -> bool {
        let leader = core.raft.metrics().borrow().current_leader;
        let suspects = self.suspects.read().unwrap_or_else(PoisonError::into_inner);
        leader.is_some_and(|leader| suspects.contains(&NodeId(leader)))
    }
}

/// Only the sender itself may vote or lead by its message: a member must not move another group's
/// leader aside by writing in its name.
fn claimed_sender(request: &Request) -> Option<NodeId> {
    match request {
        Request::Append(rpc) => rpc.vote.leader_id().voted_for().map(NodeId),
        Request::Vote(rpc) => rpc.vote.leader_id().voted_for().map(NodeId),
        Request::Snapshot(rpc) => rpc.vote.leader_id().voted_for().map(NodeId),
        Request::PreVote(_) => None,
    }
}

/// Keeps the view fresh, and ends raft's own tasks with the agent.
async fn follow(core: Arc<Core>, shared: Arc<Shared>, stop: CancellationToken) {
    let mut metrics = core.raft.metrics();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            changed = metrics.changed() => if changed.is_err() { break },
        }
        if let Some(reason) = fault_of(&metrics.borrow_and_update()) {
            tracing::error!(group = %core.id, reason, "the group has stopped");
            shared.fault.send_replace(Some(format!("group {}: {reason}", core.id)));
            break;
        }
        core.refresh();
    }
    core.log.flush_committed();
    if let Err(error) = core.raft.shutdown().await {
        tracing::warn!(group = %core.id, %error, "raft did not stop in order");
    }
}

fn fault_of(metrics: &Metrics) -> Option<String> {
    match &metrics.running_state {
        Ok(()) | Err(Fatal::Stopped) => None,
        Err(fatal @ (Fatal::StorageError(_) | Fatal::Panicked)) => Some(fatal.to_string()),
    }
}
