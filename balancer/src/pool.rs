//! Connections to backends, kept for the next request.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::snapshot::Target;
use crate::stream::{Conn, Io};

/// Below the five seconds after which the most impatient of common servers close an idle connection
/// (Node.js), so that a request rarely meets one that is just being closed.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Kept per target and worker. What a burst opened beyond it is closed after use.
const KEPT_MAX: usize = 64;
/// On loopback a live listener takes a connection at once; a full backlog or a stopped process does not.
const CONNECT_LOCAL: Duration = Duration::from_millis(500);
/// With the TLS handshake.
const CONNECT_PEER: Duration = Duration::from_millis(1_500);

/// A connection of either kind.
pub type Upstream = Conn<Box<dyn Io>>;

struct Idle {
    conn: Upstream,
    since: Instant,
}

/// One worker's connections. Clones share them.
#[derive(Clone)]
pub struct Pool {
    idle: Arc<Mutex<HashMap<Target, Vec<Idle>>>>,
    tls: Option<TlsConnector>,
}

impl Pool {
    pub fn new(tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self { idle: Arc::default(), tls: tls.map(TlsConnector::from) }
    }

    /// A kept connection that still seems open, the one used last first.
    pub fn take(&self, target: &Target) -> Option<Upstream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(target)?;
        while let Some(Idle { mut conn, since }) = kept.pop() {
            if since.elapsed() < IDLE_MAX && is_quiet(&mut conn) {
                return Some(conn);
            }
        }
        idle.remove(target);
        None
    }

    /// Keeps a connection on which an answer has ended.
    pub fn give(&self, target: &Target, conn: Upstream) {
        if !conn.buffer.is_empty() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(target.clone()).or_default();
        kept.retain(|idle| idle.since.elapsed() < IDLE_MAX);
        if kept.len() < KEPT_MAX {
            kept.push(Idle { conn, since: Instant::now() });
        }
        // Targets that nobody asks for any more go with their last connection.
        if idle.len() > 64 {
            idle.retain(|_, kept| kept.iter().any(|idle| idle.since.elapsed() < IDLE_MAX));
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody takes it in time, or a peer does not prove to be the one that is meant. Nothing has
    /// been asked yet.
    pub async fn connect(&self, target: &Target) -> io::Result<Upstream> {
        let (limit, opening) = match target {
            Target::Local(address) => (CONNECT_LOCAL, self.open(*address, None)),
            Target::Peer { address, name } => (CONNECT_PEER, self.open(*address, Some(name))),
        };
        match tokio::time::timeout(limit, opening).await {
            Ok(opened) => opened.map(Conn::new),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it did not take a connection in time")),
        }
    }

    async fn open(&self, address: SocketAddr, name: Option<&ServerName<'static>>) -> io::Result<Box<dyn Io>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let Some(name) = name else { return Ok(Box::new(tcp)) };
        let tls = self.tls.as_ref().ok_or_else(|| io::Error::other("no TLS was set up for peers"))?;
        Ok(Box::new(tls.connect(name.clone(), tcp).await?))
    }
}

/// Whether nothing is to be read: neither bytes that nobody asked for nor the end.
fn is_quiet(conn: &mut Upstream) -> bool {
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    let mut context = Context::from_waker(Waker::noop());
    matches!(Pin::new(&mut conn.io).poll_read(&mut context, &mut buffer), Poll::Pending)
}
