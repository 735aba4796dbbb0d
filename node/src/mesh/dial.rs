//! Dialling one peer: TCP, then TLS towards the node that is meant, then a watch for the break.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::ids::{ClusterId, NodeId};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;
use tower::util::BoxCloneSyncService;

use crate::tasks::Tasks;

/// A live host on a LAN answers a SYN in well under a millisecond; this covers a lost one that is
/// sent again after a second, not two.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the one redial after a break, whose only question is *refused or not*.
const REDIAL_TIMEOUT: Duration = Duration::from_millis(300);

#[derive(Clone)]
pub(super) struct Connector {
    node: NodeId,
    name: ServerName<'static>,
    tls: TlsConnector,
    address: Arc<RwLock<SocketAddr>>,
    resets: broadcast::Sender<NodeId>,
    tasks: Tasks,
}

type Io = TokioIo<Watched<TlsStream<TcpStream>>>;

impl Connector {
    pub(super) fn new(
        node: NodeId,
        cluster: ClusterId,
        tls: Arc<rustls::ClientConfig>,
        address: Arc<RwLock<SocketAddr>>,
        resets: broadcast::Sender<NodeId>,
        tasks: Tasks,
    ) -> Self {
        let name = node_security::server_name(cluster, Some(node));
        Self { node, name, tls: TlsConnector::from(tls), address, resets, tasks }
    }

    /// As the connector that tonic's channel calls each time it needs a connection.
    pub(super) fn into_service(self) -> BoxCloneSyncService<Uri, Io, io::Error> {
        BoxCloneSyncService::new(tower::service_fn(move |_: Uri| {
            let this = self.clone();
            async move { this.dial().await }
        }))
    }

    async fn dial(self) -> io::Result<Io> {
        let address = self.current_address();
        let tcp = match connect(address, CONNECT_TIMEOUT).await {
            Ok(tcp) => tcp,
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.tell_reset();
                }
                return Err(error);
            }
        };
        let handshake = self.tls.connect(self.name.clone(), tcp);
        let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
        Ok(TokioIo::new(Watched { io: tls, broken: Some(self) }))
    }

    fn current_address(&self) -> SocketAddr {
        *self.address.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody listening is no fault of this function: the gossip then judges alone.
    fn tell_reset(&self) {
        let _nobody_listens = self.resets.send(self.node);
    }

    /// After a break: an agent that has died leaves a port that refuses. A listening one has only
    /// closed this connection.
    fn look_again(self) {
        let tracker = self.tasks.tracker().clone();
        tracker.spawn(async move {
            let stop = self.tasks.stop();
            let redial = connect(self.current_address(), REDIAL_TIMEOUT);
            tokio::select! {
                () = stop.cancelled() => {}
                answer = redial => {
                    if answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                        self.tell_reset();
                    }
                }
            }
        });
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let tcp = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("{address} did not answer")))??;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// A stream that notices when the other side ends it. Ending it from here is not a break.
pub(super) struct Watched<S> {
    io: S,
    broken: Option<Connector>,
}

impl<S> Watched<S> {
    fn tell_break(&mut self) {
        if let Some(connector) = self.broken.take() {
            connector.look_again();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if let Poll::Ready(result) = &polled
            && (result.is_err() || (buffer.filled().len() == before && buffer.remaining() > 0))
        {
            self.tell_break();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        if matches!(polled, Poll::Ready(Err(_))) {
            self.tell_break();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.broken = None;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
