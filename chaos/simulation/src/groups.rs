//! The product's raft groups in virtual time: openraft, the batcher, the elections, the log and the
//! snapshots of `node-consensus`, on servers that a seed torments.
//!
//! ```text
//!   clients ──▶ Group ──▶ node-consensus ──▶ servers: disks, links, clocks
//! ```

#![allow(clippy::disallowed_methods, reason = "tasks end with the runtime of their simulation")]

mod clients;
mod farm;
mod faults;
mod invariants;
mod ledger;

use std::io::{self, Write};

use crate::{Outcome, Settings, servers};

/// Simulates the groups of a farm, and writes the trace down if that is wanted.
///
/// # Errors
/// When the runtime can not be made, or the trace can not be written.
pub fn run(settings: &Settings, out: Option<&mut dyn Write>) -> io::Result<Outcome> {
    servers::simulate(settings, out, async |scene| farm::run(settings, scene).await)
}
