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
