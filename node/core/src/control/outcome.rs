//! What became of a command: committed commands are applied or refused, and say which.

use proto::ids::{Epoch, NodeId, ReleaseId};
use serde::{Deserialize, Serialize};

use super::record::Role;

/// The answer to a command, the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    /// The node's id, and what its certificate may say.
    Admitted {
        node: NodeId,
        role: Role,
    },
    /// The reign that begins.
    Started {
        epoch: Epoch,
    },
    /// The rollout of `release` is going on under `attempt`, or ended well before the command came
    /// (then `stable` is set and nothing is to be done).
    Targeted {
        release: ReleaseId,
        attempt: u64,
        stable: bool,
    },
    Refused(Refusal),
}

impl Outcome {
    /// # Errors
    /// The refusal, if that is what it is.
    pub fn accepted(self) -> Result<Self, Refusal> {
        match self {
            Self::Refused(refusal) => Err(refusal),
            Self::Done | Self::Admitted { .. } | Self::Started { .. } | Self::Targeted { .. } => Ok(self),
        }
    }
}

/// What a replica answers for an entry: its outcome, and where in the log it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Whoever has applied up to here has seen the outcome's effect.
    pub index: u64,
    pub outcome: Outcome,
}

impl Applied {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an outcome has only string and number keys, and no failing part")
    }

    /// # Errors
    /// The bytes are no answer of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// Why a command changed nothing. The words are for an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error("this cluster has been initialised already")]
    AlreadyInitialised,
    #[error("this cluster has not been initialised yet")]
    NotInitialised,
    #[error("the command is none that this version knows")]
    Unreadable,
    /// Nothing is wrong with the command: it should be sent again.
    #[error("another command came first in the same entry of the log: try again")]
    Crowded,
    #[error("epoch {given} is not the controller's: epoch {current} reigns")]
    StaleEpoch { given: Epoch, current: Epoch },
    #[error("node {node} is not a member of this cluster")]
    UnknownNode { node: NodeId },
    #[error("node {node} may not vote, so it can not be the controller")]
    NotAVoter { node: NodeId },
    #[error("no such token: it was never issued, or it was revoked")]
    UnknownToken,
    #[error("the token has expired")]
    TokenExpired,
    #[error("the token has admitted as many nodes as it may")]
    TokenUsedUp,
    #[error("there is a token with the id {id} already")]
    TokenExists { id: String },
    #[error("there are {limit} tokens already: revoke some")]
    TooManyTokens { limit: usize },
    #[error("a live node (id {holder}) has the name {name:?} already")]
    NameTaken { name: String, holder: NodeId },
    #[error("node {node} was replaced by another disk under the same name")]
    Superseded { node: NodeId },
    #[error("the cluster has {limit} nodes already")]
    TooManyNodes { limit: usize },
    #[error("{name:?} is not a name of at most 63 of a-z, 0-9 and inner '-'")]
    BadName { name: String },
    #[error("there are {limit} apps already")]
    TooManyApps { limit: usize },
    #[error("no such app: {app:?}")]
    UnknownApp { app: String },
    #[error("the app {app:?} has no release {release}")]
    UnknownRelease { app: String, release: ReleaseId },
    #[error("the app {app:?} has no earlier release to go back to")]
    NothingEarlier { app: String },
    #[error(
        "the app {app:?} takes the same requests as the app {other:?} ({route}): give one of them hosts or a path of its own under [route]"
    )]
    RouteConflict { app: String, other: String, route: String },
    #[error("a rollout of the app {app:?} to {version} is going on ({stage}): wait for its end")]
    RolloutGoingOn { app: String, version: String, stage: String },
    #[error("the app {app:?} has no rollout {attempt} in a stage that this order is for")]
    NoSuchRollout { app: String, attempt: u64 },
    #[error("group {group} can not be placed on {nodes:?}")]
    BadPlacement { group: u16, nodes: Vec<NodeId> },
}
