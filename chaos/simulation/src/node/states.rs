//! What nodes say of themselves, and how it gets around.

use std::sync::Arc;

use proto::ids::{Generation, NodeId};
use proto::peer::NodeState;

use super::{Context, Effect, Life, Message, Seen};

impl Life {
    /// Changes what this node says of itself, and tells everybody.
    pub fn publish(&mut self, cx: &mut Context<'_>, change: impl FnOnce(&mut NodeState)) {
        change(&mut self.own);
        self.own.sequence += 1;
        // It is newer than the one before by its number.
        if let Ok(taken) = self.states.merge(self.own.clone()) {
            cx.saw(Seen::Published(taken));
        }
        self.push_soon(cx);
    }

    pub(super) fn push_own(&mut self, cx: &mut Context<'_>) {
        self.push_waits = false;
        let own = Arc::new(self.own.clone());
        for (node, to) in self.live() {
            let message = Message::States(vec![Arc::clone(&own)]);
            cx.effects.push(Effect::Call { node, to, message });
        }
    }

    pub(super) fn take(&mut self, states: Vec<Arc<NodeState>>, cx: &mut Context<'_>) {
        let mut changed = false;
        for state in states {
            let node = NodeId(state.node);
            if node == self.node || self.gone.contains(&node) {
                continue;
            }
            if let Ok(taken) = self.states.merge(state.as_ref().clone()) {
                cx.saw(Seen::Took(taken));
                changed = true;
            }
        }
        if changed {
            self.compare_tails(cx);
        }
    }

    /// What the others say of their streams, against what has been applied.
    pub(super) fn compare_tails(&mut self, cx: &mut Context<'_>) {
        let heard: Vec<(NodeId, Generation, u64)> = self
            .states
            .iter()
            .filter(|(node, _)| self.members.contains_key(node))
            .map(|(node, state)| (node, Generation(state.generation), state.invalidation_sequence))
            .collect();
        for (node, generation, highest) in heard {
            let outcome = self.streams.heartbeat(node, generation, highest);
            self.deliver(outcome, cx);
        }
    }
}
