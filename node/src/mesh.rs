//! How this node reaches the others: one TLS mesh, mutually authenticated, dialled on demand.
//!
//! ```text
//!   a part ──peer(node)──▶ Channel ──connector──▶ TCP ─ TLS 1.3 ─▶ the other's peer port
//!                             │ (lazy, redials)      │ `node-7.<cluster>.holdfast` must be in
//!                             │                      │ the certificate: who answers is who was meant
//!                             ▼                      ▼
//!                        small calls            a connection that breaks is redialled once at
//!                        and bulk apart         once; refused = told to `resets()`
//! ```
//!
//! Calls and bulk transfers have a connection each, so that a release that is being fetched does
//! not delay a heartbeat behind it.
//!
//! Architecture Invariant: there is no way to dial a peer without TLS, and none to dial without
//! saying who is meant.

mod dial;
pub mod listen;
pub mod raft;
pub mod service;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use proto::ids::{ClusterId, NodeId};
use proto::limits::MESSAGE_BYTES_MAX;
use proto::peer::join_service_client::JoinServiceClient;
use proto::peer::peer_service_client::PeerServiceClient;
use tokio::sync::broadcast;
use tonic::transport::{Channel, Endpoint};

use crate::tasks::Tasks;

pub use listen::PeerInfo;

/// A resets channel holds the breaks of one bad moment on a farm of the size it is made for; who
/// lags behind sees the members' own suspicion instead.
const RESETS_QUEUED_MAX: usize = 256;

/// A peer that does not answer a ping of its connection for so long is redialled. Gossip judges
/// the node; this only frees the calls that hang on a dead connection.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that one call's stream may have in flight; enough for 1 Gbit/s at 8 ms.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Why a peer can not be called.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("no address is known for node {0}")]
    UnknownNode(NodeId),
}

/// Reaches peers by their node id. Clones share the connections.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    cluster: ClusterId,
    tls: Arc<rustls::ClientConfig>,
    peers: RwLock<HashMap<NodeId, Peer>>,
    resets: broadcast::Sender<NodeId>,
    tasks: Tasks,
}

struct Peer {
    /// Shared with the connectors, so that a new address needs no new channel.
    address: Arc<RwLock<SocketAddr>>,
    calls: Channel,
    bulk: Channel,
}

impl Mesh {
    /// `tls` carries this node's certificate and the cluster's CA, with ALPN `h2`.
    pub fn new(me: NodeId, cluster: ClusterId, tls: Arc<rustls::ClientConfig>, tasks: Tasks) -> Self {
        let (resets, _) = broadcast::channel(RESETS_QUEUED_MAX);
        let peers = RwLock::default();
        Self { inner: Arc::new(Inner { me, cluster, tls, peers, resets, tasks }) }
    }

    /// This node.
    pub fn me(&self) -> NodeId {
        self.inner.me
    }

    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    /// A client for short calls. It connects at its first use and again after a break.
    ///
    /// # Errors
    /// When nobody has told this node the peer's address yet.
    pub fn peer(&self, node: NodeId) -> Result<PeerServiceClient<Channel>, MeshError> {
        self.channel(node, |peer| peer.calls.clone()).map(client)
    }

    /// A client for long transfers, on a connection of its own.
    ///
    /// # Errors
    /// As [`Mesh::peer`].
    pub fn bulk(&self, node: NodeId) -> Result<PeerServiceClient<Channel>, MeshError> {
        self.channel(node, |peer| peer.bulk.clone()).map(client)
    }

    /// A client for a join that is relayed to the node that can grant it.
    ///
    /// # Errors
    /// As [`Mesh::peer`].
    pub fn join(&self, node: NodeId) -> Result<JoinServiceClient<Channel>, MeshError> {
        self.channel(node, |peer| peer.calls.clone()).map(JoinServiceClient::new)
    }

    /// Notes where a node's peer port is. The newest word counts.
    pub fn learn(&self, node: NodeId, address: SocketAddr) {
        let mut peers = self.inner.peers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&node) {
            *peer.address.write().unwrap_or_else(PoisonError::into_inner) = address;
            return;
        }
        if peers.len() >= proto::limits::MEMBERS_MAX {
            tracing::warn!(%node, "too many peers; not reachable from here");
            return;
        }
        let shared = Arc::new(RwLock::new(address));
        let peer = Peer { calls: self.open(node, &shared), bulk: self.open(node, &shared), address: shared };
        peers.insert(node, peer);
    }

    /// Ends what is kept about a node that is no member any more. Ids are not used again.
    pub fn forget(&self, node: NodeId) {
        self.inner.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    /// Where a node's peer port is, as far as this node knows.
    pub fn address(&self, node: NodeId) -> Option<SocketAddr> {
        let peers = self.inner.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&node).map(|peer| *peer.address.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nodes whose connection broke and whose port then refused a new one: their agent is gone.
    pub fn resets(&self) -> broadcast::Receiver<NodeId> {
        self.inner.resets.subscribe()
    }

    fn channel(&self, node: NodeId, pick: impl FnOnce(&Peer) -> Channel) -> Result<Channel, MeshError> {
        let peers = self.inner.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&node).map(pick).ok_or(MeshError::UnknownNode(node))
    }

    fn open(&self, node: NodeId, address: &Arc<RwLock<SocketAddr>>) -> Channel {
        let connector = dial::Connector::new(
            node,
            self.inner.cluster,
            Arc::clone(&self.inner.tls),
            Arc::clone(address),
            self.inner.resets.clone(),
            self.inner.tasks.clone(),
        );
        // The name is for the HTTP/2 authority alone; the connector decides where to.
        Endpoint::from_static("http://peer.holdfast")
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_with_connector_lazy(connector.into_service())
    }
}

fn client(channel: Channel) -> PeerServiceClient<Channel> {
    PeerServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
