//! The data plane: an HTTP/1.1 proxy whose backends are snapshots handed to it.
//!
//! ```text
//!             publish(Snapshot)                         serve_peer(stream)
//!                  │ ArcSwap                                   │
//!   clients ─▶ worker thread ─▶ route ─▶ pick ─▶ pool ─┬─▶ 127.0.0.1 (own instance)
//!              (own listener,   (pure)  (pure)         └─▶ TLS ─▶ the owner's agent ─▶ its instance
//!               SO_REUSEPORT)
//! ```
//!
//! Each worker has a runtime, a listener, a pool and its own round-robin positions, so that workers
//! share nothing on the way of a request but counters. What a request meets is decided by the snapshot
//! of the moment; the state of a backend (in flight, failures, ejection) outlives snapshots.
//!
//! Architecture Invariants: this crate knows of addresses, never of gossip or releases. The codec in
//! [`http`] does no I/O. A request that may not be executed twice is sent a second time only when it is
//! certain that the first was not executed.

mod backends;
pub mod http;
mod instances;
mod link;
mod listen;
mod pick;
mod pool;
mod proxy;
mod snapshot;
mod stream;
mod table;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use backends::Backends;
use instances::Instances;
use proxy::Proxy;

pub use backends::BackendStats;
pub use snapshot::{Availability, Backend, BackendKey, Route, Snapshot, Target};

/// How a balancer works. [`Settings::default`] is for tests: it listens nowhere.
#[derive(Clone)]
pub struct Settings {
    /// Public addresses for HTTP.
    pub http: Vec<SocketAddr>,
    /// Proxy threads; 0 is one per core.
    pub workers: usize,
    /// Whose X-Forwarded-* headers are believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// For reaching other agents; without it only local targets can be served.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Clients of all workers together; more wait in the kernel's backlog. At some 50 KiB each, half a
    /// gigabyte at worst by default.
    pub connections_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { http: Vec::new(), workers: 0, trusted_proxies: Vec::new(), tls: None, connections_max: 10_000 }
    }
}

/// Why a balancer does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("can not listen on {address} (HTTP): {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("can not start a proxy thread: {0}")]
    Thread(io::Error),
}

/// A running balancer. It stops with [`Balancer::shutdown`].
pub struct Balancer {
    shared: Arc<Shared>,
    /// The owner's side runs on the agent's runtime.
    owner: Proxy,
    owner_begins: Once,
    tracker: TaskTracker,
    /// Clients may come.
    opened: CancellationToken,
    /// Nothing new is accepted.
    closing: CancellationToken,
    /// What is still under way ends.
    abort: CancellationToken,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What all workers share.
pub(crate) struct Shared {
    pub backends: Backends,
    pub instances: Instances,
    /// Some backend may have come or gone.
    pub changes: watch::Sender<()>,
    /// Answers tell clients to close.
    pub leaving: CancellationToken,
    pub trusted_proxies: Vec<IpAddr>,
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl Balancer {
    /// Takes the public addresses and starts the workers. Connections are refused until
    /// [`Balancer::open`]: an agent that knows no backends yet would answer with errors what another
    /// server could serve.
    ///
    /// # Errors
    /// When an address is taken or a thread can not be had.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let workers = match settings.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let shared = Arc::new(Shared {
            backends: Backends::default(),
            instances: Instances::default(),
            changes: watch::Sender::default(),
            leaving: CancellationToken::new(),
            trusted_proxies: settings.trusted_proxies,
            tls: settings.tls,
        });
        let (closing, abort) = (CancellationToken::new(), CancellationToken::new());
        let opened = CancellationToken::new();
        let mut threads = Vec::new();
        if !settings.http.is_empty() {
            for _ in 0..workers {
                let sockets = listen::bind_all(&settings.http)?;
                let worker = listen::Worker {
                    shared: Arc::clone(&shared),
                    sockets,
                    // The kernel spreads them evenly.
                    connections_max: settings.connections_max.div_ceil(workers),
                    opened: opened.clone(),
                    closing: closing.clone(),
                    abort: abort.clone(),
                };
                let builder = std::thread::Builder::new().name("proxy".to_owned());
                threads.push(builder.spawn(move || worker.run()).map_err(StartError::Thread)?);
            }
        }
        let owner = Proxy::new(Arc::clone(&shared));
        Ok(Self {
            shared,
            owner,
            owner_begins: Once::new(),
            tracker: TaskTracker::new(),
            opened,
            closing,
            abort,
            threads: Mutex::new(threads),
        })
    }

    /// Lets clients in.
    pub fn open(&self) {
        self.opened.cancel();
    }

    /// Replaces the routes and backends. What is being answered goes on.
    pub fn publish(&self, snapshot: Snapshot) {
        self.shared.backends.publish(snapshot);
        self.shared.changes.send_replace(());
    }

    /// What this node's proxies have seen of each backend.
    pub fn stats(&self) -> Vec<BackendStats> {
        self.shared.backends.stats()
    }

    /// From now on requests for this instance, this node's clients' and peers', may go to this address.
    pub fn serve_instance(&self, app: &str, instance: &str, address: SocketAddr) {
        self.shared.instances.serve(app, instance, address);
        self.shared.changes.send_replace(());
    }

    /// From now on no request goes to this instance, whatever a snapshot says. What is refused may be
    /// retried elsewhere, whatever it is, and idle connections to it are closed.
    pub fn stop_instance(&self, app: &str, instance: &str) {
        self.shared.instances.stop(app, instance);
        self.shared.changes.send_replace(());
    }

    /// Waits until no request is with the instance, from whatever side.
    pub async fn drained(&self, app: &str, instance: &str) {
        self.shared.instances.drained(app, instance).await;
    }

    /// Serves a connection on which another agent asks for this node's instances. Must be called in a
    /// tokio runtime.
    pub fn serve_peer<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.owner_begins.call_once(|| {
            let (proxy, closing) = (self.owner.clone(), self.closing.clone());
            self.tracker.spawn(async move { proxy.keep_pool(closing).await });
        });
        let (proxy, closing) = (self.owner.clone(), self.closing.clone());
        self.until_abort(async move { proxy.serve_peer(stream, closing).await });
    }

    /// Answers another agent's connection with the word that its request was not executed, as there are
    /// too many.
    pub fn turn_away_peer<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (proxy, closing) = (self.owner.clone(), self.closing.clone());
        self.until_abort(async move { proxy.turn_away(stream, closing).await });
    }

    fn until_abort(&self, work: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                biased;
                () = work => {}
                () = abort.cancelled() => {}
            }
        });
    }

    /// From now on every answer asks its client to close, so that who comes again comes elsewhere.
    pub fn leave(&self) {
        self.shared.leaving.cancel();
    }

    /// Accepts nothing more, lets what is under way finish for at most `grace`, then ends it.
    pub async fn shutdown(&self, grace: Duration) {
        self.leave();
        self.closing.cancel();
        self.tracker.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().filter_map(|thread| thread.join().err()).count()
        });
        let ended = async {
            self.tracker.wait().await;
            joined.await.unwrap_or(0)
        };
        tokio::pin!(ended);
        let panicked = match tokio::time::timeout(grace, &mut ended).await {
            Ok(panicked) => panicked,
            Err(_) => {
                self.abort.cancel();
                ended.await
            }
        };
        self.owner.clear_pool();
        if panicked > 0 {
            tracing::error!(panicked, "proxy threads had panicked");
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.closing.cancel();
        self.abort.cancel();
    }
}
