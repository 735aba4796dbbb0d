//! Where the members are, told to the mesh as the log has it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proto::ids::NodeId;
use tokio_util::sync::CancellationToken;

use super::Control;

/// Follows the log's addresses. One that gossip has brought since is newer than a record that has not
/// changed, so a record is told once.
pub(super) async fn run(control: Control, stop: CancellationToken) {
    let mut state = control.watch();
    let mut told: BTreeMap<NodeId, SocketAddr> = BTreeMap::new();
    loop {
        let now = state.borrow_and_update().clone();
        for (node, record) in now.members().filter(|(node, _)| *node != control.me()) {
            if told.insert(node, record.peer_addr) != Some(record.peer_addr) {
                control.inner.mesh.learn(node, record.peer_addr);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// Sees to it that every member has an address, before anybody is asked to reach it.
pub(super) fn learn_missing(control: &Control) {
    for (node, record) in control.state().members() {
        if control.inner.mesh.address(node).is_none() {
            control.inner.mesh.learn(node, record.peer_addr);
        }
    }
}
