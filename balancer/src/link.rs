//! Under what connections are kept, and whether they still may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One way to an instance, for as long as requests may go there. Clones are the same link.
///
/// An address would not do: another instance may get it, and what was opened to the old one must be
/// closed when that one drains, since some servers wait at their end for idle connections.
#[derive(Debug, Clone)]
pub struct Link {
    id: u64,
    open: Arc<AtomicBool>,
}

impl Link {
    pub fn open() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), open: Arc::new(AtomicBool::new(true)) }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }
}
