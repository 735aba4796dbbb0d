//! Nobody begins to lead after a leader of a greater vote.
//!
//! Raft (section 5.2) has one leader a term. openraft's votes are pairs of a term and a candidate, in that
//! order: a candidate of a higher id may win a term that another has won before, which is then deposed as by
//! a higher term. So a term may have several leaders, each of a higher id than the one before. A leader that
//! is restarted resumes its own leadership, although a later one of the term may have deposed it without its
//! knowledge: it believes so until somebody answers, and serves nothing by it (see `recency`). So only what
//! a node tells of a term for the first time is looked at.
//!
//! That two lead by one vote can not be seen here, as a vote names its leader.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{GroupId, NodeId};

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct LeadersComeInOrder {
    /// The last one of each term.
    leaders: BTreeMap<(GroupId, u64), NodeId>,
    told: BTreeSet<(GroupId, u64, NodeId)>,
}

impl Invariant<Seen, Rest> for LeadersComeInOrder {
    fn name(&self) -> &'static str {
        "leadership"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let Seen::Leads { group, node, term } = seen else { return None };
        if !self.told.insert((*group, *term, *node)) {
            return None;
        }
        let known = self.leaders.entry((*group, *term)).or_insert(*node);
        if *known > *node {
            return Some(format!("{node} leads {group} in term {term} after {known}"));
        }
        *known = *node;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(leaders: &[(u64, u64)]) -> Vec<bool> {
        let mut invariant = LeadersComeInOrder::default();
        let leads =
            |(node, term): &(u64, u64)| Seen::Leads { group: GroupId(1), node: NodeId(*node), term: *term };
        leaders.iter().map(|leader| invariant.see(&leads(leader)).is_some()).collect()
    }

    #[test]
    fn a_restarted_leader_may_believe_that_it_still_leads_and_nobody_else_may_come_late() {
        assert_eq!(told(&[(1, 5), (3, 5), (1, 5), (2, 6)]), [false; 4]);
        assert_eq!(told(&[(1, 5), (3, 5), (2, 5)]), [false, false, true]);
    }
}
