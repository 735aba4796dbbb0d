//! Neither a crash nor anything that arrives makes a node's groups give up, or keeps them from opening.

use super::Invariant;
use crate::groups::scene::Seen;

pub struct NobodyGivesUp;

impl Invariant for NobodyGivesUp {
    fn name(&self) -> &'static str {
        "soundness"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let Seen::Faulted { node, reason } = seen else { return None };
        Some(format!("{node}: {reason}"))
    }
}
