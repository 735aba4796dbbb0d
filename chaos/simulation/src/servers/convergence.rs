//! Once no fault is left, everything comes to rest.

use super::jury::Invariant;

/// What may be left when every fault has been over for long.
pub trait Restless {
    /// What keeps it from rest.
    fn unrest(&self) -> Option<&str>;
}

pub struct EverythingComesToRest;

impl<S, R: Restless> Invariant<S, R> for EverythingComesToRest {
    fn name(&self) -> &'static str {
        "convergence"
    }

    fn rest(&mut self, rest: &R) -> Option<String> {
        rest.unrest().map(str::to_owned)
    }
}
