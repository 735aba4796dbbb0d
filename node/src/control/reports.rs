//! What this node tells of itself because of the log, and what it learns of the others from it.

use std::time::Duration;

use node_core::control::{Command, ControlState};
use tokio_util::sync::CancellationToken;

use super::Control;
use crate::fence::EpochFence;

/// Progress is told at most so often: it is for people, and each word goes to every node.
const PACE: Duration = Duration::from_millis(250);

/// Publishes how far this node has applied the log and which epoch it has seen, and keeps the mesh's
/// addresses up to date with the log's.
pub(super) async fn run(control: Control, fence: EpochFence, stop: CancellationToken) {
    let mut group = control.group_view();
    let mut state = control.watch();
    let mut seen = fence.watch();
    let mut known = ControlState::default();
    loop {
        let now = state.borrow_and_update().clone();
        learn(&control, &known, &now);
        known = ControlState::clone(&now);
        let (applied, epoch) = (group.borrow().applied, *seen.borrow_and_update());
        control.inner.members.publish(|state| {
            state.control_applied = applied;
            state.epoch_seen = epoch.0;
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PACE) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            moved = group.wait_for(|view| view.applied != applied) => if moved.is_err() { return },
            moved = state.changed() => if moved.is_err() { return },
            moved = seen.changed() => if moved.is_err() { return },
        }
    }
}

/// Tells the mesh where the members are that are new in the log or have moved. An address that the
/// gossip has brought since is newer than a record that has not changed.
fn learn(control: &Control, known: &ControlState, now: &ControlState) {
    for (node, record) in now.members().filter(|(node, _)| *node != control.me()) {
        let before = known.nodes.get(&node).map(|record| record.peer_addr);
        if before != Some(record.peer_addr) {
            control.inner.mesh.learn(node, record.peer_addr);
        }
    }
}

/// The entry by which a node that starts tells where it is and what it is for.
pub(super) fn introduction(control: &Control) -> Option<Command> {
    let view = control.inner.members.view();
    let view = view.borrow();
    let state = view.members.get(&view.me)?.state.as_ref()?;
    Some(Command::UpdateNode {
        node: control.me(),
        peer_addr: state.peer_addr.parse().ok()?,
        gossip_addr: state.gossip_addr.parse().ok()?,
        roles: state.roles.iter().cloned().collect(),
    })
}
