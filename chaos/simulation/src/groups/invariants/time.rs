//! A group's time does not go back, whoever leads and whatever the clocks on the walls do.

use std::collections::BTreeMap;

use proto::ids::GroupId;

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

#[derive(Default)]
pub struct TimeGoesOn {
    /// By the operation's place, as replicas apply them at their own pace.
    clocks: BTreeMap<(GroupId, u64), u64>,
}

impl Invariant<Seen, Rest> for TimeGoesOn {
    fn name(&self) -> &'static str {
        "time"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        let Seen::Applied { group, count, clock_ms, .. } = seen else { return None };
        self.clocks.insert((*group, *count), *clock_ms);
        let before = self.clocks.get(&(*group, count.checked_sub(1)?))?;
        (before > clock_ms).then(|| format!("{group} goes back from {before} to {clock_ms} ms"))
    }
}
