//! What may never happen, one promise a file.

mod accusation;
mod authorship;
mod confirmation;
mod convergence;
mod order;

use std::collections::BTreeMap;

use proto::ids::{Generation, NodeId};

use crate::caches::Store;
use crate::faults::Weather;
use crate::node::{Life, Seen};

/// How the farm really is, which no node knows.
pub struct World<'a> {
    pub weather: Weather,
    pub lives: &'a [Option<Life>],
    /// Who lives on a host now or, if nobody does, lived there last.
    pub nodes: &'a [NodeId],
    pub store: &'a Store,
}

impl World<'_> {
    pub fn life_of(&self, node: NodeId) -> Option<&Life> {
        self.lives.iter().flatten().find(|life| life.node == node)
    }
}

/// A promise, and what has to be remembered to judge it.
pub trait Invariant {
    fn name(&self) -> &'static str;

    /// Something was seen by one life of a node. What is wrong with it, if anything.
    fn see(&mut self, _by: (NodeId, Generation), _seen: &Seen, _world: &World<'_>) -> Option<String> {
        None
    }

    /// Every fault has been over for long.
    fn rest(&mut self, _world: &World<'_>) -> Option<String> {
        None
    }
}

pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(accusation::NobodyAliveIsDeclaredDead),
        Box::new(authorship::Authorship::default()),
        Box::new(order::Order::default()),
        Box::new(confirmation::NobodyServesWhatWasConfirmedStale),
        Box::new(convergence::EverybodyKnowsEverything),
    ]
}

/// What keeps the farm from rest, if anything.
pub fn unrest(world: &World<'_>) -> Option<String> {
    convergence::unrest(world)
}

/// By node and life.
type ByLife<T> = BTreeMap<(NodeId, Generation), T>;
