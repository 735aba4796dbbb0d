//! What the consensus module is told of the world outside, and what it tells.
//!
//! The election drivers of all groups learn here which nodes may be gone, before the leases of the
//! leaders among them run out. A hint only makes an election sooner: whether there is one is decided
//! by the replicas' pre-vote.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use node_consensus::Groups;
use node_core::membership::MemberStatus;
use proto::ids::NodeId;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Control;
use crate::members::View;
use crate::tasks::Tasks;

/// How long a broken connection says something of its node. By then the membership has a word of its
/// own, or the node is back.
const RESET_COUNTS: Duration = Duration::from_secs(2);

/// Tells the drivers whom the membership suspects and whose connections have just broken.
pub(super) async fn run(control: Control, groups: Groups, stop: CancellationToken) {
    let mut resets = control.inner.mesh.resets();
    let mut view = control.inner.members.view();
    let mut broken: BTreeMap<NodeId, Instant> = BTreeMap::new();
    loop {
        broken.retain(|_, since| since.elapsed() < RESET_COUNTS);
        let mut suspects = suspected(&view.borrow_and_update());
        suspects.extend(broken.keys());
        groups.set_suspects(suspects);
        let forget = broken.values().min().map(|since| *since + RESET_COUNTS);
        let forgotten = async {
            match forget {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = forgotten => {}
            changed = view.changed() => if changed.is_err() { return },
            reset = resets.recv() => match reset {
                Ok(node) => drop(broken.insert(node, Instant::now())),
                // What was missed the membership says a little later.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

fn suspected(view: &View) -> BTreeSet<NodeId> {
    let suspects = view.members.iter().filter(|(_, member)| match member.member.state {
        MemberStatus::Suspect | MemberStatus::Down | MemberStatus::Left => true,
        MemberStatus::Alive => false,
    });
    suspects.map(|(node, _)| *node).collect()
}

/// Ends the agent when a group's storage has failed: a replica that can not write must not go on as if
/// it could, and a write that failed is not tried again.
pub(super) async fn end_on_fault(mut fault: watch::Receiver<Option<String>>, tasks: Tasks) {
    let stop = tasks.stop();
    let failed = async { fault.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone()) };
    tokio::select! {
        () = stop.cancelled() => {}
        reason = failed => tasks.fail(reason.unwrap_or_else(|| "the groups ended before the agent".to_owned())),
    }
}
