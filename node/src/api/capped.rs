//! Connections, so many at a time and no more.
//!
//! Who may connect may also never say a word, and every connection takes a descriptor that the databases
//! could need. What is over the number waits in the kernel's backlog.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection that gives its place back when it ends.
pub struct Held<S> {
    io: S,
    _place: OwnedSemaphorePermit,
}

/// A unix listener's connections, for tonic.
pub fn unix(listener: UnixListener, most: usize) -> impl Stream<Item = io::Result<Held<UnixStream>>> {
    let places = Arc::new(Semaphore::new(most));
    futures::stream::unfold((listener, places), |(listener, places)| async move {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let io = loop {
            match listener.accept().await {
                Ok((io, _)) => break io,
                Err(error) => {
                    tracing::warn!(%error, "a unix socket can not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        Some((Ok(Held { io, _place: place }), (listener, places)))
    })
}

/// A TCP listener, for axum.
pub struct Tcp {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Tcp {
    pub fn new(listener: TcpListener, most: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(most)) }
    }
}

impl axum::serve::Listener for Tcp {
    type Io = Held<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("nobody closes the semaphore");
        // axum's own: it pauses where the system has no descriptor for it.
        let (io, address) = axum::serve::Listener::accept(&mut self.listener).await;
        (Held { io, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl<S: Connected> Connected for Held<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Held<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Held<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
