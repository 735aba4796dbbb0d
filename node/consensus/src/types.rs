//! openraft's types, filled in. Private: nothing of it leaves the crate.

use std::io::Cursor;

use bytes::Bytes;
use openraft::{AnyError, EmptyNode, StorageError, StorageIOError};
use proto::ids::{GroupId, NodeId};
use serde::{Deserialize, Serialize};

use crate::engine::EngineError;

/// What one log entry holds: a batch of operations under one clock reading.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub clock_ms: u64,
    pub seed: u64,
    pub ops: Vec<Bytes>,
}

/// The answers to a proposal's operations, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies(pub Vec<Bytes>);

openraft::declare_raft_types!(
    pub Types:
        D = Proposal,
        R = Replies,
        NodeId = u64,
        Node = EmptyNode,
        SnapshotData = Cursor<Vec<u8>>,
);

pub type Raft = openraft::Raft<Types>;
pub type Entry = openraft::Entry<Types>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type StoredMembership = openraft::StoredMembership<u64, EmptyNode>;
pub type Metrics = openraft::RaftMetrics<u64, EmptyNode>;

pub fn node(id: u64) -> NodeId {
    NodeId(id)
}

/// A disk's fault in openraft's words. openraft stops the group at any of them.
pub fn storage_error(group: GroupId, error: &EngineError) -> StorageError<u64> {
    let error = AnyError::error(format!("group {group}: {error}"));
    StorageError::IO { source: StorageIOError::read(error) }
}
