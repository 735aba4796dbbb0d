//! What this node tells of itself: how far it has applied the log, which epoch it has seen, and, when it
//! starts, where it is.

use std::time::Duration;

use node_core::control::{Command, ControlState};
use tokio_util::sync::CancellationToken;

use super::Control;
use crate::fence::EpochFence;

/// Progress is told at most so often: it is for people, and each word goes to every node.
const PACE: Duration = Duration::from_millis(250);

/// Publishes this node's progress.
pub(super) async fn run(control: Control, fence: EpochFence, stop: CancellationToken) {
    let mut group = control.group_view();
    let mut seen = fence.watch();
    loop {
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
            moved = seen.changed() => if moved.is_err() { return },
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

/// Whether the log says what an introduction says. A node that has been removed has no say.
pub(super) fn is_told(log: &ControlState, introduction: &Command) -> bool {
    let Command::UpdateNode { node, peer_addr, gossip_addr, roles } = introduction else { return false };
    log.member(*node).is_none_or(|record| {
        (record.peer_addr, record.gossip_addr) == (*peer_addr, *gossip_addr) && record.roles == *roles
    })
}
