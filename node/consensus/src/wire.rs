//! What a group's members say to one another: openraft's messages and our pre-vote, in postcard.
//!
//! The versions of both ends may differ by one; openraft is pinned, so its messages do not.

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{LogId, Types};

#[derive(Serialize, Deserialize)]
pub enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Snapshot(InstallSnapshotRequest<Types>),
    PreVote(PreVoteRequest),
}

pub type AppendAnswer = Result<AppendEntriesResponse<u64>, RaftError<u64>>;
pub type VoteAnswer = Result<VoteResponse<u64>, RaftError<u64>>;
pub type SnapshotAnswer = Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>;

/// Would you vote for me, if I asked?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVoteRequest {
    pub last_log: Option<LogId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreVoteAnswer {
    /// It has not heard a leader for the lease, and its log is not ahead.
    pub consents: bool,
}

/// # Errors
/// Never for our own types; postcard can not tell.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, postcard::Error> {
    postcard::to_stdvec(message).map(Bytes::from)
}

/// The payload's length was bounded by the transport, and postcard reserves no more than there is.
///
/// # Errors
/// When the bytes are no such message.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, postcard::Error> {
    postcard::from_bytes(payload)
}
