//! The peer port: one TCP listener, TLS with or without a client certificate, then by ALPN.
//!
//! ```text
//!   accept ─▶ TLS 1.3 (5 s) ─▶ ALPN h2             ─▶ gRPC: JoinService for anybody with a token,
//!                           │                           the rest for nodes of this cluster
//!                           └▶ ALPN holdfast-http/1 ─▶ the balancer, for a node's certificate only
//! ```

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use node_security::PeerIdentity;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::tasks::Tasks;

/// gRPC, as any HTTP/2.
pub const ALPN_RPC: &[u8] = b"h2";
/// A proxied request for one of this node's instances.
pub const ALPN_PROXY: &[u8] = b"holdfast-http/1";

/// How long a peer may take to prove who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way at once: each costs a signature, and strangers can start them.
const HANDSHAKES_MAX: usize = 64;
/// Connections open at once. A farm of 100 nodes keeps some six per peer; the rest is headroom for
/// balancers' pools. Beyond it a connection waits in the kernel's backlog.
const CONNECTIONS_MAX: usize = 4_096;
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
pub async fn run(listener: TcpListener, tls: Arc<rustls::ServerConfig>, to: Accepted, tasks: Tasks) {
    let acceptor = TlsAcceptor::from(tls);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let to = Arc::new(to);
    let stop = tasks.stop();
    loop {
        let Ok(slot) = Arc::clone(&connections).acquire_owned().await else { return };
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
        let (acceptor, handshakes, to) = (acceptor.clone(), Arc::clone(&handshakes), Arc::clone(&to));
        let handshake = async move {
            let Ok(_turn) = handshakes.acquire().await else { return };
            match handshake(&acceptor, tcp).await {
                Ok(tls) => hand_on(tls, address, slot, &to).await,
                Err(error) => tracing::debug!(%address, %error, "a handshake on the peer port failed"),
            }
        };
        let stop = stop.clone();
        tasks.tracker().spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = handshake => {}
            }
        });
    }
}

async fn handshake(acceptor: &TlsAcceptor, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    tcp.set_nodelay(true)?;
    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it took too long"))?
}

async fn hand_on(
    tls: TlsStream<TcpStream>,
    address: SocketAddr,
    slot: tokio::sync::OwnedSemaphorePermit,
    to: &Accepted,
) {
    let (_, session) = tls.get_ref();
    let identity = match session.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(certificate) => match node_security::identify(certificate) {
            Ok(identity) => Some(identity),
            Err(error) => {
                tracing::warn!(%address, %error, "a certificate of this cluster names no node");
                return;
            }
        },
    };
    let known = identity.is_some();
    let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
    let stream = PeerStream { io: tls, info: PeerInfo { identity, address }, _slot: slot };
    // A receiver that is gone means that the agent is stopping: the connection ends with it.
    match alpn.as_deref() {
        Some(ALPN_RPC) => drop(to.rpc.send(Ok(stream)).await),
        Some(ALPN_PROXY) if known => drop(to.proxy.send(stream).await),
        Some(_) | None => tracing::debug!(%address, "neither gRPC nor a proxied request of a node"),
    }
}

/// An accepted connection that knows who is at its other end.
pub struct PeerStream {
    io: TlsStream<TcpStream>,
    info: PeerInfo,
    _slot: tokio::sync::OwnedSemaphorePermit,
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
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
