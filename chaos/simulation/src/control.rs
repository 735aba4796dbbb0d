//! The control log and whoever controls by it, in virtual time.
//!
//! ```text
//!   operators ──▶ control log (node-consensus, ControlState) ──▶ goals of each agent ─▶ its instances
//!                      ▲  │                                         ▲
//!              orders  │  ▼                                         │ acts, fenced by the epoch
//!                    plan() of whoever leads the log ───────────────┘
//! ```
//!
//! The log, the state, the planner, the demands and the goals are the product's. What an agent's tasks do
//! between them (`node/src/control/controller.rs`, `node/src/deploy/`) is done here with the same
//! intervals. Who is alive is told by messages that are lost and late, and by a membership that is wrong
//! about some when the seed says so: it is a hint, and no promise may rest on it.

#![allow(clippy::disallowed_methods, reason = "tasks end with the runtime of their simulation")]

mod agent;
mod controller;
mod farm;
mod faults;
mod invariants;
mod log;
mod members;
mod operator;

use std::io::{self, Write};

use proto::ids::ReleaseId;

use crate::{Outcome, Settings, servers};

/// Simulates the controllers of a farm, and writes the trace down if that is wanted.
///
/// # Errors
/// When the runtime can not be made, or the trace can not be written.
pub fn run(settings: &Settings, out: Option<&mut dyn Write>) -> io::Result<Outcome> {
    servers::simulate(settings, out, async |scene| farm::run(settings, scene).await)
}

/// What becomes of a release where it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quality {
    Good,
    /// It fails on one server of four: it can become stable while that one is away.
    Flaky,
    /// It fails wherever it is started.
    Bad,
    /// It never becomes ready, and does not end either.
    Hangs,
}

/// By its number, which is its id's first byte.
fn quality(release: ReleaseId) -> Quality {
    match release.0[0] % 8 {
        3 | 5 => Quality::Flaky,
        6 => Quality::Bad,
        7 => Quality::Hangs,
        _ => Quality::Good,
    }
}

const fn release(number: u8) -> ReleaseId {
    ReleaseId([number; 32])
}
