//! Whether a farm's files find room where labs are, which may be a small part of memory.

use std::fs;
use std::path::Path;

use super::error::RunError;
use crate::abort;
use crate::experiment::Experiment;
use crate::fault::Fault;
use crate::workload::Kind;

/// A node's databases, logs and settings, in a run of some minutes.
const NODE_MIB: u64 = 64;
/// What a file system of its own takes on top.
const DISK_MIB: u64 = 48;
/// What agents leave free of the disk that their releases are on.
const SPARE_MIB: u64 = 256;

/// Refuses an experiment for whose farm there is too little.
pub(super) fn check(experiment: &Experiment, labs: &Path) -> Result<(), RunError> {
    let app = std::env::current_exe().and_then(fs::metadata).map_or(0, |about| about.len() >> 20);
    let apps = experiment.workloads.iter().filter(|kind| matches!(kind, Kind::Requests | Kind::Deploys));
    let apps = apps.count() as u64;
    let disk = if experiment.faults().any(Fault::needs_disks) { DISK_MIB } else { 0 };
    // Each node has a release as it came, and as it runs.
    let node = NODE_MIB + disk + 2 * app * apps;
    let farm = u64::from(experiment.nodes) * node + app * apps;
    let wants_mib = farm + SPARE_MIB;
    match abort::room_mib(labs) {
        Some(has_mib) if has_mib < wants_mib => {
            Err(RunError::Room { path: labs.to_owned(), has_mib, wants_mib })
        }
        Some(_) | None => Ok(()),
    }
}
