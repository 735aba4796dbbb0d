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
