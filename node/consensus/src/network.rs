//! openraft's network over the injected transport.
//!
//! openraft asks again at once after anything but `Unreachable`, so everything but a time-out is told
//! as that: a peer that answers with nonsense is not to be asked in a busy loop.

use std::sync::Arc;
use std::time::Duration;

use openraft::EmptyNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use proto::ids::{GroupId, NodeId};

use crate::heartbeats::Heartbeats;
use crate::transport::{Transport, TransportError};
use crate::types::{LogId, Types};
use crate::wire::{self, Request};

/// How long an unreachable peer is left alone. Short, since a restarted one should catch up at once,
/// and a refused connection on a LAN costs next to nothing.
const BACKOFF: Duration = Duration::from_millis(200);

/// Makes one group's connections.
pub struct Network {
    pub me: NodeId,
    pub group: GroupId,
    pub transport: Arc<dyn Transport>,
    pub heartbeats: Arc<Heartbeats>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        Peer {
            me: self.me,
            group: self.group,
            target,
            transport: Arc::clone(&self.transport),
            heartbeats: Arc::clone(&self.heartbeats),
            told_commit: None,
        }
    }
}

/// One group's way to one peer.
pub struct Peer {
    me: NodeId,
    group: GroupId,
    target: u64,
    transport: Arc<dyn Transport>,
    heartbeats: Arc<Heartbeats>,
    /// The commit index of the last append that was sent.
    told_commit: Option<Option<LogId>>,
}

type RpcError<E = openraft::error::Infallible> = RPCError<u64, EmptyNode, RaftError<u64, E>>;

impl Peer {
    async fn call<A, E>(&self, request: &Request, kind: RPCTypes, limit: Duration) -> Result<A, RpcError<E>>
    where
        A: Answer<E>,
        E: std::error::Error,
    {
        let payload = wire::encode_request(NodeId(self.target), request).map_err(|error| gone(&error))?;
        let called = self.transport.call(NodeId(self.target), self.group, payload, limit).await;
        let answer = called.map_err(|error| self.failed(error, kind, limit))?;
        A::decode(&answer, self.target)
    }

    fn failed<E: std::error::Error>(
        &self,
        error: TransportError,
        kind: RPCTypes,
        limit: Duration,
    ) -> RpcError<E> {
        match error {
            TransportError::Unreachable(_) | TransportError::Failed(_) => gone(&error),
            TransportError::Timeout => RPCError::Timeout(Timeout {
                action: kind,
                id: self.me.0,
                target: self.target,
                timeout: limit,
            }),
        }
    }

    /// An append without entries that says nothing new. openraft makes a client for each read and
    /// uses it once, so a client's first append is never one.
    fn is_heartbeat(&mut self, rpc: &AppendEntriesRequest<Types>) -> bool {
        let told = self.told_commit.replace(rpc.leader_commit);
        rpc.entries.is_empty() && told == Some(rpc.leader_commit)
    }
}

fn gone<E: std::error::Error>(error: &(impl std::error::Error + 'static)) -> RpcError<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

/// An answer that may be the other side's error.
trait Answer<E: std::error::Error>: Sized {
    fn decode(payload: &[u8], target: u64) -> Result<Self, RpcError<E>>;
}

macro_rules! answer {
    ($answer:ty, $error:ty, $wire:ty) => {
        impl Answer<$error> for $answer {
            fn decode(payload: &[u8], target: u64) -> Result<Self, RpcError<$error>> {
                let answer: $wire = wire::decode(payload).map_err(|error| gone(&error))?;
                answer.map_err(|error| RPCError::RemoteError(RemoteError::new(target, error)))
            }
        }
    };
}

answer!(AppendEntriesResponse<u64>, openraft::error::Infallible, wire::AppendAnswer);
answer!(VoteResponse<u64>, openraft::error::Infallible, wire::VoteAnswer);
answer!(InstallSnapshotResponse<u64>, InstallSnapshotError, wire::SnapshotAnswer);

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RpcError> {
        let (kind, limit) = (RPCTypes::AppendEntries, option.hard_ttl());
        if self.is_heartbeat(&rpc) {
            let to = NodeId(self.target);
            let answer = self.heartbeats.send(to, self.group, rpc, limit).await;
            let answer = answer.map_err(|error| self.failed(error, kind, limit))?;
            return answer.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)));
        }
        self.call(&Request::Append(rpc), kind, limit).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RpcError<InstallSnapshotError>> {
        self.call(&Request::Snapshot(rpc), RPCTypes::InstallSnapshot, option.hard_ttl()).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RpcError> {
        self.call(&Request::Vote(rpc), RPCTypes::Vote, option.hard_ttl()).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
