//! Once no fault is left, the voters are who they are wanted to be, each has the same state, and a write
//! is taken at every node.

use super::{Invariant, Rest};

pub struct EverybodyComesToRest;

impl Invariant for EverybodyComesToRest {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn rest(&mut self, rest: &Rest) -> Option<String> {
        rest.unrest.clone()
    }
}
