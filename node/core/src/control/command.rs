//! What the log's entries say.
//!
//! The split is by authority. A [`Command`] of its own is what any member may ask for; whatever the
//! controller decides is an [`Order`], which exists only inside [`Command::Order`], beside the epoch.
//! So there is no way to write a controller's decision without the number that it is judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proto::ids::{ClusterId, Epoch, GroupId, NodeId, ReleaseId};
use serde::{Deserialize, Serialize};

use super::record::{Fingerprint, ReleaseRecord, Secret, TokenRecord};

/// One entry of the control log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// The first entry: the cluster, its size in session groups, its first node (which is
    /// `NodeId(1)`) and the first token with its id.
    Genesis {
        cluster: ClusterId,
        groups: u16,
        first: NewNode,
        token: Option<(String, TokenRecord)>,
    },
    /// A node that leads the log begins to act. The entry's index becomes the epoch.
    ControllerStarted {
        node: NodeId,
    },
    /// A node shows a token. It gets the entry's index as its id.
    AdmitNode {
        token_hash: Fingerprint,
        node: NewNode,
        /// The holder of the name, when whoever proposes this knows it to be dead. Apply can not know
        /// who is alive, so it is told, and refuses when the holder is another one by now.
        replaces: Option<NodeId>,
    },
    /// A node tells its present addresses and roles.
    UpdateNode {
        node: NodeId,
        peer_addr: SocketAddr,
        gossip_addr: SocketAddr,
        roles: BTreeSet<String>,
    },
    CreateToken {
        id: String,
        token: TokenRecord,
    },
    RevokeToken {
        id: String,
    },
    /// A release is whole and durable on enough nodes, and can be rolled out.
    RegisterRelease {
        release: ReleaseId,
        record: ReleaseRecord,
    },
    /// Begin to roll a release out. `secret` becomes the password of the app's keyspace if it has none.
    SetTarget {
        app: String,
        release: ReleaseId,
        secret: Secret,
    },
    /// Go back to a release that was stable; without `to`, to the one before the stable one.
    Rollback {
        app: String,
        to: Option<ReleaseId>,
    },
    /// What the controller decided. Refused unless `epoch` is the current one.
    Order {
        epoch: Epoch,
        order: Order,
    },
}

/// A controller's decision.
///
/// The orders of a rollout name its `attempt`, so that one that was decided about an earlier rollout
/// of the same app does nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Every reachable node has the release: begin to run it.
    StartRolling { app: String, attempt: u64 },
    /// `node` is to run the rollout's release from now on.
    Assign { app: String, attempt: u64, node: NodeId },
    /// `node` is to run nothing of the app until the release comes: it serves a third one, and can not go
    /// back to the stable one.
    Evict { app: String, attempt: u64, node: NodeId },
    /// A gate failed: everybody back to the stable release.
    TurnBack { app: String, attempt: u64, reason: String },
    /// The rollout, or its way back, is over. `behind`: nodes that could not be reached, and why.
    Finish { app: String, attempt: u64, behind: BTreeMap<NodeId, String> },
    /// Who holds these session groups from now on. Groups that are not named stay.
    Place { groups: BTreeMap<GroupId, Vec<NodeId>> },
}

/// A node as it introduces itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewNode {
    pub name: String,
    pub zone: String,
    pub region: String,
    pub peer_addr: SocketAddr,
    pub gossip_addr: SocketAddr,
    #[serde(default)]
    pub roles: BTreeSet<String>,
    pub csr_hash: Fingerprint,
}

impl Command {
    /// The bytes that the log holds.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a command has only string and number keys, and no failing part")
    }

    /// # Errors
    /// The bytes are no command of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
