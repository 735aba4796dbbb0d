//! How news of members and states travels.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use node_core::membership::MemberStatus;
use node_membership::Member;
use prost::Message as _;
use proto::ids::NodeId;
use proto::limits::MESSAGE_BYTES_MAX;
use proto::peer::{NodeState, PushStatesRequest, SyncStatesRequest};
use rand::seq::IndexedRandom as _;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Members;
use crate::identity::KnownPeer;
use crate::tasks::Tasks;

/// Changes of one's own state that come together go out together.
const COALESCE: Duration = Duration::from_millis(2);
/// A peer that takes longer gets the state by anti-entropy.
const PUSH_TIMEOUT: Duration = Duration::from_secs(1);
const SYNC_TIMEOUT: Duration = Duration::from_secs(2);
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Members that are not alive are announced to again and again, a few at a time: one that has just
/// started, and both sides of a partition, find each other by it.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);
const ANNOUNCED_MAX: usize = 5;

/// Announces this node to members that it knows of and does not hear, and to the configured seeds
/// while it hears nobody.
pub(super) async fn announce(members: Members, seeds: Vec<SocketAddr>, stop: CancellationToken) {
    loop {
        let silent: Vec<KnownPeer> = {
            let table = members.table();
            let alive = |node: &NodeId| {
                table.members.get(node).is_some_and(|member| member.state == MemberStatus::Alive)
            };
            table.known.values().filter(|peer| !alive(&peer.node)).copied().collect()
        };
        let chosen: Vec<KnownPeer> =
            silent.choose_multiple(&mut rand::rng(), ANNOUNCED_MAX).copied().collect();
        for peer in chosen {
            members.inner.gossip.announce(Some(peer.node), peer.gossip);
        }
        if live(&members).is_empty() {
            for seed in &seeds {
                members.inner.gossip.announce(None, *seed);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ANNOUNCE_EVERY) => {}
        }
    }
}

/// Takes over what the gossip thread tells.
pub(super) async fn follow_gossip(
    members: Members,
    mut told: watch::Receiver<Vec<Member>>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = told.changed() => if changed.is_err() {
                if members.inner.has_left.load(Ordering::Relaxed) {
                    return stop.cancelled().await;
                }
                // With a list of members that never changes again nothing works, and nobody would notice.
                return tracing::error!("the gossip thread has ended, of a fault of its own");
            },
        }
        let list = told.borrow_and_update().clone();
        {
            let mut table = members.table();
            for member in list.iter().filter(|member| !table.gone.contains(&member.node)) {
                members.inner.mesh.learn(member.node, member.peer);
            }
            let me = table.members.remove(&members.inner.me);
            table.members = list.into_iter().map(|member| (member.node, member)).collect();
            if let Some(me) = me {
                table.members.insert(me.node, me);
            }
        }
        members.refresh();
    }
}

/// Tells the gossip of connections that broke and could not be made again.
pub(super) async fn follow_resets(members: Members, stop: CancellationToken) {
    let mut resets = members.inner.mesh.resets();
    loop {
        let reset = tokio::select! {
            () = stop.cancelled() => return,
            reset = resets.recv() => reset,
        };
        match reset {
            Ok(node) => members.inner.gossip.report_unreachable(node),
            // The gossip finds out by itself.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return stop.cancelled().await,
        }
    }
}

/// Pushes this node's state to all live nodes whenever it has changed.
pub(super) async fn push_own(members: Members, tasks: Tasks) {
    let stop = tasks.stop();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = members.inner.own_changed.notified() => {}
        }
        tokio::time::sleep(COALESCE).await;
        let own = members.table().own.clone();
        let mut pushes = JoinSet::new();
        for node in live(&members) {
            pushes.spawn(push(members.clone(), node, vec![own.clone()]));
        }
        // Not waited for: a slow peer must not delay the news to the others, and every push ends by
        // itself.
        tasks.tracker().spawn(async move { while pushes.join_next().await.is_some() {} });
    }
}

/// Compares with one random node each second, and brings both sides to the same state.
pub(super) async fn anti_entropy(members: Members, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SYNC_EVERY) => {}
        }
        let chosen = live(&members).choose(&mut rand::rng()).copied();
        if let Some(node) = chosen {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sync(&members, node) => {}
            }
        }
    }
}

async fn sync(members: &Members, node: NodeId) {
    let Ok(mut client) = members.inner.mesh.peer(node) else { return };
    let have = members.table().states.digest();
    let call = client.sync_states(SyncStatesRequest { have });
    // A peer that does not answer is the gossip's business.
    let Ok(Ok(answer)) = tokio::time::timeout(SYNC_TIMEOUT, call).await else { return };
    let answer = answer.into_inner();
    members.take(node, answer.newer);
    let wanted: Vec<Arc<NodeState>> = {
        let table = members.table();
        answer.want.iter().filter_map(|wanted| table.states.get(NodeId(*wanted)).cloned()).collect()
    };
    if !wanted.is_empty() {
        let states = fitting(wanted).iter().map(|state| state.as_ref().clone()).collect();
        push(members.clone(), node, states).await;
    }
}

async fn push(members: Members, node: NodeId, states: Vec<NodeState>) {
    let Ok(mut client) = members.inner.mesh.peer(node) else { return };
    let call = client.push_states(PushStatesRequest { states });
    match tokio::time::timeout(PUSH_TIMEOUT, call).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => tracing::debug!(%node, %status, "a state was not taken"),
        Err(_) => tracing::debug!(%node, "a state was not taken in time"),
    }
}

/// As many states as a message may hold; the rest comes with a later round.
pub(super) fn fitting(states: Vec<Arc<NodeState>>) -> Vec<Arc<NodeState>> {
    let mut bytes = 0;
    let fits = states.into_iter().take_while(|state| {
        bytes += state.encoded_len();
        bytes < MESSAGE_BYTES_MAX / 2
    });
    fits.collect()
}

/// A suspect is told as well: it may be the one that hears this node only.
fn live(members: &Members) -> Vec<NodeId> {
    let table = members.table();
    let others = table.members.values().filter(|member| member.node != members.inner.me);
    let lives = |member: &&Member| matches!(member.state, MemberStatus::Alive | MemberStatus::Suspect);
    others.filter(lives).map(|member| member.node).collect()
}
