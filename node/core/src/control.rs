//! What must not fork: the state of the control log, and the decisions made from it.
//!
//! The control log is a raft group whose entries are [`Command`]s. Every node applies them in the same
//! order to a [`ControlState`], so every node knows which releases there are, which of them each app
//! should run, who was admitted and who holds which session group. The node that leads the log acts:
//! it feeds the state and an [`Inventory`] of what the nodes report to the [`plan`]ner and carries out
//! what comes back.
//!
//! ```text
//!   commands ──> log ──> ControlState::apply ──> ControlState ──┐
//!      ^                                                        ├──> plan() ──> Plan
//!      │                      node states ──> Inventory ────────┘                │
//!      └─────────────── orders, carrying the epoch <────────────────────────────┤
//!                       acts for the agents <────────────────────────────────────┤
//!                       voters of the control group <────────────────────────────┘
//! ```
//!
//! Authority is the epoch: the index of the `ControllerStarted` entry of the controller that reigns.
//! Whatever a controller decides is a [`Command::Order`] that carries it, and [`ControlState::apply`]
//! refuses it unless it is the current one. So a deposed controller that wakes up late can write to the
//! log (or try to), but can not change anything.
//!
//! Architecture Invariant: apply is a function of the entry alone (its index, the group's time, the
//! command). It reads no clock, draws no randomness and knows nothing of which nodes are alive.

mod apply;
mod command;
mod desired;
mod goals;
mod inventory;
mod outcome;
mod placement;
mod planner;
mod record;
mod rollout;
mod voters;

use std::collections::BTreeMap;

use proto::ids::{ClusterId, Epoch, GroupId, NodeId, ReleaseId};
use serde::{Deserialize, Serialize};

pub use command::{Command, NewNode, Order};
pub use desired::{Demand, demand, desired};
pub use goals::{Goal, Goals};
pub use inventory::{AppReport, AppStatus, Electorate, Inventory, NodeReport};
pub use outcome::{Applied, Outcome, Refusal};
pub use placement::{Holder, place};
pub use planner::{Act, Plan, Policy, plan};
pub use record::{
    AppRecord, Fingerprint, NodeRecord, ReleaseRecord, Role, RolloutOutcome, RolloutRecord, RolloutResult,
    Route, Secret, Stage, TokenRecord,
};
pub use voters::{Candidate, VoterPolicy, choose_voters, voters_wanted};

/// Releases of an app that stay: the stable one and the ones that a rollback can name.
pub const RELEASES_KEPT: usize = 3;

/// Apps of one farm. The state is held in memory and in every snapshot by every node.
pub const APPS_MAX: usize = 500;

/// Tokens that may exist at a time; one that has expired makes room.
pub const TOKENS_MAX: usize = 1_000;

/// Releases of one app that were brought in and have not been rolled out yet. The oldest makes room.
pub const RELEASES_WAITING_MAX: usize = 8;

/// Largest command, as its encoded bytes. The largest there is places every group anew: a hundred bytes
/// for each of 64 groups.
pub const COMMAND_BYTES_MAX: usize = 64 << 10;

/// The control log's state, the same on every node that has applied the same entries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlState {
    /// `None` until the genesis entry.
    pub cluster: Option<ClusterId>,
    /// How many session groups there are, fixed at genesis. They are numbered from 1.
    pub groups: u16,
    pub epoch: Epoch,
    /// The last index that became somebody's name: a node's id, an epoch, an attempt. One entry may hold
    /// several commands, and only the first of them may take its number.
    pub last_name: u64,
    /// The node whose `ControllerStarted` entry gave the epoch. It may have died since.
    pub controller: Option<NodeId>,
    /// Everybody who was ever admitted: an id is never used again.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// By the token's public id.
    pub tokens: BTreeMap<String, TokenRecord>,
    pub releases: BTreeMap<ReleaseId, ReleaseRecord>,
    pub apps: BTreeMap<String, AppRecord>,
    /// Who holds which session group. The first of a group forms it when it is new.
    pub placement: BTreeMap<GroupId, Vec<NodeId>>,
}

impl ControlState {
    /// The nodes that belong to the cluster now.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.nodes.iter().filter(|(_, record)| !record.removed).map(|(id, record)| (*id, record))
    }

    /// The record of a node that belongs to the cluster now.
    pub fn member(&self, node: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&node).filter(|record| !record.removed)
    }

    /// Who holds a name now.
    pub fn member_named(&self, name: &str) -> Option<(NodeId, &NodeRecord)> {
        self.members().find(|(_, record)| record.name == name)
    }

    /// How requests reach an app: as its stable release says or, before there is one, as the release says
    /// that is being rolled out.
    pub fn route(&self, app: &str) -> Option<&Route> {
        let record = self.apps.get(app)?;
        self.releases.get(&record.stable.or(record.target())?)?.route.as_ref()
    }

    /// An app's release by its version or by its id in hex, the newest first.
    pub fn find_release(&self, app: &str, version: &str) -> Option<ReleaseId> {
        let releases = self.releases.iter().filter(|(_, record)| record.app == app);
        releases
            .filter(|(id, record)| record.version == version || id.to_string() == version)
            .max_by_key(|(_, record)| record.registered_index)
            .map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests;
