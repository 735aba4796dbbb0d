//! A read holds whatever anybody had been told before it was asked for: of writes and of other reads.

use std::collections::BTreeMap;

use proto::ids::GroupId;

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct NobodyReadsWhatWas {
    /// The newest version of a register that anybody was told.
    told: BTreeMap<(GroupId, u8), u64>,
    /// What it was when a read was asked for.
    asked: BTreeMap<u64, u64>,
}

impl Invariant<Seen, Rest> for NobodyReadsWhatWas {
    fn name(&self) -> &'static str {
        "recency"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        match seen {
            Seen::Acknowledged { group, operation, version } => {
                let told = self.told.entry((*group, operation.register)).or_default();
                *told = (*told).max(*version);
                None
            }
            Seen::Asks { group, read, register } => {
                let told = self.told.get(&(*group, *register)).copied().unwrap_or_default();
                self.asked.insert(*read, told);
                None
            }
            Seen::Answered { group, read, register, version } => {
                let told = self.told.entry((*group, *register)).or_default();
                *told = (*told).max(*version);
                let before = self.asked.remove(read).unwrap_or_default();
                (*version < before).then(|| {
                    format!("version {version} of register {register} of {group} is read; {before} was told before")
                })
            }
            Seen::Leads { .. }
            | Seen::Applied { .. }
            | Seen::Restarts { .. }
            | Seen::Recovered { .. }
            | Seen::Received { .. }
            | Seen::Refused { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{GROUP, breaks, operation};
    use super::*;

    #[test]
    fn a_read_of_what_was_before_something_that_anybody_had_been_told_is_found() {
        let judge = |seen: &[Seen]| breaks(&mut NobodyReadsWhatWas::default(), seen);
        let written = |version| Seen::Acknowledged { group: GROUP, operation: operation(version), version };
        let asks = |read| Seen::Asks { group: GROUP, read, register: 0 };
        let told = |read, version| Seen::Answered { group: GROUP, read, register: 0, version };
        assert_eq!(judge(&[written(1), asks(1), told(1, 1)]), None);
        assert_eq!(judge(&[asks(1), written(1), told(1, 0)]), None, "it was asked for before");
        assert_eq!(judge(&[written(2), asks(1), told(1, 1)]), Some(2));
        assert_eq!(judge(&[asks(1), told(1, 2), asks(2), told(2, 1)]), Some(3), "reads do not go back");
    }
}
