//! Among the nodes that the controller reaches at most two releases of an app serve at a time (invariant 4
//! of the design).
//!
//! A node that a fault has kept from being reached counts again once it serves what the log has it serve.
//! Until then it may serve a third release, and nothing new may be begun beside it, once the controller can
//! know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use node_core::control::{Command, ControlState, Order, Outcome, demand};
use proto::ids::{NodeId, ReleaseId};

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

/// Of an app at a time: the stable one, and the one that is being rolled out or back.
const RELEASES_MAX: usize = 2;
/// What has been so for so long the controller has heard of: ten times what a node says of itself, so that
/// some of it may be late.
const KNOWN_AFTER_MS: u64 = 5_000;

#[derive(Default)]
pub struct TwoReleasesAtATime {
    /// What a node serves of an app, and since when.
    serving: BTreeMap<(&'static str, NodeId), (ReleaseId, u64)>,
    troubles: BTreeMap<usize, Vec<NodeId>>,
    /// Those that were not reached, and have not come to what they should be since.
    estranged: BTreeSet<NodeId>,
    /// When the last fault that has kept them was over.
    relieved_ms: BTreeMap<NodeId, u64>,
    /// The newest that anybody has applied.
    newest: (u64, Arc<ControlState>),
}

impl Invariant<Seen, Rest> for TwoReleasesAtATime {
    fn name(&self) -> &'static str {
        "mixture"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        match seen {
            Seen::Starts { node } | Seen::Lost { node } => {
                self.serving.retain(|(_, known), _| known != node);
            }
            Seen::Applied { index, command, outcome, state, at_ms, .. } if *index > self.newest.0 => {
                self.newest = (*index, Arc::clone(state));
                if let (Command::Order { order: Order::Assign { app, node, .. }, .. }, Outcome::Done) =
                    (&**command, outcome)
                {
                    return self.judge_assignment(app, *node, *at_ms);
                }
            }
            Seen::Serves { node, app, release, at_ms } => {
                match release {
                    Some(release) => self.serving.insert((app, *node), (*release, *at_ms)),
                    None => self.serving.remove(&(*app, *node)),
                };
                self.reconcile();
                return self.judge(app);
            }
            Seen::Troubled { fault, nodes } => {
                self.estranged.extend(nodes);
                self.troubles.insert(*fault, nodes.clone());
            }
            Seen::Relieved { fault, at_ms } => {
                for node in self.troubles.remove(fault).into_iter().flatten() {
                    self.relieved_ms.insert(node, *at_ms);
                }
            }
            Seen::Applied { .. } | Seen::Restored { .. } | Seen::Reigns { .. } | Seen::Obeyed { .. } => {}
        }
        None
    }
}

impl TwoReleasesAtATime {
    fn troubled(&self) -> BTreeSet<NodeId> {
        self.troubles.values().flatten().copied().collect()
    }

    fn reconcile(&mut self) {
        let troubled = self.troubled();
        let state = &self.newest.1;
        let is_astray = |node: &NodeId| {
            state.apps.keys().any(|app| {
                let wanted = demand(state, app, *node).and_then(|demand| demand.release);
                let serving = self.serving.iter().find(|((of, at), _)| of == app && at == node);
                serving.map(|(_, (release, _))| *release) != wanted
            })
        };
        self.estranged.retain(|node| troubled.contains(node) || is_astray(node));
    }

    fn judge(&self, app: &str) -> Option<String> {
        let reached =
            self.serving.iter().filter(|((of, node), _)| *of == app && !self.estranged.contains(node));
        let releases: BTreeSet<u8> = reached.clone().map(|(_, (release, _))| release.0[0]).collect();
        (releases.len() > RELEASES_MAX).then(|| {
            let all: Vec<String> =
                reached.map(|((_, node), (release, _))| format!("{} at {node}", release.0[0])).collect();
            format!("{} releases of {app} serve: {}", releases.len(), all.join(", "))
        })
    }

    /// A node is to run another release: no other that is reached may serve a third one.
    fn judge_assignment(&self, app: &str, assigned: NodeId, now_ms: u64) -> Option<String> {
        let record = self.newest.1.apps.get(app)?;
        let troubled = self.troubled();
        let is_known = |since_ms: u64| since_ms + KNOWN_AFTER_MS < now_ms;
        let known = self.serving.iter().filter(|((of, node), (_, since_ms))| {
            *of == app
                && is_known(*since_ms)
                && !troubled.contains(node)
                && is_known(self.relieved_ms.get(node).copied().unwrap_or(0))
        });
        let known = known.map(|(_, (release, _))| *release).chain(record.target());
        let releases: BTreeSet<u8> = known.map(|release| release.0[0]).collect();
        (releases.len() > RELEASES_MAX)
            .then(|| format!("{assigned} is to change its {app}, which makes {releases:?} that are served"))
    }
}

#[cfg(test)]
mod tests {
    use node_core::control::{AppRecord, Outcome};

    use super::super::examples::{applied, breaks, order};
    use super::*;
    use crate::control::release;

    const LATER_MS: u64 = KNOWN_AFTER_MS + 1;

    fn serves(node: u64, number: u8) -> Seen {
        Seen::Serves { node: NodeId(node), app: "shop", release: Some(release(number)), at_ms: 0 }
    }

    fn judge(seen: &[Seen]) -> Option<usize> {
        breaks(&mut TwoReleasesAtATime::default(), seen)
    }

    #[test]
    fn a_third_release_is_found_unless_its_node_is_out_of_reach_or_was_lost() {
        let troubled = || Seen::Troubled { fault: 1, nodes: vec![NodeId(1)] };
        assert_eq!(judge(&[serves(1, 1), serves(2, 2), serves(3, 2)]), None);
        assert_eq!(judge(&[serves(1, 1), serves(2, 2), serves(3, 3)]), Some(2));
        assert_eq!(judge(&[serves(1, 1), troubled(), serves(2, 2), serves(3, 3)]), None);
        assert_eq!(judge(&[serves(1, 1), Seen::Lost { node: NodeId(1) }, serves(2, 2), serves(3, 3)]), None);
    }

    /// Somebody is told to run the release 3.
    fn assigned(at_ms: u64) -> Seen {
        let record = AppRecord { stable: Some(release(3)), ..AppRecord::default() };
        let state =
            ControlState { apps: BTreeMap::from([("shop".to_owned(), record)]), ..ControlState::default() };
        let assign = Order::Assign { app: "shop".to_owned(), attempt: 1, node: NodeId(9) };
        let Seen::Applied { node, index, command, outcome, state, .. } =
            applied(1, order(1, assign), Outcome::Done, state)
        else {
            unreachable!("it is one")
        };
        Seen::Applied { node, index, command, outcome, state, at_ms }
    }

    #[test]
    fn a_third_release_that_is_begun_is_found_once_the_controller_can_know() {
        assert_eq!(judge(&[serves(1, 1), serves(2, 2), assigned(0)]), None, "nobody can know yet");
        assert_eq!(judge(&[serves(1, 1), serves(2, 2), assigned(LATER_MS)]), Some(2));
        assert_eq!(judge(&[serves(1, 1), serves(2, 1), assigned(LATER_MS)]), None);
        let troubled = Seen::Troubled { fault: 1, nodes: vec![NodeId(1)] };
        let relieved = Seen::Relieved { fault: 1, at_ms: LATER_MS };
        assert_eq!(judge(&[serves(1, 1), serves(2, 2), troubled, relieved, assigned(LATER_MS)]), None);
    }
}
