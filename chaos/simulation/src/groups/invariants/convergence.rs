//! Once no fault is left, the voters are who they are wanted to be, each has the same state, and a write
//! is taken at every node.

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

pub struct EverybodyComesToRest;

impl Invariant<Seen, Rest> for EverybodyComesToRest {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn rest(&mut self, rest: &Rest) -> Option<String> {
        rest.unrest.clone()
    }
}
