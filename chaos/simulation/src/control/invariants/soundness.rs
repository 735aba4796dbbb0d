//! Neither a crash nor anything that arrives makes a node's log give up, or keeps it from opening.

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

pub struct NobodyGivesUp;

impl Invariant<Seen, Rest> for NobodyGivesUp {
    fn name(&self) -> &'static str {
        "soundness"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let Seen::Faulted { node, reason } = seen else { return None };
        Some(format!("{node}: {reason}"))
    }
}
