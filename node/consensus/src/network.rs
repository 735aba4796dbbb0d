//! openraft's network over the injected transport.

use std::time::Duration;

use openraft::EmptyNode;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use proto::ids::{GroupId, NodeId};
use std::sync::Arc;

use crate::transport::{Transport, TransportError};
use crate::types::Types;
use crate::wire::{self, Request};

/// How long an unreachable peer is left alone. Short, since a restarted one should catch up at once,
/// and a refused connection on a LAN costs next to nothing.
const BACKOFF: Duration = Duration::from_millis(200);

/// Makes one group's connections.
pub struct Network {
    pub me: NodeId,
    pub group: GroupId,
    pub transport: Arc<dyn Transport>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        Peer { me: self.me, group: self.group, target, transport: Arc::clone(&self.transport) }
    }
}

/// One group's way to one peer.
pub struct Peer {
    me: NodeId,
    group: GroupId,
    target: u64,
    transport: Arc<dyn Transport>,
}

type RpcError<E = openraft::error::Infallible> = RPCError<u64, EmptyNode, RaftError<u64, E>>;

impl Peer {
    async fn call<A, E>(&self, request: &Request, kind: RPCTypes, limit: Duration) -> Result<A, RpcError<E>>
    where
        A: Answer<E>,
        E: std::error::Error,
    {
        let payload = wire::encode(request).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let called = self.transport.call(NodeId(self.target), self.group, payload, limit).await;
        let answer = match called {
            Ok(answer) => answer,
            Err(error @ TransportError::Unreachable(_)) => {
                return Err(RPCError::Unreachable(Unreachable::new(&error)));
            }
            Err(error @ TransportError::Failed(_)) => {
                // openraft retries a network error at once, without end: a peer that answers with
                // errors would be asked in a busy loop.
                return Err(RPCError::Unreachable(Unreachable::new(&error)));
            }
            Err(TransportError::Timeout) => {
                let timeout = Timeout { action: kind, id: self.me.0, target: self.target, timeout: limit };
                return Err(RPCError::Timeout(timeout));
            }
        };
        A::decode(&answer, self.target)
    }
}

/// An answer that may be the other side's error.
trait Answer<E: std::error::Error>: Sized {
    fn decode(payload: &[u8], target: u64) -> Result<Self, RpcError<E>>;
}

macro_rules! answer {
    ($answer:ty, $error:ty, $wire:ty) => {
        impl Answer<$error> for $answer {
            fn decode(payload: &[u8], target: u64) -> Result<Self, RpcError<$error>> {
                let answer: $wire =
                    wire::decode(payload).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
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
        self.call(&Request::Append(rpc), RPCTypes::AppendEntries, option.hard_ttl()).await
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
