//! A port over a store in memory, whose time a test can move.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use node_core::sessions::SessionState;
use node_resp::{Limits, Refusal, Store, StoreInfo};
use proto::log::{Op, Reply};
use proto::v1::{InvalidateResponse, MissingNode};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[derive(Clone, Default)]
pub struct Memory {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<SessionState>,
    now_ms: AtomicU64,
    batches: AtomicUsize,
    closed_to_strangers: bool,
    invalidated: Mutex<Vec<(String, Vec<Bytes>)>>,
}

impl Memory {
    /// A store without a default user.
    pub fn closed() -> Self {
        Self { inner: Arc::new(Inner { closed_to_strangers: true, ..Inner::default() }) }
    }

    pub fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.inner.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// How often the store was asked.
    pub fn batches(&self) -> usize {
        self.inner.batches.load(Ordering::SeqCst)
    }

    pub fn invalidated(&self) -> Vec<(String, Vec<Bytes>)> {
        self.inner.invalidated.lock().unwrap().clone()
    }
}

impl Store for Memory {
    fn authenticate(&self, user: &str, password: &str) -> Option<String> {
        let known = matches!((user, password), ("shop", "secret") | ("blog", "words"));
        known.then(|| user.to_owned())
    }

    fn default_keyspace(&self) -> Option<String> {
        (!self.inner.closed_to_strangers).then(String::new)
    }

    async fn execute(&self, ops: Vec<Op>) -> Vec<Reply> {
        self.inner.batches.fetch_add(1, Ordering::SeqCst);
        let now_ms = self.inner.now_ms.load(Ordering::SeqCst);
        let mut state = self.inner.state.lock().unwrap();
        ops.iter()
            .map(|op| match state.read(now_ms, op) {
                Some(reply) => reply,
                None => state.apply(now_ms, op),
            })
            .collect()
    }

    async fn invalidate(
        &self,
        keyspace: &str,
        keys: Vec<Bytes>,
        wait: Option<Duration>,
    ) -> Result<InvalidateResponse, Refusal> {
        if keys.iter().any(|key| &key[..] == b"refused") {
            return Err(Refusal("TRYAGAIN this node is leaving".to_owned()));
        }
        self.inner.invalidated.lock().unwrap().push((keyspace.to_owned(), keys));
        let missing =
            MissingNode { node: "node-3".to_owned(), reason: "down".to_owned(), last_seen: String::new() };
        Ok(InvalidateResponse {
            id: "1.2.3".to_owned(),
            applied: vec!["node-1".to_owned()],
            fenced: Vec::new(),
            missing: wait.map(|_| missing).into_iter().collect(),
        })
    }

    fn info(&self) -> StoreInfo {
        StoreInfo { holdfast: vec![("node", "node-1".to_owned())], ..StoreInfo::default() }
    }
}

/// A served port; dropping it stops it.
pub struct Port {
    pub address: SocketAddr,
    pub store: Memory,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Port {
    pub async fn open() -> Self {
        Self::with(Memory::default(), Limits::default()).await
    }

    pub async fn with(store: Memory, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let serve = node_resp::serve(listener, store.clone(), limits, tracker.clone(), stop.clone());
        tracker.spawn(serve);
        Self { address, store, tracker, stop }
    }

    /// `query`: what follows the address in a `redis://` URL, such as `?protocol=resp3`.
    pub async fn client(&self, login: &str, query: &str) -> redis::aio::MultiplexedConnection {
        let url = format!("redis://{login}{}/{query}", self.address);
        let client = redis::Client::open(url).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    pub async fn socket(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Stops as the agent does, and returns when the last connection has ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
