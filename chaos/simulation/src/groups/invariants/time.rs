//! A group's time does not go back, and does not run ahead, whoever leads and whatever the clocks on the walls
//! do.
//!
//! A leader bends it by half a percent at most. So what it is ahead of the simulation's own time grows no
//! faster, as long as somebody who knows it is heard by whoever leads next. That is not promised where two
//! nodes have begun again within so short a time that neither may have been told yet: they may be the majority
//! of three, and then it is what their walls say.

use std::collections::BTreeMap;

use proto::ids::{GroupId, NodeId};

use super::{Rest, Seen};
use crate::servers::jury::Invariant;

/// A part of what has gone by: the slew of `node_consensus`.
const SLEW_DIVISOR: u64 = 200;
/// How long the first entries, from which it is reckoned, may have taken to be applied.
const SLACK_MS: u64 = 5_000;
/// Longer than any fault: who lives so long has been told the time.
const TOLD_AFTER_MS: u64 = 20_000;
/// As many could be a majority.
const RESTARTS_MAX: usize = 2;

#[derive(Default)]
pub struct TimeGoesOn {
    /// By the operation's place, as replicas apply them at their own pace.
    clocks: BTreeMap<(GroupId, u64), u64>,
    restarts: BTreeMap<NodeId, u64>,
    reckoned: BTreeMap<GroupId, Reckoned>,
}

/// A moment at which a group's time was as it may be.
#[derive(Clone, Copy)]
struct Reckoned {
    at_ms: u64,
    clock_ms: u64,
}

impl Reckoned {
    /// What the group's time is later at most.
    fn by(self, at_ms: u64) -> u64 {
        let since_ms = at_ms.saturating_sub(self.at_ms);
        self.clock_ms + since_ms + since_ms / SLEW_DIVISOR
    }
}

impl TimeGoesOn {
    /// How far the time of an entry that nobody has applied before is ahead, if it is too far.
    fn runs_ahead(&mut self, group: GroupId, at_ms: u64, clock_ms: u64) -> Option<u64> {
        let reckoned = *self.reckoned.entry(group).or_insert(Reckoned { at_ms, clock_ms });
        let latest_ms = reckoned.by(at_ms);
        let is_recent = |restart_ms: &&u64| at_ms.saturating_sub(**restart_ms) < TOLD_AFTER_MS;
        if self.restarts.values().filter(is_recent).count() >= RESTARTS_MAX {
            let clock_ms = latest_ms.max(clock_ms);
            self.reckoned.insert(group, Reckoned { at_ms, clock_ms });
            return None;
        }
        clock_ms.checked_sub(latest_ms + SLACK_MS).filter(|ahead_ms| *ahead_ms > 0)
    }
}

impl Invariant<Seen, Rest> for TimeGoesOn {
    fn name(&self) -> &'static str {
        "time"
    }

    fn see(&mut self, seen: &Seen) -> Option<String> {
        if let Seen::Restarts { node, at_ms } = seen {
            self.restarts.insert(*node, *at_ms);
        }
        let Seen::Applied { group, count, clock_ms, at_ms, .. } = seen else { return None };
        if self.clocks.insert((*group, *count), *clock_ms).is_none()
            && let Some(ahead_ms) = self.runs_ahead(*group, *at_ms, *clock_ms)
        {
            return Some(format!("{group} is {ahead_ms} ms too far ahead at {count}"));
        }
        let before = self.clocks.get(&(*group, count.checked_sub(1)?))?;
        (before > clock_ms).then(|| format!("{group} goes back from {before} to {clock_ms} ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::examples::{applied, breaks};
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn time_that_goes_back_or_runs_ahead_is_found() {
        let judge = |seen: &[Seen]| breaks(&mut TimeGoesOn::default(), seen);
        assert_eq!(
            judge(&[applied(1, 1, 1, 100, 0), applied(1, 2, 2, 130, 30), applied(2, 1, 1, 100, 90)]),
            None
        );
        assert_eq!(judge(&[applied(1, 1, 1, 100, 0), applied(1, 2, 2, 99, 30)]), Some(1));
        assert_eq!(judge(&[applied(1, 1, 1, 0, 0), applied(1, 2, 2, HOUR_MS, 1_000)]), Some(1));
        // A leader that bends it by half a percent does so for an hour.
        let bent = HOUR_MS + HOUR_MS / SLEW_DIVISOR;
        assert_eq!(judge(&[applied(1, 1, 1, 0, 0), applied(1, 2, 2, bent, HOUR_MS)]), None);
    }

    #[test]
    fn whom_nobody_was_left_to_tell_goes_by_the_wall() {
        let restarts = |node, at_ms| Seen::Restarts { node: NodeId(node), at_ms };
        let ahead = [applied(1, 1, 1, 0, 0), applied(1, 2, 2, HOUR_MS, 2_000)];
        let [before, after] = &ahead;
        let mut invariant = TimeGoesOn::default();
        let outage = [before.clone(), restarts(1, 1_000), restarts(2, 1_000), after.clone()];
        assert_eq!(breaks(&mut invariant, &outage), None);
        let mut invariant = TimeGoesOn::default();
        assert_eq!(breaks(&mut invariant, &[before.clone(), restarts(1, 1_000), after.clone()]), Some(2));
    }
}
