//! The n-th operation of a group is the same at every replica, and no operation is executed twice.

use std::collections::BTreeMap;

use proto::ids::GroupId;

use super::{Rest, Seen};
use crate::groups::ledger::Operation;
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct EverybodyAppliesTheSame {
    /// What the first replica that came so far has made of all operations up to this one.
    chains: BTreeMap<(GroupId, u64), u64>,
    places: BTreeMap<(GroupId, Operation), u64>,
}

impl Invariant<Seen, Rest> for EverybodyAppliesTheSame {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let (Seen::Applied { group, node, count, chain, .. }
        | Seen::Recovered { group, node, count, chain }
        | Seen::Received { group, node, count, chain }) = seen
        else {
            return None;
        };
        let known = *self.chains.entry((*group, *count)).or_insert(*chain);
        if known != *chain {
            return Some(format!("{node} has another {group} after {count} operations: {seen:?}"));
        }
        let Seen::Applied { operation, .. } = seen else { return None };
        let place = *self.places.entry((*group, *operation)).or_insert(*count);
        (place != *count).then(|| format!("{group} executes {operation:?} as {place} and as {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{GROUP, applied, breaks};
    use super::*;
    use proto::ids::NodeId;

    #[test]
    fn another_state_and_an_operation_at_two_places_are_found() {
        let judge = |seen: &[Seen]| breaks(&mut EverybodyAppliesTheSame::default(), seen);
        let recovered = |chain| Seen::Recovered { group: GROUP, node: NodeId(2), count: 1, chain };
        assert_eq!(judge(&[applied(1, 1, 7, 0, 0), applied(2, 1, 7, 0, 0), recovered(1)]), None);
        assert_eq!(judge(&[applied(1, 1, 7, 0, 0), recovered(9)]), Some(1));
        assert_eq!(judge(&[applied(1, 1, 7, 0, 0), applied(1, 2, 7, 0, 0)]), Some(1));
    }
}
