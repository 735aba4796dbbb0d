//! A term of a group has one leader (Raft, section 5.2: election safety).

use std::collections::BTreeMap;

use proto::ids::{GroupId, NodeId};

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct OneLeaderATerm {
    leaders: BTreeMap<(GroupId, u64), NodeId>,
}

impl Invariant<Seen, Rest> for OneLeaderATerm {
    fn name(&self) -> &'static str {
        "leadership"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let Seen::Leads { group, node, term } = seen else { return None };
        let known = *self.leaders.entry((*group, *term)).or_insert(*node);
        (known != *node).then(|| format!("{known} and {node} both lead {group} in term {term}"))
    }
}
