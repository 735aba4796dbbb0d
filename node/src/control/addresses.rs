//! Where the members are, as the log has it: told to the mesh, and to the gossip, which may not have
//! heard of them. And who is none any more.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proto::ids::NodeId;
use tokio_util::sync::CancellationToken;

use super::Control;
use crate::identity::KnownPeer;

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
                let known = KnownPeer { node, peer: record.peer_addr, gossip: record.gossip_addr };
                control.inner.members.introduce(std::iter::once(known));
            }
        }
        let removed = now.nodes.iter().filter(|(_, record)| record.removed).map(|(node, _)| *node);
        control.inner.members.forget(removed);
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
