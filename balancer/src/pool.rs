//! Connections to backends, kept for the next request.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::link::Link;
use crate::stream::Conn;
use crate::wire::Wire;

/// How long a connection is kept. The agents' own side of one waits longer.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long one may have been idle to get a request that can not be sent again: below the five seconds
/// after which the most impatient of common servers (Node.js) close theirs, so that such a request does
/// not meet one that is just being closed.
const IDLE_MAX_ONCE: Duration = Duration::from_secs(4);
/// Kept per link and worker. What a burst opened beyond it is closed after use.
const KEPT_MAX: usize = 256;
/// On loopback a live listener takes a connection at once; a full backlog or a stopped process does not.
const CONNECT_LOCAL: Duration = Duration::from_millis(500);
/// With the TLS handshake.
const CONNECT_PEER: Duration = Duration::from_millis(1_500);
/// A tunnel to a host that has died is found out after some two minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A connection of either kind.
pub type Upstream = Conn<Wire>;

/// Where a connection leads.
#[derive(Debug, Clone)]
pub struct Destination<'a> {
    pub link: Link,
    pub address: SocketAddr,
    /// Whom the other side must prove to be; `None` for an instance on this node.
    pub peer: Option<&'a ServerName<'static>>,
}

struct Idle {
    conn: Upstream,
    since: Instant,
}

struct Kept {
    link: Link,
    idle: Vec<Idle>,
}

/// One worker's connections. Clones share them.
#[derive(Clone)]
pub struct Pool {
    /// By the link's id.
    kept: Arc<Mutex<HashMap<u64, Kept>>>,
    tls: Option<TlsConnector>,
}

impl Pool {
    pub fn new(tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self { kept: Arc::default(), tls: tls.map(TlsConnector::from) }
    }

    /// A kept connection that is still open, the one used last first. `once`: for a request that can not
    /// be sent a second time, so that it had better not meet a connection that has just been closed.
    pub fn take(&self, link: &Link, once: bool) -> Option<Upstream> {
        let mut kept = self.kept();
        let idle = &mut kept.get_mut(&link.id())?.idle;
        let now = Instant::now();
        while let Some(Idle { conn, since }) = idle.last_mut() {
            let idle_for = now.duration_since(*since);
            if once && idle_for >= IDLE_MAX_ONCE {
                // The ones below it are older. They are still good for others.
                return None;
            }
            let usable = idle_for < IDLE_MAX && if once { conn.io.is_quiet() } else { conn.io.seems_quiet() };
            let conn = idle.pop()?.conn;
            if usable {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection on which an answer has ended.
    pub fn give(&self, link: &Link, mut conn: Upstream) {
        // Bytes that nobody asked for would be taken for the next answer.
        if !conn.buffer.is_empty() || !link.is_open() {
            return;
        }
        conn.shrink();
        let mut kept = self.kept();
        let kept = kept.entry(link.id()).or_insert_with(|| Kept { link: link.clone(), idle: Vec::new() });
        if kept.idle.len() < KEPT_MAX {
            kept.idle.push(Idle { conn, since: Instant::now() });
        }
    }

    /// Closes what is too old, and what leads to backends that take nothing any more: some servers wait
    /// for their idle connections before they stop.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.kept().retain(|_, kept| {
            kept.idle.retain(|idle| now.duration_since(idle.since) < IDLE_MAX);
            kept.link.is_open() && !kept.idle.is_empty()
        });
    }

    /// Closes everything.
    pub fn clear(&self) {
        self.kept().clear();
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody takes it in time, or a peer does not prove to be the one that is meant. Nothing has
    /// been asked yet.
    pub async fn connect(&self, to: &Destination<'_>) -> io::Result<Upstream> {
        let limit = if to.peer.is_some() { CONNECT_PEER } else { CONNECT_LOCAL };
        match tokio::time::timeout(limit, self.open(to)).await {
            Ok(opened) => opened.map(Conn::new),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it did not take a connection in time")),
        }
    }

    async fn open(&self, to: &Destination<'_>) -> io::Result<Wire> {
        let tcp = TcpStream::connect(to.address).await?;
        tcp.set_nodelay(true)?;
        let Some(name) = to.peer else { return Ok(Wire::Plain(tcp)) };
        socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive())?;
        let tls = self.tls.as_ref().ok_or_else(|| io::Error::other("no TLS was set up for peers"))?;
        Ok(Wire::Tls(Box::new(tls.connect(name.clone(), tcp).await?)))
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<u64, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks after a silent other side, since nobody else may in a tunnel.
pub fn keepalive() -> socket2::TcpKeepalive {
    socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4).with_retries(4)
}
