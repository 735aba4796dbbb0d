//! All groups of a node: opens them, and ends them when the agent ends or their disk fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use openraft::error::Fatal;
use proto::ids::{GroupId, NodeId};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ambient::{Ambient, System};
use crate::apply::Machine;
use crate::batcher::Batcher;
use crate::clock::SlewedClock;
use crate::elections::{self, QUESTIONS_MAX, Question};
use crate::engine::{Engine, Snapshots};
use crate::fault::{Fault, Guard};
use crate::group::{Group, OpenError, QUEUE_BYTES_MAX, QUEUE_MAX};
use crate::heartbeats::Heartbeats;
use crate::inbound;
use crate::log::Log;
use crate::machine::StateMachine;
use crate::network::Network;
use crate::reads;
use crate::replica::{Replica, Resumed};
use crate::settings::Settings;
use crate::timekeeping;
use crate::transport::Transport;
use crate::types::{Metrics, Raft};

/// Why a peer's message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// It may be opened here in a moment.
    #[error("group {0} is not open here")]
    UnknownGroup(GroupId),
    #[error("the message makes no sense: {0}")]
    Malformed(String),
    #[error("node {node} takes no part in group {group}")]
    Outsider { node: NodeId, group: GroupId },
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

/// What the groups' tasks share with the handles.
pub(crate) struct Shared {
    pub me: NodeId,
    pub transport: Arc<dyn Transport>,
    pub questions: mpsc::Sender<Question>,
    pub fault: Fault,
    pub ambient: Arc<dyn Ambient>,
    heartbeats: Arc<Heartbeats>,
    replicas: RwLock<BTreeMap<GroupId, Arc<Replica>>>,
    suspects: RwLock<BTreeSet<NodeId>>,
    pub clock: Arc<SlewedClock>,
}

impl Groups {
    /// Starts the election driver. Groups end when `stop` is cancelled.
    pub fn new(
        me: NodeId,
        transport: Arc<dyn Transport>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self::within(Arc::new(System), me, transport, tracker, stop)
    }

    /// As [`Groups::new`], in another world than this one.
    pub fn within(
        ambient: Arc<dyn Ambient>,
        me: NodeId,
        transport: Arc<dyn Transport>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let heartbeats = Heartbeats::new(Arc::clone(&transport), tracker.clone(), stop.clone());
        let shared = Arc::new(Shared {
            me,
            transport,
            questions,
            fault: Fault::none(),
            heartbeats: Arc::new(heartbeats),
            replicas: RwLock::default(),
            suspects: RwLock::default(),
            clock: Arc::new(SlewedClock::new(Arc::clone(&ambient))),
            ambient,
        });
        tracker.spawn(elections::run(Arc::clone(&shared), asked, tracker.clone(), stop.clone()));
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
        if self.shared.replica(id).is_some() {
            return Err(OpenError::Twice { group: id });
        }
        let storage = |source| OpenError::Storage { group: id, source };
        let config = settings
            .openraft()
            .map_err(|error| OpenError::Settings { group: id, reason: error.to_string() })?;
        let machine = Machine::open(id, snapshots, self.shared.fault.clone(), machine).map_err(storage)?;
        let log = Log::open(id, engine, machine.saved()).map_err(storage)?;
        log.check_against(machine.read().last).map_err(storage)?;
        log.forget_leadership_without_entry(self.shared.me);
        if !log.is_pristine() {
            machine.clock().recovered();
        }
        let resumed = Resumed::of(self.shared.me, &log);
        let me = self.shared.me;
        let network = Network {
            me,
            group: id,
            transport: Arc::clone(&self.shared.transport),
            heartbeats: Arc::clone(&self.shared.heartbeats),
        };
        let raft = Raft::new(me.0, Arc::new(config), network, log.clone(), machine.clone())
            .await
            .map_err(|error| OpenError::Raft { group: id, reason: error.to_string() })?;
        let replica = Arc::new(Replica::new(id, me, raft, log, settings, machine.clock(), resumed));
        replica.refresh();
        let (writes, jobs) = mpsc::channel(QUEUE_MAX);
        let (reads, waiters) = mpsc::channel(QUEUE_MAX);
        let group = Group {
            replica: Arc::clone(&replica),
            machine,
            writes,
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            reads,
            clock: Arc::clone(&self.shared.clock),
        };
        let batcher = Batcher {
            replica: Arc::clone(&replica),
            clock: Arc::clone(&group.clock),
            ambient: Arc::clone(&self.shared.ambient),
        };
        let guard = self.shared.fault.guard("a group's batcher");
        self.spawn(guard, batcher.run(jobs, self.stop.clone()));
        let guard = self.shared.fault.guard("a group's reader");
        self.spawn(guard, reads::run(Arc::clone(&replica), waiters, self.stop.clone()));
        let guard = self.shared.fault.guard("a group's follower");
        self.spawn(
            guard,
            follow(
                Arc::clone(&replica),
                group.machine.snapshot_bytes(),
                self.shared.fault.clone(),
                self.stop.clone(),
            ),
        );
        let guard = self.shared.fault.guard("a group's timekeeper");
        self.spawn(guard, self.keep_time(Arc::clone(&replica)));
        self.shared.replicas.write().unwrap_or_else(PoisonError::into_inner).insert(id, replica);
        Ok(group)
    }

