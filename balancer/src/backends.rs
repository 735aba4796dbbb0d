//! The backends as the workers see them: the newest snapshot, joined with how each has behaved.
//!
//! A state is kept under (node, generation, instance) and outlives snapshots; the join is done once per
//! snapshot, so that a request looks nothing up.

mod ejection;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::link::Link;
use crate::snapshot::{Availability, BackendKey, Snapshot};
use crate::table::{LiveBackend, LiveRoute, Table};
use ejection::Ejection;

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
    answers: AtomicU64,
    failures: AtomicU64,
    in_flight: AtomicU32,
    ejection: Ejection,
    lost: watch::Sender<bool>,
    /// Under which a peer's connections are kept.
    pub link: Link,
}

impl BackendState {
    fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            ejection: Ejection::default(),
            lost: watch::Sender::new(false),
            link: Link::open(),
        }
    }

    /// A request begins; it ends when the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let is_trial = self.ejection.is_suspected() && self.ejection.begin(now_ms());
        InFlight { state: Arc::clone(self), is_trial }
    }

    /// How many requests it has answered: a backend that answers others is only slow.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Whether it has been ejected since its last answer.
    pub fn is_suspected(&self) -> bool {
        self.ejection.is_suspected()
    }

    /// Whether it is left out for a request, which may or may not move elsewhere.
    pub fn is_ejected(&self, may_move: bool) -> bool {
        // The clock is only read where it matters, which is hardly ever.
        self.ejection.is_suspected() && self.ejection.is_out(now_ms(), may_move)
    }

    /// Changes to true when the backend's node is lost.
    pub fn lost(&self) -> watch::Receiver<bool> {
        self.lost.subscribe()
    }

    fn learn(&self, availability: Availability) {
        let lost = matches!(availability, Availability::Suspected | Availability::Lost);
        self.lost.send_if_modified(|known| std::mem::replace(known, lost) != lost);
        self.link.set_open(matches!(availability, Availability::Serving | Availability::Reserve));
    }
}

/// A request that is with a backend.
pub struct InFlight {
    state: Arc<BackendState>,
    is_trial: bool,
}

impl InFlight {
    pub fn state(&self) -> &BackendState {
        &self.state
    }

    pub fn succeeded(&self) {
        self.state.answers.fetch_add(1, Ordering::Relaxed);
        self.state.ejection.succeeded();
    }

    pub fn failed(&self) {
        self.state.failures.fetch_add(1, Ordering::Relaxed);
        self.state.ejection.failed(now_ms(), self.is_trial);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All backends. Changed with snapshots alone.
#[derive(Default)]
pub struct Backends {
    table: ArcSwap<Table>,
    states: Mutex<HashMap<BackendKey, Arc<BackendState>>>,
}

impl Backends {
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Makes states for new backends, keeps those of the known, and gives up on those that are gone.
    pub fn publish(&self, snapshot: Snapshot) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = HashMap::new();
        let mut live = |backend: crate::Backend| {
            let state = match fresh.get(&backend.key) {
                Some(known) => Arc::clone(known),
                None => states.remove(&backend.key).unwrap_or_else(|| Arc::new(BackendState::new())),
            };
            state.learn(backend.availability);
            fresh.insert(backend.key.clone(), Arc::clone(&state));
            LiveBackend::new(backend, state)
        };
        let mut routes = Vec::new();
        for mut route in snapshot.routes {
            let backends = std::mem::take(&mut route.backends).into_iter().map(&mut live).collect();
            routes.push(LiveRoute { route, backends });
        }
        // The one that is missing has ended, or its node came back as another: what waits for it waits
        // in vain.
        for gone in states.values() {
            gone.learn(Availability::Lost);
        }
        *states = fresh;
        self.table.store(Arc::new(Table::new(routes)));
    }

    pub fn stats(&self) -> Vec<BackendStats> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = |(key, state): (&BackendKey, &Arc<BackendState>)| BackendStats {
            key: key.clone(),
            requests: state.requests.load(Ordering::Relaxed),
            failures: state.failures.load(Ordering::Relaxed),
            in_flight: state.in_flight.load(Ordering::Relaxed),
            ejected: state.is_ejected(true),
        };
        let mut all: Vec<BackendStats> = states.iter().map(stats).collect();
        all.sort_by(|one, other| one.key.cmp(&other.key));
        all
    }
}

fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX - 1) + 1
}
