//! Once no fault is left, there is a controller whom all follow, every rollout ends, every node runs what
//! it should, groups are whole, and a release that is made then is everywhere.

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

pub struct TheFarmComesToRest;

impl Invariant<Seen, Rest> for TheFarmComesToRest {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn rest(&mut self, rest: &Rest) -> Option<String> {
        rest.unrest.clone()
    }
}
