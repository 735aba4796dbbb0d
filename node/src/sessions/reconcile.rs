//! Brings the voters of the groups that this node leads to where the controller has placed them.
//!
//! One group after the other: each new replica has to be brought up to date, and a farm that grows
//! must not spend its disks on nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node_consensus::{GroupView, ReconfigureError};
use node_core::sessions::next_voters;
use proto::ids::{GroupId, NodeId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hosted::{Hosted, SessionGroup};
use super::whereabouts::Whereabouts;

/// Before a change that failed is tried again: the new replica may not have opened its group yet.
const RETRY: Duration = Duration::from_millis(500);
/// Looked at without an occasion: a node may have come to life that was awaited.
const PERIOD: Duration = Duration::from_secs(1);

pub(super) async fn run(hosted: Hosted, whereabouts: Whereabouts, stop: CancellationToken) {
    let mut changes = hosted.changes();
    let mut placement = whereabouts.control.watch();
    let mut not_before: BTreeMap<GroupId, Instant> = BTreeMap::new();
    loop {
        changes.borrow_and_update();
        placement.borrow_and_update();
        for (group, view) in hosted.led() {
            let rests = not_before.get(&group.id()).is_some_and(|until| Instant::now() < *until);
            let Some(voters) = next(&group, &view, &whereabouts).filter(|_| !rests) else { continue };
            let changed = tokio::select! {
                () = stop.cancelled() => return,
                changed = change(&group, &view, voters) => changed,
            };
            if changed.is_err() {
                not_before.insert(group.id(), Instant::now() + RETRY);
            }
        }
        not_before.retain(|_, until| Instant::now() < *until);
        let pause = if not_before.is_empty() { PERIOD } else { RETRY };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = placement.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn next(group: &SessionGroup, view: &GroupView, whereabouts: &Whereabouts) -> Option<BTreeSet<NodeId>> {
    let state = whereabouts.control.state();
    let placed: BTreeSet<NodeId> = state.placement.get(&group.id())?.iter().copied().collect();
    let alive = placed.iter().copied().filter(|node| whereabouts.lives(*node)).collect();
    next_voters(&placed, &view.voters, view.becoming.as_ref(), &view.learners, &alive)
}

async fn change(
    group: &SessionGroup,
    view: &GroupView,
    voters: BTreeSet<NodeId>,
) -> Result<(), ReconfigureError> {
    let id = group.id();
    tracing::info!(group = %id, from = ?view.voters, to = ?voters, "changing the replicas of a session group");
    let changed = group.reconfigure(voters, BTreeSet::new()).await;
    if let Err(error) = &changed {
        tracing::warn!(group = %id, %error, "the replicas of a session group could not be changed");
    }
    changed
}
