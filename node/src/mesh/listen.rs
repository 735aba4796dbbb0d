//! The peer port: one TCP listener, TLS with or without a client certificate, then by ALPN.
//!
//! ```text
//!   accept ─▶ TLS 1.3 (5 s) ─▶ ALPN h2             ─▶ gRPC: JoinService for anybody with a token,
//!                           │                           the rest for nodes of this cluster
//!                           └▶ ALPN holdfast-http/1 ─▶ the balancer, for a node's certificate only
//! ```
//!
//! Whoever has not proved to be a node takes nothing away from the nodes: neither one that says nothing,
//! nor one that has no certificate and stays.

mod strangers;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use node_security::PeerIdentity;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use crate::tasks::Tasks;
use strangers::{Stranger, Strangers};

/// gRPC, as any HTTP/2.
pub const ALPN_RPC: &[u8] = b"h2";
/// A proxied request for one of this node's instances.
pub const ALPN_PROXY: &[u8] = b"holdfast-http/1";

/// A silent other side is asked whether it is still there after this time; after twice that it is not.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What those who come may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a peer may take to prove who it is, counted from when it was accepted.
    pub handshake_time: Duration,
    /// Handshakes under way at once, and of one source. A balancer that is hit by a burst opens as many
    /// connections at once as it has clients that wait, from one address.
    pub handshakes_max: usize,
    pub handshakes_per_source_max: usize,
    /// Connections without a certificate, and of one source. Only a join comes without, and nobody joins
    /// a hundred nodes at once.
    pub anonymous_max: usize,
    pub anonymous_per_source_max: usize,
    /// How long one without a certificate may stay. A joiner waits 20 s for its answer.
    pub anonymous_life: Duration,
    /// gRPC connections of nodes. A farm of 100 nodes keeps some six per peer. They have a share of their
    /// own: however many requests are proxied, raft goes on.
    pub rpc_max: usize,
    /// Connections of other nodes' balancers. One request each, or a tunnel.
    pub proxied_max: usize,
    /// Balancers' connections beyond these that are told so. More are closed, and whoever opened them does
    /// not know whether its request was executed.
    pub surplus_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_time: Duration::from_secs(5),
            handshakes_max: 2_048,
            handshakes_per_source_max: 1_024,
            anonymous_max: 64,
            anonymous_per_source_max: 16,
            anonymous_life: Duration::from_secs(30),
            rpc_max: 1_024,
            proxied_max: 4_096,
            surplus_max: 64,
        }
    }
}

impl Limits {
    /// As many as `descriptors` allow: each connection takes one, from when it is accepted.
    pub fn within(descriptors: usize) -> Self {
        let all = Self::default();
        let handshakes_max = all.handshakes_max.min(descriptors / 4);
        let anonymous_max = all.anonymous_max.min(descriptors / 8);
        let rpc_max = all.rpc_max.min(descriptors / 4);
        let surplus_max = all.surplus_max.min(descriptors / 16);
        let others = handshakes_max + anonymous_max + rpc_max + surplus_max;
        Self {
            handshakes_max,
            handshakes_per_source_max: all.handshakes_per_source_max.min(handshakes_max / 2),
            anonymous_max,
            anonymous_per_source_max: all.anonymous_per_source_max.min(anonymous_max / 2),
            rpc_max,
            proxied_max: all.proxied_max.min(descriptors - others),
            surplus_max,
            ..all
        }
    }
}

/// Who is at the other end of a gRPC call, found in the request's extensions.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// From the client's certificate; none was given by a joiner.
    pub identity: Option<PeerIdentity>,
    pub address: SocketAddr,
}

/// Where accepted connections go.
pub struct Accepted {
    pub rpc: mpsc::Sender<io::Result<PeerStream>>,
    pub proxy: mpsc::Sender<PeerStream>,
}

/// Accepts until the agent stops.
pub async fn run(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    to: Accepted,
    tasks: Tasks,
) {
    let door = Arc::new(Door {
        acceptor: TlsAcceptor::from(tls),
        handshake_time: limits.handshake_time,
        anonymous: Strangers::new(limits.anonymous_max, limits.anonymous_per_source_max),
        anonymous_life: limits.anonymous_life,
        rpc: Arc::new(Semaphore::new(limits.rpc_max)),
        proxied: Arc::new(Semaphore::new(limits.proxied_max)),
        surplus: Arc::new(Semaphore::new(limits.surplus_max)),
        to,
    });
    let handshakes = Strangers::new(limits.handshakes_max, limits.handshakes_per_source_max);
    let stop = tasks.stop();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the peer port can not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let welcome = Arc::clone(&door).welcome(tcp, address, handshakes.admit(address.ip()));
        let stop = stop.clone();
        tasks.tracker().spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = welcome => {}
            }
        });
    }
}

