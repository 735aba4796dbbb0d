//! What is known of each backend beyond the snapshot: how it has behaved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::snapshot::{Availability, BackendKey, Snapshot};

/// Failures in a row after which a backend is left out.
const EJECT_AFTER: u32 = 5;
/// For how long, the first time and at most; it doubles each time.
const EJECT_FIRST: Duration = Duration::from_secs(1);
const EJECT_DOUBLINGS_MAX: u32 = 5;

/// One backend's counters, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendStats {
    pub key: BackendKey,
    pub requests: u64,
    pub failures: u64,
    pub in_flight: u32,
    pub ejected: bool,
}

/// One backend's state, shared by all workers.
pub struct BackendState {
    requests: AtomicU64,
    failures: AtomicU64,
    in_flight: AtomicU32,
    failed_in_a_row: AtomicU32,
    ejections: AtomicU32,
    /// In ms since the process began; 0 is never.
    ejected_until_ms: AtomicU64,
    lost: watch::Sender<bool>,
}

impl BackendState {
    fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            failed_in_a_row: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            lost: watch::Sender::new(false),
        }
    }

    /// A request begins; it ends when the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { state: Arc::clone(self) }
    }

    pub fn succeeded(&self) {
        self.failed_in_a_row.store(0, Ordering::Relaxed);
        self.ejections.store(0, Ordering::Relaxed);
    }

    /// It did not answer, or not in HTTP.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if self.failed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= EJECT_AFTER {
            self.failed_in_a_row.store(0, Ordering::Relaxed);
            let times = self.ejections.fetch_add(1, Ordering::Relaxed).min(EJECT_DOUBLINGS_MAX);
            let pause = EJECT_FIRST * 2u32.pow(times);
            self.ejected_until_ms.store(now_ms() + millis(pause), Ordering::Relaxed);
        }
    }

    pub fn is_ejected(&self) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms()
    }

    /// Returns when the backend's node is lost.
    pub async fn lost(&self) {
        let mut lost = self.lost.subscribe();
        if lost.wait_for(|lost| *lost).await.is_err() {
            std::future::pending().await
        }
    }
}

/// A request that is with a backend.
pub struct InFlight {
    state: Arc<BackendState>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The states of all backends. They are looked up once a request and changed with snapshots.
#[derive(Default)]
pub struct Backends {
    states: RwLock<HashMap<BackendKey, Arc<BackendState>>>,
}

impl Backends {
    /// Makes states for new backends and forgets those of backends that are gone.
    pub fn adopt(&self, snapshot: &Snapshot) {
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = HashMap::new();
        for backend in snapshot.routes.iter().flat_map(|route| &route.backends) {
            let state = states.remove(&backend.key).unwrap_or_else(|| Arc::new(BackendState::new()));
            let lost = backend.availability == Availability::Lost;
            state.lost.send_if_modified(|known| std::mem::replace(known, lost) != lost);
            fresh.insert(backend.key.clone(), state);
        }
        *states = fresh;
    }

    pub fn get(&self, key: &BackendKey) -> Option<Arc<BackendState>> {
        self.states.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub fn stats(&self) -> Vec<BackendStats> {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        let stats = |(key, state): (&BackendKey, &Arc<BackendState>)| BackendStats {
            key: key.clone(),
            requests: state.requests.load(Ordering::Relaxed),
            failures: state.failures.load(Ordering::Relaxed),
            in_flight: state.in_flight.load(Ordering::Relaxed),
            ejected: state.is_ejected(),
        };
        let mut all: Vec<BackendStats> = states.iter().map(stats).collect();
        all.sort_by(|one, other| one.key.cmp(&other.key));
        all
    }
}

fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // From 1 on, since 0 is never.
    millis(START.get_or_init(Instant::now).elapsed()) + 1
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
