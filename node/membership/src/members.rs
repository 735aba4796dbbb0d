//! What foca knows, together with what it can not know, as the list that others are told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use foca::State;
use proto::ids::{Generation, NodeId};
use proto::limits::MEMBERS_MAX;

use crate::identity::Id;
use crate::{Member, MemberStatus};

/// How long a refused connection counts against a node of which nothing else is heard. Well beyond
/// the time in which SWIM comes to its own verdict.
const UNREACHABLE_COUNTS: Duration = Duration::from_secs(5);

/// The members as they were told last, and the hints about them.
#[derive(Default)]
pub struct Members {
    told: BTreeMap<NodeId, Member>,
    unreachable: BTreeMap<NodeId, Instant>,
    /// Lives that have said goodbye.
    left: BTreeMap<NodeId, (Generation, u32)>,
}

impl Members {
    /// A connection to the node was refused.
    pub fn unreachable(&mut self, node: NodeId, now: Instant) {
        if self.told.contains_key(&node) {
            self.unreachable.insert(node, now);
        }
    }

    /// An authenticated datagram has come from the node.
    pub fn heard(&mut self, node: NodeId) {
        self.unreachable.remove(&node);
    }

    /// This life of the node goes of its own will.
    pub fn left(&mut self, id: &Id) {
        if self.left.len() < MEMBERS_MAX || self.left.contains_key(&id.node) {
            self.left.insert(id.node, (id.generation, id.renewal));
        }
    }

    /// Compares with what was told last. The new list, if it differs.
    pub fn update<'a>(
        &mut self,
        members: impl Iterator<Item = &'a foca::Member<Id>>,
        now: Instant,
    ) -> Option<Vec<Member>> {
        self.unreachable.retain(|_, since| now.duration_since(*since) < UNREACHABLE_COUNTS);
        let mut fresh: BTreeMap<NodeId, Member> = BTreeMap::new();
        for member in members {
            let mut seen = self.see(member, now);
            if let Some(before) = self.told.get(&seen.node)
                && before.state == seen.state
                && before.generation == seen.generation
            {
                seen.since = before.since;
            }
            fresh.insert(seen.node, seen);
        }
        // Foca has forgotten the others as well.
        self.left.retain(|node, _| fresh.contains_key(node));
        if fresh == self.told {
            return None;
        }
        self.told = fresh;
        Some(self.told.values().cloned().collect())
    }

    fn see(&self, member: &foca::Member<Id>, now: Instant) -> Member {
        let id = member.id();
        let state = match member.state() {
            State::Alive if self.unreachable.contains_key(&id.node) => MemberStatus::Suspect,
            State::Alive => MemberStatus::Alive,
            State::Suspect => MemberStatus::Suspect,
            State::Down if self.left.get(&id.node) == Some(&(id.generation, id.renewal)) => {
                MemberStatus::Left
            }
            State::Down => MemberStatus::Down,
        };
        Member {
            node: id.node,
            generation: id.generation,
            zone: id.zone.clone(),
            gossip: id.gossip,
            peer: id.peer,
            state,
            since: now,
        }
    }
}
