//! Whoever has applied the same entries knows the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use node_core::control::ControlState;

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct EverybodyKnowsTheSame {
    /// What the first replica that came so far knew then.
    states: BTreeMap<u64, Arc<ControlState>>,
}

impl Invariant<Seen, Rest> for EverybodyKnowsTheSame {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        match seen {
            Seen::Applied { node, index, command, state, .. } => {
                let known = self.states.entry(*index).or_insert_with(|| Arc::clone(state));
                (known != state).then(|| format!("{node} has another state after {index}: {command:?}"))
            }
            Seen::Restored { node, state, .. } => {
                // Newest first. Before the first entry there is the empty one.
                let is_known = **state == ControlState::default()
                    || self.states.values().rev().any(|known| known == state);
                (!is_known).then(|| format!("{node} has the snapshot of a state that nobody ever had"))
            }
            Seen::Starts { .. }
            | Seen::Lost { .. }
            | Seen::Reigns { .. }
            | Seen::Obeyed { .. }
            | Seen::Serves { .. }
            | Seen::Troubled { .. }
            | Seen::Relieved { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use node_core::control::{Command, Outcome};
    use proto::ids::NodeId;

    use super::super::examples::{applied, breaks};
    use super::*;

    #[test]
    fn another_state_after_the_same_entries_and_one_that_nobody_had_are_found() {
        let state = |groups| ControlState { groups, ..ControlState::default() };
        let after = |index, groups| {
            applied(index, Command::ControllerStarted { node: NodeId(1) }, Outcome::Done, state(groups))
        };
        let restored =
            |groups| Seen::Restored { node: NodeId(2), state: Arc::new(state(groups)), is_received: true };
        let judge = |seen: &[Seen]| breaks(&mut EverybodyKnowsTheSame::default(), seen);
        assert_eq!(judge(&[restored(0), after(1, 5), after(1, 5), after(2, 6), restored(5)]), None);
        assert_eq!(judge(&[after(1, 5), after(1, 6)]), Some(1));
        assert_eq!(judge(&[after(1, 5), restored(6)]), Some(1));
    }
}
