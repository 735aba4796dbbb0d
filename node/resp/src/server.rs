//! The port: connections come in, up to a number, and end with the agent.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::client::{Client, Clients};
use crate::command::default_login;
use crate::connection::Connection;
use crate::frame::Protocol;
use crate::store::Store;

/// What all connections together, and each alone, may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Redis's default. One that idles costs about 10 KB.
    pub connections_max: usize,
    /// How long a stranger may take to authenticate.
    pub login_timeout: Duration,
    /// How long the rest of a request that has begun may take to come.
    pub request_timeout: Duration,
    /// How long a client may leave its answers unread.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            login_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
        }
    }
}

/// What the connections have in common.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) clients: Clients,
}

/// After the system refused a connection for want of descriptors or memory: some will be freed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves clients until told to stop. Connections that are executing a command answer it first; they
/// are tasks of `tracker` and outlive this call.
pub async fn serve<S: Store>(
    listener: TcpListener,
    store: S,
    limits: Limits,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let shared = Arc::new(Shared { limits, clients: Clients::default() });
    let room = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "the Redis port can not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            tracing::debug!(%address, "the Redis port is full");
            tracker.spawn(refuse(stream));
            continue;
        };
        match Visit::begin(&stream, address, &store, &shared, permit) {
            Err(error) => tracing::debug!(%address, %error, "a Redis connection broke at once"),
            Ok((visit, client)) => {
                let span = tracing::debug_span!("redis", client = client.id);
                let connection =
                    Connection::new(stream, client, store.clone(), Arc::clone(&shared), stop.clone());
                let life = async move {
                    connection.run().await;
                    drop(visit);
                };
                tracker.spawn(life.instrument(span));
            }
        }
    }
}

/// A client's place among the clients, given back however its connection ends.
struct Visit {
    id: u64,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Visit {
    fn begin<S: Store>(
        stream: &TcpStream,
        address: SocketAddr,
        store: &S,
        shared: &Arc<Shared>,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<(Self, Client)> {
        // Answers are written whole: waiting for more would only delay them.
        stream.set_nodelay(true)?;
        let client = Client {
            id: shared.clients.next_id(),
            address,
            local: stream.local_addr()?,
            connected: Instant::now(),
            protocol: Protocol::default(),
            login: default_login(store.default_keyspace()),
            database: 0,
            name: Bytes::new(),
            library_name: Bytes::new(),
            library_version: Bytes::new(),
        };
        shared.clients.note(&client);
        Ok((Self { id: client.id, shared: Arc::clone(shared), _permit: permit }, client))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.shared.clients.forget(self.id);
    }
}

/// Redis's words for a full house. One small write into an empty buffer: it never waits.
async fn refuse(mut stream: TcpStream) {
    let told = stream.write_all(b"-ERR max number of clients reached\r\n").await;
    if let Err(error) = told {
        tracing::debug!(%error, "a client did not hear that the Redis port is full");
    }
}
