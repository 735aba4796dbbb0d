//! The product's raft groups in virtual time: openraft, the batcher, the elections, the log and the
//! snapshots of `node-consensus`, over simulated disks and a simulated network.
//!
//! ```text
//!   clients ──▶ Group ──▶ node-consensus ──▶ Disk (loses at a crash what was not synced)
//!                              │    ▲
//!                              ▼    │
//!                            Network (late, lost, doubled, cut)
//! ```
//!
//! openraft runs in tasks, so here it is tokio's runtime that is virtual: one thread, time that moves when
//! everybody waits, and branches of `select!` chosen by the seed. The last is not to be had of tokio unless
//! it is built with `--cfg tokio_unstable`, and so this is a build of its own.
//!
//! Design: turmoil is not used, as nothing here touches a socket: the transport is injected.

#![allow(clippy::disallowed_methods, reason = "tasks end with the runtime of their simulation")]

mod clients;
mod disk;
mod farm;
mod faults;
mod invariants;
mod ledger;
mod links;
mod scene;

use std::io::{self, Write};

use tokio::runtime::{Builder, RngSeed};

use crate::trace::Trace;
use crate::{Outcome, Settings};

/// Simulates the groups of a farm, and writes the trace down if that is wanted.
///
/// # Errors
/// When the runtime can not be made, or the trace can not be written.
pub fn run(settings: &Settings, out: Option<&mut dyn Write>) -> io::Result<Outcome> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&settings.seed.to_le_bytes()))
        .build()?;
    let ended = runtime.block_on(farm::run(settings));
    // With the tasks of everybody who has died meanwhile.
    drop(runtime);
    let mut trace = Trace::new(out);
    for (at_ms, line) in &ended.lines {
        trace.note(*at_ms, format_args!("{line}"));
    }
    let outcome = Outcome {
        seed: settings.seed,
        nodes: settings.nodes,
        trace: trace.hash(),
        events: trace.events(),
        rested_ms: ended.rested_ms,
        violations: ended.violations,
    };
    trace.finish().map(|()| outcome)
}
