//! What everybody in a simulation shares: chance, time, and the trace.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use node_consensus::Ambient;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

use crate::Violation;

/// The wall clock when the simulation begins, in microseconds since 1970: any will do.
const EPOCH_US: i64 = 1_700_000_000_000_000;
/// The same promise broken again and again says nothing new.
pub const VIOLATIONS_MAX: usize = 5;

/// One simulation.
pub struct Scene {
    begun: Instant,
    dice: Mutex<StdRng>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    lines: Vec<(u64, String)>,
    violations: Vec<Violation>,
}

impl Scene {
    pub fn new(seed: u64) -> Self {
        let dice = Mutex::new(StdRng::seed_from_u64(seed));
        Self { begun: Instant::now(), dice, book: Mutex::default() }
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

    /// A promise was broken.
    pub fn is_wrong(&self, invariant: &'static str, what: String) {
        self.note(format_args!("BROKEN {invariant}: {what}"));
        let at_ms = self.now_us() / 1_000;
        self.book().violations.push(Violation { invariant, at_ms, what });
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

/// How many clocks are wrong from the beginning, and by how much: whoever has another on its wall leads next.
const WRONG: f64 = 0.25;
pub const WRONG_MS: i64 = 3_600_000;

/// A server's clock on the wall, which jumps.
pub struct Wall {
    scene: Arc<Scene>,
    ahead_us: Mutex<i64>,
}

impl Wall {
    /// Most are right at first.
    pub fn new(scene: Arc<Scene>) -> Self {
        let ahead_ms =
            scene.draw(
                |random| {
                    if random.random_bool(WRONG) { random.random_range(-WRONG_MS..=WRONG_MS) } else { 0 }
                },
            );
        let wall = Self { scene, ahead_us: Mutex::new(0) };
        wall.jump(ahead_ms);
        wall
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
