//! Once an invalidation is called complete no member serves anything older.

use proto::ids::{Generation, NodeId};

use super::{Invariant, World};
use crate::node::Seen;

pub struct NobodyServesWhatWasConfirmedStale;

impl Invariant for NobodyServesWhatWasConfirmedStale {
    fn name(&self) -> &'static str {
        "confirmation"
    }

    fn see(&mut self, by: (NodeId, Generation), seen: &Seen, world: &World<'_>) -> Option<String> {
        let Seen::Complete { key, version, members } = seen else { return None };
        let stale = members
            .iter()
            .filter_map(|node| world.life_of(*node))
            .find(|life| life.cache.is_older(*key, *version))?;
        Some(format!(
            "node {} says that version {version} of value {key} is everywhere; node {} serves an older one",
            by.0, stale.node
        ))
    }
}