/// What becomes of an accepted connection.
struct Door {
    acceptor: TlsAcceptor,
    handshake_time: Duration,
    anonymous: Strangers,
    anonymous_life: Duration,
    rpc: Arc<Semaphore>,
    proxied: Arc<Semaphore>,
    surplus: Arc<Semaphore>,
    to: Accepted,
}

impl Door {
    fn welcome(
        self: Arc<Self>,
        tcp: TcpStream,
        address: SocketAddr,
        stranger: Stranger,
    ) -> impl Future<Output = ()> + Send {
        // From now on, not from when the task has its first turn.
        let deadline = Instant::now() + self.handshake_time;
        async move {
            let handshake = async {
                tokio::select! {
                    () = stranger.sent_away() => Err(io::Error::other("others need its place")),
                    met = timeout_at(deadline, self.meet(tcp, address)) => {
                        met.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it took too long"))?
                    }
                }
            };
            let met = handshake.await;
            drop(stranger);
            match met {
                Ok(stream) => self.hand_on(stream).await,
                Err(error) => tracing::debug!(%address, %error, "a handshake on the peer port failed"),
            }
        }
    }

    /// The handshake, and a place among those of its kind.
    async fn meet(&self, tcp: TcpStream, address: SocketAddr) -> io::Result<PeerStream> {
        tcp.set_nodelay(true)?;
        // A balancer that waits for an answer says nothing; one whose server lost its power does neither.
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive())?;
        let io = self.acceptor.accept(tcp).await?;
        let (_, session) = io.get_ref();
        let identity = session
            .peer_certificates()
            .and_then(<[_]>::first)
            .map(node_security::identify)
            .transpose()
            // It is of this cluster's CA, and yet names no node.
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let place = if identity.is_none() {
            Place::of_stranger(self.anonymous.admit(address.ip()), self.anonymous_life)
        } else {
            self.place_of_node(session.alpn_protocol() == Some(ALPN_PROXY)).await?
        };
        Ok(PeerStream { io, info: PeerInfo { identity, address }, place })
    }

    async fn place_of_node(&self, is_proxied: bool) -> io::Result<Place> {
        if !is_proxied {
            let slot = Arc::clone(&self.rpc).acquire_owned().await.map_err(io::Error::other)?;
            return Ok(Place::Node { _slot: slot });
        }
        // It does not wait: its request is under way already.
        if let Ok(slot) = Arc::clone(&self.proxied).try_acquire_owned() {
            return Ok(Place::Node { _slot: slot });
        }
        let slot = Arc::clone(&self.surplus).try_acquire_owned().map_err(io::Error::other)?;
        Ok(Place::Surplus { _slot: slot })
    }

    /// A receiver that is gone means that the agent is stopping: the connection ends with it.
    async fn hand_on(&self, stream: PeerStream) {
        let (_, session) = stream.io.get_ref();
        match session.alpn_protocol() {
            Some(ALPN_RPC) => drop(self.to.rpc.send(Ok(stream)).await),
            Some(ALPN_PROXY) if stream.info.identity.is_some() => {
                drop(self.to.proxy.send(stream).await);
            }
            Some(_) | None => {
                tracing::debug!(address = %stream.info.address, "neither gRPC nor a node's proxied request");
            }
        }
    }
}

/// An accepted connection that knows who is at its other end.
pub struct PeerStream {
    io: TlsStream<TcpStream>,
    info: PeerInfo,
    place: Place,
}

/// What a connection takes up as long as it is open.
enum Place {
    Node {
        _slot: OwnedSemaphorePermit,
    },
    /// One too many.
    Surplus {
        _slot: OwnedSemaphorePermit,
    },
    /// Without a certificate: for a time only, and only while nobody else needs the place.
    Stranger {
        life: Pin<Box<Sleep>>,
        sent_away: Pin<Box<WaitForCancellationFutureOwned>>,
        _stranger: Stranger,
    },
}

impl Place {
    fn of_stranger(stranger: Stranger, life: Duration) -> Self {
        let sent_away = Box::pin(stranger.sent_away());
        Self::Stranger { life: Box::pin(sleep(life)), sent_away, _stranger: stranger }
    }

    /// An error once the connection has to end. It is looked at before whatever the stream is asked for:
    /// a server that waits to write does not read.
    fn poll_over(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let over = match self {
            Self::Node { .. } | Self::Surplus { .. } => false,
            Self::Stranger { life, sent_away, .. } => {
                life.as_mut().poll(context).is_ready() || sent_away.as_mut().poll(context).is_ready()
            }
        };
        if !over {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the time without a certificate is over"))
    }
}

impl PeerStream {
    /// Whether it is a balancer's, and one more than there is room for: it is to be told so.
    pub fn is_surplus(&self) -> bool {
        matches!(self.place, Place::Surplus { .. })
    }
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4).with_retries(4)
}

impl Connected for PeerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.place.poll_over(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.place.poll_over(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.place.poll_over(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
