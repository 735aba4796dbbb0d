//! What was acknowledged has been executed, and is there at the end.

use std::collections::BTreeSet;

use proto::ids::GroupId;

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct WhatWasAcknowledgedStays {
    acknowledged: BTreeSet<(GroupId, u64)>,
}

impl Invariant<Seen, Rest> for WhatWasAcknowledgedStays {
    fn name(&self) -> &'static str {
        "durability"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        if let Seen::Acknowledged { group, operation, .. } = seen {
            self.acknowledged.insert((*group, operation.number));
        }
        None
    }

    fn rest(&mut self, rest: &Rest) -> Option<String> {
        let there: BTreeSet<(GroupId, u64)> = rest
            .finals
            .iter()
            .flat_map(|(group, state)| state.applied.iter().map(|number| (*group, *number)))
            .collect();
        let lost: Vec<_> = self.acknowledged.difference(&there).collect();
        let (group, number) = lost.first()?;
        Some(format!(
            "{} of {} acknowledged are lost, such as {number} of {group}",
            lost.len(),
            self.acknowledged.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{GROUP, breaks, operation};
    use super::*;
    use crate::groups::ledger::State;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_acknowledged_and_is_gone_is_found() {
        let mut invariant = WhatWasAcknowledgedStays::default();
        let told =
            |number| Seen::Acknowledged { group: GROUP, operation: operation(number), version: number };
        assert_eq!(breaks(&mut invariant, &[told(1), told(2)]), None);
        let rest = |applied: &[u64]| {
            let state = State { applied: applied.to_vec(), ..State::default() };
            Rest { unrest: None, finals: BTreeMap::from([(GROUP, state)]) }
        };
        assert_eq!(invariant.rest(&rest(&[2, 3, 1])), None);
        let lost = invariant.rest(&rest(&[1])).unwrap();
        assert!(lost.starts_with("1 of 2 acknowledged are lost, such as 2"), "{lost}");
        assert!(invariant.rest(&Rest { unrest: None, finals: BTreeMap::new() }).is_some());
    }
}
