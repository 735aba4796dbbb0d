//! Among the nodes that the controller reaches at most two releases of an app serve at a time (invariant 4
//! of the design).
//!
//! A node that a fault has kept from being reached counts again once it serves what the log has it serve.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use node_core::control::{ControlState, demand};
use proto::ids::{NodeId, ReleaseId};

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

/// Of an app at a time: the stable one, and the one that is being rolled out or back.
const RELEASES_MAX: usize = 2;

#[derive(Default)]
pub struct TwoReleasesAtATime {
    serving: BTreeMap<(&'static str, NodeId), ReleaseId>,
    troubles: BTreeMap<usize, Vec<NodeId>>,
    /// Those that were not reached, and have not come to what they should be since.
    estranged: BTreeSet<NodeId>,
    /// The newest that anybody has applied.
    newest: (u64, Arc<ControlState>),
}

impl Invariant<Seen, Rest> for TwoReleasesAtATime {
    fn name(&self) -> &'static str {
        "mixture"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        match seen {
            Seen::Starts { node } | Seen::Lost { node } => self.serving.retain(|(_, known), _| known != node),
            Seen::Applied { index, state, .. } if *index > self.newest.0 => {
                self.newest = (*index, Arc::clone(state));
            }
            Seen::Serves { node, app, release } => {
                match release {
                    Some(release) => self.serving.insert((app, *node), *release),
                    None => self.serving.remove(&(*app, *node)),
                };
                self.reconcile();
                return self.judge(app);
            }
            Seen::Troubled { fault, nodes } => {
                self.estranged.extend(nodes);
                self.troubles.insert(*fault, nodes.clone());
            }
            Seen::Relieved { fault } => {
                self.troubles.remove(fault);
            }
            Seen::Applied { .. } | Seen::Reigns { .. } | Seen::Obeyed { .. } | Seen::Faulted { .. } => {}
        }
        None
    }
}

impl TwoReleasesAtATime {
    fn reconcile(&mut self) {
        let troubled: BTreeSet<NodeId> = self.troubles.values().flatten().copied().collect();
        let state = &self.newest.1;
        let is_astray = |node: &NodeId| {
            state.apps.keys().any(|app| {
                let wanted = demand(state, app, *node).and_then(|demand| demand.release);
                let serving = self.serving.iter().find(|((of, at), _)| of == app && at == node);
                serving.map(|(_, release)| *release) != wanted
            })
        };
        self.estranged.retain(|node| troubled.contains(node) || is_astray(node));
    }

    fn judge(&self, app: &str) -> Option<String> {
        let reached =
            self.serving.iter().filter(|((of, node), _)| *of == app && !self.estranged.contains(node));
        let releases: BTreeSet<u8> = reached.clone().map(|(_, release)| release.0[0]).collect();
        (releases.len() > RELEASES_MAX).then(|| {
            let all: Vec<String> =
                reached.map(|((_, node), release)| format!("{} at {node}", release.0[0])).collect();
            format!("{} releases of {app} serve: {}", releases.len(), all.join(", "))
        })
    }
}
