//! What a group's members say to one another: openraft's messages, our pre-vote, and the heartbeats
//! of many groups in one, in postcard.
//!
//! A message names the node that it is meant for: an address may have passed to another node.
//!
//! The versions of both ends may differ by one; openraft is pinned, so its messages do not.

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use proto::ids::NodeId;
use proto::limits::MESSAGE_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{LogId, Types};

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Snapshot(InstallSnapshotRequest<Types>),
    PreVote(PreVoteRequest),
    Heartbeats(Vec<Heartbeat>),
    /// What time is it in the group?
    Time,
}

pub type AppendAnswer = Result<AppendEntriesResponse<u64>, RaftError<u64>>;
pub type VoteAnswer = Result<VoteResponse<u64>, RaftError<u64>>;
pub type SnapshotAnswer = Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>;
/// In the order of the request; `None` where a group is not here or did not answer in time.
pub type HeartbeatsAnswer = Vec<Option<AppendAnswer>>;

/// One group's share of [`Request::Heartbeats`]: an append without entries.
#[derive(Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub group: u16,
    pub rpc: AppendEntriesRequest<Types>,
}

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeAnswer {
    /// It has lived through, or was told by somebody who has. Else it is what is on its wall, and at least
    /// what its entries say.
    pub is_known: bool,
    pub clock_ms: u64,
}

/// Why a payload is no message for this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{0} bytes are more than a message may have")]
    TooLarge(usize),
    #[error("it can not be read: {0}")]
    Unreadable(#[from] postcard::Error),
    #[error("it is meant for node {meant}, and this is node {me}")]
    Misdirected { meant: NodeId, me: NodeId },
}

/// # Errors
/// Never for our own types; postcard can not tell.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, postcard::Error> {
    postcard::to_stdvec(message).map(Bytes::from)
}

/// # Errors
/// See [`encode`].
pub fn encode_request(to: NodeId, request: &Request) -> Result<Bytes, postcard::Error> {
    encode(&(to.0, request))
}

/// # Errors
/// When the bytes are too many, no request, or for somebody else.
pub fn decode_request(me: NodeId, payload: &[u8]) -> Result<Request, WireError> {
    let (to, request): (u64, Request) = decode(payload)?;
    if to == me.0 { Ok(request) } else { Err(WireError::Misdirected { meant: NodeId(to), me }) }
}

/// postcard reserves no more than it has bytes for.
///
/// # Errors
/// When the bytes are too many or no such message.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, WireError> {
    if payload.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge(payload.len()));
    }
    Ok(postcard::from_bytes(payload)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pre_vote() -> Request {
        Request::PreVote(PreVoteRequest { last_log: None })
    }

    #[test]
    fn a_message_for_another_node_is_not_taken() {
        let payload = encode_request(NodeId(7), &pre_vote()).unwrap();
        assert!(matches!(decode_request(NodeId(7), &payload), Ok(Request::PreVote(_))));
        let misdirected = decode_request(NodeId(8), &payload).unwrap_err();
        assert_eq!(misdirected, WireError::Misdirected { meant: NodeId(7), me: NodeId(8) });
    }

    #[test]
    fn a_message_above_the_bound_is_refused_before_it_is_read() {
        let payload = vec![0; MESSAGE_BYTES_MAX + 1];
        assert_eq!(decode_request(NodeId(0), &payload).unwrap_err(), WireError::TooLarge(payload.len()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _whatever_it_is = decode_request(NodeId(0), &payload);
            let _whatever_it_is = decode::<HeartbeatsAnswer>(&payload);
        }
    }
}
