//! Getting events to the others, and getting what was missed.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use node_core::invalidation::{Event, Gap, Pulled};
use node_core::membership::MemberStatus;
use proto::ids::{Generation, NodeId};
use proto::peer::{PullInvalidationsRequest, PushInvalidationsRequest};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Filling, Invalidation, event_message, parse};

/// How long a node is waited for by somebody who does not wait: a round trip on a LAN and the time
/// for a busy agent to answer.
const NO_WAIT: Duration = Duration::from_millis(50);
/// A node that did not take an event is asked again after this, for as long as one waits.
const RETRY: Duration = Duration::from_millis(50);
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a gap is asked for before it is left to the next look at the streams.
const FILL_TRIES: u32 = 20;
/// How often the streams are looked at when nothing has been heard: a gap whose origin could not be asked
/// is not told of again by an origin that has nothing new to say.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Sends an event to every live node; who has applied it in time.
pub(super) async fn to_all(
    invalidation: &Invalidation,
    event: &Event,
    wait: Option<Duration>,
) -> Vec<NodeId> {
    let deadline = Instant::now() + wait.unwrap_or(NO_WAIT);
    let mut pushes = JoinSet::new();
    for node in others(invalidation) {
        pushes.spawn(until_applied(invalidation.clone(), node, event.clone(), deadline));
    }
    let mut applied = Vec::new();
    while let Some(push) = pushes.join_next().await {
        applied.extend(push.ok().flatten());
    }
    applied
}

/// Pushes until the node has applied the event, or the time is over. It may have to fill a gap first,
/// or be declared down meanwhile.
async fn until_applied(
    invalidation: Invalidation,
    node: NodeId,
    event: Event,
    deadline: Instant,
) -> Option<NodeId> {
    while Instant::now() < deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = left.min(CALL_TIMEOUT);
        if push(&invalidation, node, &event, limit).await {
            return Some(node);
        }
        if !others(&invalidation).contains(&node) {
            return None;
        }
        tokio::time::sleep(RETRY.min(left)).await;
    }
    None
}

async fn push(invalidation: &Invalidation, node: NodeId, event: &Event, limit: Duration) -> bool {
    let Ok(mut client) = invalidation.inner.mesh.peer(node) else { return false };
    let request = PushInvalidationsRequest { events: vec![event_message(event.clone())] };
    match tokio::time::timeout(limit, client.push_invalidations(request)).await {
        Ok(Ok(answer)) => answer.into_inner().applied.iter().any(|position| {
            position.node == event.position.node.0
                && position.generation == event.position.generation.0
                && position.sequence >= event.position.sequence
        }),
        // Told in the report as missing, if it stays so.
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Asks the origin for what is missing, until there is nothing missing or it does not answer.
pub(super) async fn fill(filling: Filling, gap: Gap) {
    let invalidation = filling.invalidation.clone();
    let rest = ask_until_filled(&invalidation, gap).await;
    drop(filling);
    if let Some(rest) = rest.filter(|rest| !others(&invalidation).contains(&rest.node)) {
        let highest = told_by(&invalidation, rest);
        invalidation.change(|streams| streams.abandon(rest, highest));
    }
}

/// What could not be had.
async fn ask_until_filled(invalidation: &Invalidation, gap: Gap) -> Option<Gap> {
    let stop = invalidation.inner.tasks.stop();
    let mut gap = gap;
    for _ in 0..FILL_TRIES {
        let pulled = tokio::select! {
            () = stop.cancelled() => return None,
            pulled = pull(invalidation, gap) => pulled,
        };
        match pulled {
            Some(pulled) => gap = invalidation.filled(gap, pulled)?,
            None => tokio::time::sleep(RETRY).await,
        }
    }
    Some(gap)
}

/// The last number that the origin of a gap is known to have given.
fn told_by(invalidation: &Invalidation, gap: Gap) -> u64 {
    let view = invalidation.inner.members.view();
    let view = view.borrow();
    let state = view.members.get(&gap.node).and_then(|member| member.state.as_ref());
    let state = state.filter(|state| state.generation == gap.generation.0);
    state.map_or(gap.from, |state| state.invalidation_sequence)
}

async fn pull(invalidation: &Invalidation, gap: Gap) -> Option<Pulled> {
    let mut client = invalidation.inner.mesh.peer(gap.node).ok()?;
    let request = PullInvalidationsRequest { node: gap.node.0, generation: gap.generation.0, from: gap.from };
    let answer = tokio::time::timeout(CALL_TIMEOUT, client.pull_invalidations(request)).await.ok()?.ok()?;
    let answer = answer.into_inner();
    let events = answer.events.into_iter().map(parse).collect::<Result<_, _>>().ok()?;
    Some(Pulled { events, oldest: answer.oldest })
}

/// Compares what nodes say of their streams with what has been applied.
pub(super) async fn watch_tails(invalidation: Invalidation, stop: CancellationToken) {
    let mut view = invalidation.inner.members.view();
    let mut gone = BTreeSet::new();
    loop {
        let news: Vec<NodeId> = view.borrow().gone.difference(&gone).copied().collect();
        if !news.is_empty() {
            invalidation.change(|streams| streams.forget(news.iter().copied()));
            gone.extend(news);
        }
        let states: Vec<(NodeId, Generation, u64)> = {
            let view = view.borrow_and_update();
            let states = view.members.values().filter_map(|member| member.state.as_ref());
            let heard = states
                .map(|state| (NodeId(state.node), Generation(state.generation), state.invalidation_sequence));
            heard.collect()
        };
        for (node, generation, highest) in states {
            invalidation.heard(node, generation, highest);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = view.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The live ones, and those that nothing has been heard of yet.
fn others(invalidation: &Invalidation) -> Vec<NodeId> {
    let view = invalidation.inner.members.view();
    let view = view.borrow();
    let live = view.members.iter().filter(|(node, member)| {
        **node != view.me && matches!(member.member.state, MemberStatus::Alive | MemberStatus::Suspect)
    });
    live.map(|(node, _)| *node).chain(view.unheard.iter().copied()).collect()
}

/// The wall-clock time that was so long ago.
pub(super) fn rfc3339_before(ago: Duration) -> String {
    let then = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(then).to_string()
}
