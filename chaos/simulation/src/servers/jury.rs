//! Who judges what is seen in a simulation.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::scene::Scene;

/// A promise, and what has to be remembered to judge it.
pub trait Invariant<S, R>: Send {
    fn name(&self) -> &'static str;

    /// What is wrong with what was seen, if anything.
    fn see(&mut self, _seen: &S) -> Option<String> {
        None
    }

    /// Every fault has been over for long: what is wrong with what is left, if anything.
    fn rest(&mut self, _rest: &R) -> Option<String> {
        None
    }
}

pub struct Jury<S, R> {
    scene: Arc<Scene>,
    invariants: Mutex<Vec<Box<dyn Invariant<S, R>>>>,
}

impl<S: fmt::Debug, R> Jury<S, R> {
    pub fn new(scene: &Arc<Scene>, invariants: Vec<Box<dyn Invariant<S, R>>>) -> Self {
        Self { scene: Arc::clone(scene), invariants: Mutex::new(invariants) }
    }

    fn invariants(&self) -> MutexGuard<'_, Vec<Box<dyn Invariant<S, R>>>> {
        self.invariants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the simulation began.
    pub fn now_ms(&self) -> u64 {
        self.scene.now_us() / 1_000
    }

    /// Writes it down and has it judged.
    pub fn see(&self, seen: &S) {
        self.scene.note(format_args!("{seen:?}"));
        self.judge(|invariant| invariant.see(seen));
    }

    pub fn rest(&self, rest: &R) {
        self.judge(|invariant| invariant.rest(rest));
    }

    fn judge(&self, mut judge: impl FnMut(&mut dyn Invariant<S, R>) -> Option<String>) {
        for invariant in self.invariants().iter_mut() {
            if let Some(what) = judge(invariant.as_mut()) {
                self.scene.is_wrong(invariant.name(), what);
            }
        }
    }
}
