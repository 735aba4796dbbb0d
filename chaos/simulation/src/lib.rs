//! The product's own machines in virtual time, under faults that a seed decides.
//!
//! A simulation has two phases. In the first, *safety*, the network and the nodes misbehave as the seed
//! says, and no invariant may break at any moment. In the second, *liveness*, every fault is gone (but for
//! clocks that are wrong, which stay so), and everything has to converge and serve within a bounded (virtual) time. The same seed gives the same
//! trace, byte for byte, which is what makes a failure worth looking at.
//!
//! Architecture Invariant: no ambient time, no ambient entropy, no order that depends on a hasher.

mod caches;
#[cfg(tokio_unstable)]
pub mod control;
mod farm;
mod faults;
#[cfg(tokio_unstable)]
pub mod groups;
mod invariants;
mod network;
mod node;
mod schedule;
#[cfg(tokio_unstable)]
mod servers;
mod trace;

use std::io::{self, Write};

use serde::Serialize;

pub use trace::Trace;

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub seed: u64,
    /// Servers of the farm; there may be as many as a cluster has members.
    pub nodes: usize,
}

/// What became of one seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    pub seed: u64,
    pub nodes: usize,
    /// Of everything that happened: two runs of one seed have the same.
    pub trace: u64,
    /// Lines of the trace, so that a run in which nothing happened is seen.
    pub events: u64,
    /// How long the farm took to come to rest after the last fault, by its own clock.
    pub rested_ms: u64,
    pub violations: Vec<Violation>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub invariant: &'static str,
    /// Since the simulation began, by its own clock.
    pub at_ms: u64,
    pub what: String,
}

/// Simulates a farm, and writes its trace down if that is wanted.
///
/// # Errors
/// When the trace can not be written.
pub fn run(settings: &Settings, out: Option<&mut dyn Write>) -> io::Result<Outcome> {
    farm::run(settings, Trace::new(out))
}
