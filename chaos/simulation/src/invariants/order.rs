//! Subscribers are told each stream in order and without a gap, or to flush.

use std::collections::BTreeMap;

use node_core::invalidation::Life;
use proto::ids::{Generation, NodeId};

use super::{ByLife, Invariant, World};
use crate::node::Seen;

#[derive(Default)]
pub struct Order {
    /// By who was told; by stream, its life and how far it was told. `None` after a flush: whatever comes
    /// next is all right, as long as it is newer.
    told: ByLife<Told>,
}

#[derive(Default)]
struct Told {
    flushed: u64,
    streams: BTreeMap<NodeId, (Generation, u64, u64)>,
}

impl Invariant for Order {
    fn name(&self) -> &'static str {
        "order"
    }

    fn see(&mut self, by: (NodeId, Generation), seen: &Seen, _world: &World<'_>) -> Option<String> {
        let told = self.told.entry(by).or_default();
        match seen {
            Seen::Flushed => {
                told.flushed += 1;
                None
            }
            Seen::Delivered(position) => {
                let now = (position.generation, position.sequence, told.flushed);
                // An agent that is back begins with empty caches, and its own stream with the number after
                // the one that stands for its earlier lives.
                let begin = if position.node == by.0 { Life::Later.begins_after() } else { 0 };
                let before = told.streams.insert(position.node, now);
                let (life, last, flushed) = before.unwrap_or((position.generation, 0, 0));
                let is_begun = before.is_none() && position.sequence == begin + 1;
                let wrong = if position.generation < life {
                    "of a life that is over"
                } else if position.generation == life && position.sequence <= last {
                    "told before"
                } else if told.flushed > flushed {
                    return None;
                } else if position.generation > life {
                    "of a new life, without a flush"
                } else if position.sequence > last + 1 && !is_begun {
                    "after a gap, without a flush"
                } else {
                    return None;
                };
                Some(format!("node {} is told {position:?}, {wrong}; before it {last} of {life}", by.0))
            }
            Seen::Members(_)
            | Seen::Published(_)
            | Seen::Took(_)
            | Seen::Complete { .. }
            | Seen::Incomplete { .. } => None,
        }
    }
}
