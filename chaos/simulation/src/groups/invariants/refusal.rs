//! What a client was told was not executed is executed never, so that it may ask again.

use std::collections::BTreeSet;

use proto::ids::GroupId;

use super::{Rest, Seen};
use crate::groups::ledger::Operation;
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct WhatWasRefusedIsNotExecuted {
    refused: BTreeSet<(GroupId, Operation)>,
    applied: BTreeSet<(GroupId, Operation)>,
}

impl Invariant<Seen, Rest> for WhatWasRefusedIsNotExecuted {
    fn name(&self) -> &'static str {
        "refusal"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let (group, operation) = match seen {
            Seen::Refused { group, operation } => {
                self.refused.insert((*group, *operation));
                (group, operation)
            }
            Seen::Applied { group, operation, .. } => {
                let is_new = self.applied.insert((*group, *operation));
                if !is_new {
                    return None;
                }
                (group, operation)
            }
            Seen::Leads { .. }
            | Seen::Restarts { .. }
            | Seen::Recovered { .. }
            | Seen::Received { .. }
            | Seen::Acknowledged { .. }
            | Seen::Asks { .. }
            | Seen::Answered { .. } => return None,
        };
        let both = (*group, *operation);
        (self.refused.contains(&both) && self.applied.contains(&both))
            .then(|| format!("{operation:?} of {group} was refused, and is executed"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{GROUP, applied, breaks, operation};
    use super::*;

    #[test]
    fn what_was_refused_and_is_executed_is_found_in_either_order() {
        let judge = |seen: &[Seen]| breaks(&mut WhatWasRefusedIsNotExecuted::default(), seen);
        let refused = |number| Seen::Refused { group: GROUP, operation: operation(number) };
        assert_eq!(judge(&[refused(1), applied(1, 1, 2, 0, 0), applied(2, 1, 2, 0, 0)]), None);
        assert_eq!(judge(&[refused(1), applied(1, 1, 1, 0, 0)]), Some(1));
        assert_eq!(judge(&[applied(1, 1, 1, 0, 0), refused(1)]), Some(1));
    }
}