    fn keep_time(&self, replica: Arc<Replica>) -> impl Future<Output = ()> + Send + use<> {
        let stop = self.stop.clone();
        let (clock, transport) = (Arc::clone(&self.shared.clock), Arc::clone(&self.shared.transport));
        async move {
            let settling = timekeeping::settle(replica, clock, transport);
            let _stopped = stop.run_until_cancelled(settling).await;
        }
    }

    fn spawn(&self, guard: Guard, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// Answers what `from` (proved by its certificate) sent to a group.
    ///
    /// # Errors
    /// When the group is not here, or the payload is no message of it.
    pub async fn handle(&self, from: NodeId, group: GroupId, payload: Bytes) -> Result<Bytes, HandleError> {
        let sender = inbound::Sender { node: from, outside: None };
        inbound::handle(&self.shared, sender, group, &payload).await
    }

    /// [`Groups::handle`] for one whose certificate does not let it vote in or lead the group `outside`,
    /// whatever it says: raft itself obeys any member that names a greater term.
    ///
    /// # Errors
    /// Also when the message is for that group and does more than ask for its time.
    pub async fn handle_outsider(
        &self,
        from: NodeId,
        outside: GroupId,
        group: GroupId,
        payload: Bytes,
    ) -> Result<Bytes, HandleError> {
        let sender = inbound::Sender { node: from, outside: Some(outside) };
        inbound::handle(&self.shared, sender, group, &payload).await
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
    pub fn replica(&self, group: GroupId) -> Option<Arc<Replica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.replicas.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn leader_suspect(&self, replica: &Replica) -> bool {
        let leader = replica.raft.metrics().borrow().current_leader;
        let suspects = self.suspects.read().unwrap_or_else(PoisonError::into_inner);
        leader.is_some_and(|leader| suspects.contains(&NodeId(leader)))
    }
}

/// Keeps the view fresh, asks for snapshots, and ends raft's own tasks with the agent.
async fn follow(
    replica: Arc<Replica>,
    snapshot_bytes: Arc<AtomicU64>,
    fault: Fault,
    stop: CancellationToken,
) {
    let mut metrics = replica.raft.metrics();
    let mut snapshot = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            changed = metrics.changed() => if changed.is_err() {
                fault.tell(format!("raft has panicked in group {}", replica.id));
                break;
            },
        }
        if let Some(reason) = fault_of(&metrics.borrow_and_update()) {
            fault.tell(format!("group {}: {reason}", replica.id));
            break;
        }
        replica.refresh();
        let newest = metrics.borrow().snapshot.map(|id| id.index);
        if newest != snapshot {
            snapshot = newest;
            replica.log.forget_growth();
        }
        let enough = replica.settings.snapshot_bytes.max(snapshot_bytes.load(Ordering::Relaxed));
        if replica.log.has_grown_by(enough) {
            replica.log.forget_growth();
            // It only queues; that the group has stopped is told by its metrics.
            let _stopped = replica.raft.trigger().snapshot().await;
        }
    }
    replica.log.flush_committed();
    replica.log.end();
    if let Err(error) = replica.raft.shutdown().await {
        tracing::warn!(group = %replica.id, %error, "raft did not stop in order");
    }
}

fn fault_of(metrics: &Metrics) -> Option<String> {
    match &metrics.running_state {
        Ok(()) | Err(Fatal::Stopped) => None,
        Err(fatal @ (Fatal::StorageError(_) | Fatal::Panicked)) => Some(fatal.to_string()),
    }
}
