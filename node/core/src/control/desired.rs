//! What a node should run, read from the state alone.
//!
//! This is invariant 4 as a function: a node runs the stable release unless the rollout assigned it the
//! new one or took it out, and while a rollout is being turned back nobody is assigned anything. An agent
//! that starts asks this; the controller compares it with what the agent reports.

use std::collections::BTreeMap;

use proto::ids::{NodeId, ReleaseId};

use super::ControlState;
use super::record::{AppRecord, Stage};

/// What the controller wants one node to do about one app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// `None`: run no release of it.
    pub release: Option<ReleaseId>,
    /// The number that the demand goes by. It never falls, and a higher one clears a failed state.
    pub attempt: u64,
}

/// The releases that a node should run, by app. Empty for a node that is no member or runs no apps.
pub fn desired(state: &ControlState, node: NodeId) -> BTreeMap<String, ReleaseId> {
    let apps = state.apps.keys();
    apps.filter_map(|app| Some((app.clone(), demand(state, app, node)?.release?))).collect()
}

/// What a node should do about an app. `None`: nothing was ever asked of it.
pub fn demand(state: &ControlState, app: &str, node: NodeId) -> Option<Demand> {
    let runs_apps = state.nodes.get(&node)?.runs_apps();
    let record = state.apps.get(app)?;
    Some(if runs_apps { demand_of(record, node) } else { Demand { release: None, attempt: 0 } })
}

fn demand_of(record: &AppRecord, node: NodeId) -> Demand {
    let stable = Demand { release: record.stable, attempt: record.stable_attempt };
    let Some(rollout) = record.rollout.as_ref() else { return stable };
    let (is_assigned, evicted) = (rollout.assigned.contains(&node), rollout.evicted.get(&node));
    match rollout.stage {
        Stage::Rolling if is_assigned => {
            Demand { release: Some(rollout.release), attempt: *evicted.unwrap_or(&rollout.attempt) }
        }
        Stage::Rolling => evicted.map_or(stable, |name| Demand { release: None, attempt: *name }),
        Stage::RollingBack if is_assigned || evicted.is_some() => {
            Demand { release: record.stable, attempt: rollout.rollback_attempt }
        }
        Stage::Distribute | Stage::RollingBack => stable,
    }
}
