//! At most one controller's actions take effect at a time (invariant 1 of the design).
//!
//! An epoch has one controller, which the log has named; nobody obeys an epoch older than one that he has
//! obeyed, in whatever life; and the log takes orders of the current epoch only.

use std::collections::BTreeMap;

use node_core::control::{Command, Outcome};
use proto::ids::{Epoch, NodeId};

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct OneControllerAtATime {
    /// By what the log says.
    controllers: BTreeMap<Epoch, NodeId>,
    obeyed: BTreeMap<NodeId, Epoch>,
}

impl Invariant<Seen, Rest> for OneControllerAtATime {
    fn name(&self) -> &'static str {
        "authority"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        match seen {
            Seen::Applied { command, outcome, state, .. } => self.apply(command, outcome, state.epoch),
            Seen::Obeyed { node, controller, epoch, .. } => self.obey(*node, *controller, *epoch),
            Seen::Reigns { node, epoch } => {
                let named = self.controllers.get(epoch);
                (named != Some(node)).then(|| format!("{node} reigns in {epoch}, which is {named:?}'s"))
            }
            Seen::Starts { .. }
            | Seen::Lost { .. }
            | Seen::Restored { .. }
            | Seen::Serves { .. }
            | Seen::Troubled { .. }
            | Seen::Relieved { .. } => None,
        }
    }
}

impl OneControllerAtATime {
    fn apply(&mut self, command: &Command, outcome: &Outcome, current: Epoch) -> Option<String> {
        if let (Command::ControllerStarted { node }, Outcome::Started { epoch }) = (command, outcome) {
            let known = *self.controllers.entry(*epoch).or_insert(*node);
            return (known != *node).then(|| format!("{epoch} is {known}'s and {node}'s"));
        }
        let Command::Order { epoch, order } = command else { return None };
        let is_taken = !matches!(outcome, Outcome::Refused(_));
        (is_taken && *epoch != current)
            .then(|| format!("an order of {epoch} is taken in {current}: {order:?}"))
    }

    fn obey(&mut self, node: NodeId, controller: NodeId, epoch: Epoch) -> Option<String> {
        let named = self.controllers.get(&epoch).copied();
        if named != Some(controller) {
            return Some(format!("{node} obeys {controller} in {epoch}, which is {named:?}'s"));
        }
        let before = self.obeyed.insert(node, epoch);
        before.filter(|before| *before > epoch).map(|before| format!("{node} obeys {epoch} after {before}"))
    }
}

#[cfg(test)]
mod tests {
    use node_core::control::{Act, ControlState, Order};

    use super::super::examples::{applied, breaks, order};
    use super::*;

    fn started(index: u64, node: u64, epoch: u64) -> Seen {
        let state = ControlState { epoch: Epoch(epoch), ..ControlState::default() };
        let command = Command::ControllerStarted { node: NodeId(node) };
        applied(index, command, Outcome::Started { epoch: Epoch(epoch) }, state)
    }

    fn obeyed(controller: u64, epoch: u64) -> Seen {
        let act = Act::Run { app: "shop".to_owned(), release: None, attempt: 1 };
        Seen::Obeyed { node: NodeId(9), controller: NodeId(controller), epoch: Epoch(epoch), act }
    }

    fn judge(seen: &[Seen]) -> Option<usize> {
        breaks(&mut OneControllerAtATime::default(), seen)
    }

    #[test]
    fn two_controllers_of_an_epoch_and_one_of_none_are_found() {
        let reigns = |node, epoch| Seen::Reigns { node: NodeId(node), epoch: Epoch(epoch) };
        assert_eq!(judge(&[started(1, 1, 1), reigns(1, 1), started(2, 2, 2), reigns(2, 2)]), None);
        assert_eq!(judge(&[started(1, 1, 1), started(1, 2, 1)]), Some(1));
        assert_eq!(judge(&[started(1, 1, 1), reigns(2, 1)]), Some(1));
        assert_eq!(judge(&[reigns(1, 1)]), Some(0));
    }

    #[test]
    fn whoever_obeys_a_deposed_controller_is_found() {
        let both = [started(1, 1, 1), started(2, 2, 2)];
        let after = |more: &[(u64, u64)]| {
            let mut invariant = OneControllerAtATime::default();
            assert_eq!(breaks(&mut invariant, &both), None);
            let obeyed: Vec<Seen> =
                more.iter().map(|(controller, epoch)| obeyed(*controller, *epoch)).collect();
            breaks(&mut invariant, &obeyed)
        };
        assert_eq!(after(&[(1, 1), (2, 2), (2, 2)]), None);
        assert_eq!(after(&[(2, 2), (1, 1)]), Some(1));
        assert_eq!(after(&[(1, 2)]), Some(0), "another's epoch");
    }

    #[test]
    fn an_order_of_an_epoch_that_is_over_is_found_unless_it_is_refused() {
        let place = || order(1, Order::Place { groups: BTreeMap::new() });
        let state = || ControlState { epoch: Epoch(2), ..ControlState::default() };
        let refused = Outcome::Refused(node_core::control::Refusal::AlreadyInitialised);
        assert_eq!(judge(&[applied(3, place(), refused, state())]), None);
        assert_eq!(judge(&[applied(3, place(), Outcome::Done, state())]), Some(0));
    }
}
