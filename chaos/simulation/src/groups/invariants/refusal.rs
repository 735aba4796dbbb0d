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
