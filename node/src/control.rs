//! The control plane of this node: the replicated log, and the controller while this node leads it.
//!
//! ```text
//!   API, deploy, join ──propose──> Control ──local, or PeerService.Propose──> leader's Group ──> log
//!                                                                                        │
//!   everybody <──watch(Arc<ControlState>)── ControlLog::apply <──────── every replica ───┘
//!
//!   while this node leads:  controller ──plan()──> orders to the log, acts to the agents, voters
//! ```
//!
//! Nothing that serves users waits for this: the parts read the newest state that has been applied
//! here, and go on with it when there is no quorum.

mod access;
mod addresses;
mod controller;
mod electorate;
mod hints;
mod inventory;
mod join;
mod log;
mod propose;
mod reports;
mod secrets;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_consensus::{Group, GroupView, Groups};
use node_core::control::ControlState;
use node_storage::Database;
use proto::ids::{GroupId, NodeId};
use tokio::sync::watch;

use crate::fence::EpochFence;
use crate::identity::{Identity, IdentityError};
use crate::members::Members;
use crate::mesh::Mesh;
use crate::tasks::Tasks;

pub use propose::ProposeError;

use log::ControlLog;
use propose::Patience;

/// What the control plane is made from.
pub struct ControlParts {
    pub identity: Arc<Identity>,
    pub groups: Groups,
    pub database: Arc<Database>,
    /// Folder of snapshot files.
    pub snapshots: PathBuf,
    pub mesh: Mesh,
    pub members: Members,
    pub fence: EpochFence,
    pub tasks: Tasks,
}

/// Why the control plane can not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("can not open the control log: {0}")]
    Open(#[from] node_consensus::OpenError),
    #[error("can not begin the control log: {0}")]
    Initialize(#[from] node_consensus::ReconfigureError),
    #[error(transparent)]
    Genesis(#[from] IdentityError),
}

/// Why this node does not know the newest state.
#[derive(Debug, thiserror::Error)]
pub enum CatchUpError {
    #[error("this node has not told the membership where it is")]
    NotIntroduced,
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error("applied {applied} of {wanted} entries of the control log in time")]
    Behind { applied: u64, wanted: u64 },
}

/// A handle to the control plane. Clones share it.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Arc<Identity>,
    group: Group<ControlLog>,
    state: watch::Receiver<Arc<ControlState>>,
    mesh: Mesh,
    members: Members,
    /// Held while a command is written here: see [`propose`].
    turn: tokio::sync::Mutex<()>,
    joins: join::Joins,
    started: Instant,
}

impl Control {
    /// Opens the control log, and begins it on the cluster's first node.
    ///
    /// # Errors
    /// When the log can not be opened.
    pub async fn start(parts: ControlParts) -> Result<Self, ControlError> {
        let ControlParts { identity, groups, database, snapshots, mesh, members, fence, tasks } = parts;
        let (log, state) = ControlLog::new();
        let group = log::open(&groups, database, snapshots, log).await?;
        // A first node that was killed before its first entry comes by here again.
        if identity.genesis()?.is_some() && group.is_pristine() {
            group.initialize([identity.node].into()).await?;
        }
        let control = Self {
            inner: Arc::new(Inner {
                identity,
                group,
                state,
                mesh,
                members,
                turn: Default::default(),
                joins: Default::default(),
                started: Instant::now(),
            }),
        };
        tasks.essential("storage faults", hints::end_on_fault(groups.fault(), tasks.clone()));
        tasks.essential("controller", controller::run(control.clone(), tasks.stop()));
        tasks.essential("voter's secrets", secrets::run(control.clone(), tasks.stop()));
        tasks.essential("members' addresses", addresses::run(control.clone(), tasks.stop()));
        tasks.essential("control reports", reports::run(control.clone(), fence, tasks.stop()));
        tasks.essential("election hints", hints::run(control.clone(), groups, tasks.stop()));
        Ok(control)
    }

    /// The newest state that has been applied here.
    pub fn state(&self) -> Arc<ControlState> {
        self.inner.state.borrow().clone()
    }

    /// Follows the state, change by change; a slow reader sees the newest only.
    pub fn watch(&self) -> watch::Receiver<Arc<ControlState>> {
        self.inner.state.clone()
    }

    /// The control group as this node sees it.
    pub fn group_view(&self) -> watch::Receiver<GroupView> {
        self.inner.group.watch()
    }

    /// Waits until this node has applied everything that was committed when it asked.
    ///
    /// It writes this node's addresses and roles to the log, which is what the log should hold of a
    /// node that starts, and waits for that entry to arrive.
    ///
    /// # Errors
    /// There is no quorum, or the log did not get here by the deadline.
    pub async fn catch_up(&self, deadline: Duration) -> Result<(), CatchUpError> {
        let until = tokio::time::Instant::now() + deadline;
        let introduction = reports::introduction(self).ok_or(CatchUpError::NotIntroduced)?;
        // Right after a start nobody has been heard of, which says nothing of who lives.
        let patience = Patience { until, without_majority: until };
        let wanted = propose::write_anywhere(self, &introduction, patience).await?.index;
        let mut view = self.group_view();
        let arrived = view.wait_for(|view| view.applied >= wanted);
        match tokio::time::timeout_at(until, arrived).await {
            Ok(_) => Ok(()),
            Err(_) => Err(CatchUpError::Behind { applied: self.applied(), wanted }),
        }
    }

    /// Has the log tell of this node what is so, for as long as it is polled: the one who starts first in a
    /// farm that was down as a whole finds nobody to write it down.
    pub async fn stay_introduced(&self) -> Infallible {
        let mut state = self.watch();
        loop {
            let log = state.borrow_and_update().clone();
            let untold = reports::introduction(self).filter(|command| !reports::is_told(&log, command));
            if let Some(command) = untold {
                if let Err(error) = self.propose(&command).await {
                    tracing::info!(%error, "the log does not say yet what this node is for and where it is");
                }
                tokio::time::sleep(INTRODUCE_AGAIN).await;
            } else if state.changed().await.is_err() {
                // The agent is stopping.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Index of the last entry that this node has applied.
    pub fn applied(&self) -> u64 {
        self.inner.group.watch().borrow().applied
    }

    fn me(&self) -> NodeId {
        self.inner.identity.node
    }

    fn leads(&self) -> bool {
        self.inner.group.watch().borrow().is_leader
    }
}

/// After an introduction, taken or not.
const INTRODUCE_AGAIN: Duration = Duration::from_secs(5);
/// The control log is group 0.
const GROUP: GroupId = GroupId::CONTROL;

#[cfg(test)]
mod tests;
