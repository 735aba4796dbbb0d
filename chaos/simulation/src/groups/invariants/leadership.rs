//! Leaders of a group come in the order of their votes, and each vote has one leader.
//!
//! Raft (section 5.2) has one leader a term. openraft's votes are pairs of a term and a candidate, in that
//! order: a candidate of a higher id may win a term that another has won before, which is then deposed as by
//! a higher term. So a term may have several leaders, and nobody leads after a leader of a greater vote.

use std::collections::BTreeMap;

use proto::ids::{GroupId, NodeId};

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct LeadersComeInOrder {
    /// The last one of each term.
    leaders: BTreeMap<(GroupId, u64), NodeId>,
}

impl Invariant<Seen, Rest> for LeadersComeInOrder {
    fn name(&self) -> &'static str {
        "leadership"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let Seen::Leads { group, node, term } = seen else { return None };
        let known = self.leaders.entry((*group, *term)).or_insert(*node);
        if *known > *node {
            return Some(format!("{node} leads {group} in term {term} after {known}"));
        }
        *known = *node;
        None
    }
}
