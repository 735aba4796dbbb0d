//! What everybody in a simulation shares: chance, the trace, and those who judge it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_consensus::Ambient;
use proto::ids::{GroupId, NodeId};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use super::invariants::{self, Invariant};
use super::ledger::Operation;
use crate::Violation;

/// The wall clock when the simulation begins, in microseconds since 1970: any will do.
const EPOCH_US: i64 = 1_700_000_000_000_000;
/// The same promise broken again and again says nothing new.
pub const VIOLATIONS_MAX: usize = 5;

/// Something that a promise may be about.
#[derive(Debug, Clone)]
pub enum Seen {
    /// A node believes that it leads.
    Leads {
        group: GroupId,
        node: NodeId,
        term: u64,
    },
    /// A replica has applied its `count`-th operation; `chain` is made of all up to it.
    Applied {
        group: GroupId,
        node: NodeId,
        count: u64,
        chain: u64,
        clock_ms: u64,
        operation: Operation,
    },
    /// A client was told that its operation has been executed as this version of its register.
    Acknowledged {
        group: GroupId,
        operation: Operation,
        version: u64,
    },
    /// A client was told that its operation has not been executed.
    Refused {
        group: GroupId,
        operation: Operation,
    },
    /// A client has asked to read; its answer bears the same number.
    Asks {
        group: GroupId,
        read: u64,
        register: u8,
    },
    Answered {
        group: GroupId,
        read: u64,
        register: u8,
        version: u64,
    },
    /// A node's groups have given up.
    Faulted {
        node: NodeId,
        reason: String,
    },
}

/// One simulation.
pub struct Scene {
    begun: Instant,
    dice: Mutex<StdRng>,
    book: Mutex<Book>,
}

struct Book {
    lines: Vec<(u64, String)>,
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<Violation>,
}

impl Scene {
    pub fn new(seed: u64) -> Self {
        let book = Book { lines: Vec::new(), invariants: invariants::all(), violations: Vec::new() };
        let dice = Mutex::new(StdRng::seed_from_u64(seed));
        Self { begun: Instant::now(), dice, book: Mutex::new(book) }
    }

    pub fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn draw<R>(&self, draw: impl FnOnce(&mut StdRng) -> R) -> R {
        draw(&mut self.dice.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = (self.now_us() / 1_000, what.to_string());
        self.book().lines.push(line);
    }

    /// Writes it down and has it judged.
    pub fn see(&self, seen: &Seen) {
        let at_ms = self.now_us() / 1_000;
        let mut book = self.book();
        let book = &mut *book;
        book.lines.push((at_ms, format!("{seen:?}")));
        for invariant in &mut book.invariants {
            if let Some(what) = invariant.see(seen) {
                book.lines.push((at_ms, format!("BROKEN {}: {what}", invariant.name())));
                book.violations.push(Violation { invariant: invariant.name(), at_ms, what });
            }
        }
    }

    /// Every fault has been over for long: this is what is left.
    pub fn rest(&self, rest: &invariants::Rest) {
        let at_ms = self.now_us() / 1_000;
        let mut book = self.book();
        let book = &mut *book;
        for invariant in &mut book.invariants {
            if let Some(what) = invariant.rest(rest) {
                book.violations.push(Violation { invariant: invariant.name(), at_ms, what });
            }
        }
    }

    pub fn is_broken(&self) -> bool {
        self.book().violations.len() >= VIOLATIONS_MAX
    }

    pub fn take(&self) -> (Vec<(u64, String)>, Vec<Violation>) {
        let mut book = self.book();
        (std::mem::take(&mut book.lines), std::mem::take(&mut book.violations))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server's clock on the wall, which jumps.
pub struct Wall {
    scene: Arc<Scene>,
    ahead_us: Mutex<i64>,
}

impl Wall {
    pub fn new(scene: Arc<Scene>) -> Self {
        Self { scene, ahead_us: Mutex::new(0) }
    }

    pub fn jump(&self, by_ms: i64) {
        *self.ahead_us.lock().unwrap_or_else(PoisonError::into_inner) += by_ms * 1_000;
    }
}

impl Ambient for Wall {
    fn wall_us(&self) -> u64 {
        let ahead_us = *self.ahead_us.lock().unwrap_or_else(PoisonError::into_inner);
        let base = u64::try_from(EPOCH_US + ahead_us).unwrap_or_default();
        base + self.scene.now_us()
    }

    fn random(&self) -> u64 {
        self.scene.draw(|random| random.random())
    }
}
