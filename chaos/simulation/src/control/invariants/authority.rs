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
