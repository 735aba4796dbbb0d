//! What a node says of itself has one author: nobody holds what that node has not said, and nobody goes
//! back to what it said before.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::ids::{Generation, NodeId};
use proto::peer::NodeState;

use super::{ByLife, Invariant, World};
use crate::node::Seen;

#[derive(Default)]
pub struct Authorship {
    /// By node, generation and number.
    said: BTreeMap<(u64, u64, u64), Arc<NodeState>>,
    /// By who heard it, then by whom it is.
    heard: ByLife<BTreeMap<u64, (u64, u64)>>,
}

impl Invariant for Authorship {
    fn name(&self) -> &'static str {
        "authorship"
    }

    fn see(&mut self, by: (NodeId, Generation), seen: &Seen, _world: &World<'_>) -> Option<String> {
        match seen {
            Seen::Published(state) => {
                let version = (state.node, state.generation, state.sequence);
                let before = self.said.insert(version, Arc::clone(state));
                before.map(|_| format!("node {} has said two things under one number: {version:?}", by.0))
            }
            Seen::Took(state) => {
                let version = (state.node, state.generation, state.sequence);
                if self.said.get(&version) != Some(state) {
                    return Some(format!("node {} holds what was never said: {version:?}", by.0));
                }
                let newer = (state.generation, state.sequence);
                let before = self.heard.entry(by).or_default().insert(state.node, newer)?;
                (before >= newer).then(|| format!("node {} goes back from {before:?} to {version:?}", by.0))
            }
            Seen::Members(_)
            | Seen::Delivered(_)
            | Seen::Flushed
            | Seen::Complete { .. }
            | Seen::Incomplete { .. } => None,
        }
    }
}
