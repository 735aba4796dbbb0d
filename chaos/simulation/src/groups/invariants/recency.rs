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
