//! What the planner is told of the farm: the membership's verdicts and the nodes' own states.

use std::time::Instant;

use node_consensus::GroupView;
use node_core::control::{Electorate, Inventory, NodeReport};
use node_core::membership::MemberStatus;
use proto::ids::NodeId;
use proto::peer::NodeState;

use super::Control;
use crate::members::{MemberView, View};

/// The farm at this moment; `now_ms` is the group's time. This node hears of others since `started`: one
/// of which it has not heard yet may have died a moment before, and is given the same patience.
pub(super) fn take(view: &View, started: Instant, group: &GroupView, now_ms: u64) -> Inventory {
    let before = |since: Instant| {
        now_ms.saturating_sub(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
    };
    let unheard = |node: &NodeId| (*node, NodeReport::new(false, before(started), false, None));
    let report = |(node, member): (&NodeId, &MemberView)| {
        let since_ms = before(member.member.since);
        let alive = *node == view.me || lives(member.member.state);
        let caught_up = *node == view.me || group.caught_up.contains(node);
        (*node, NodeReport::new(alive, since_ms, caught_up, present_state(member)))
    };
    Inventory {
        nodes: view.unheard.iter().map(unheard).chain(view.members.iter().map(report)).collect(),
        electorate: Electorate { voters: group.voters.clone(), learners: group.learners.clone() },
        becoming: group.becoming.clone(),
    }
}

/// Whether every node that lives has told of itself. A controller that plans before it has heard of
/// everybody takes whom it has not heard of for absent.
pub(super) fn is_settled(view: &View) -> bool {
    view.members.values().all(|member| present_state(member).is_some() || !lives(member.member.state))
}

/// What a node says of itself in this life. What it said in the one before is no longer so.
fn present_state(member: &MemberView) -> Option<&NodeState> {
    member.state.as_deref().filter(|state| state.generation >= member.member.generation.0)
}

/// A suspicion alone ends nothing.
fn lives(state: MemberStatus) -> bool {
    match state {
        MemberStatus::Alive | MemberStatus::Suspect => true,
        MemberStatus::Down | MemberStatus::Left => false,
    }
}

/// Whether a node lives, as far as this one has heard.
pub(super) fn is_alive(control: &Control, node: NodeId) -> bool {
    let view = control.inner.members.view();
    let view = view.borrow();
    node == view.me || view.members.get(&node).is_some_and(|member| lives(member.member.state))
}

/// Whether a node is known to be dead: heard of, and dead since.
pub(super) fn is_dead(control: &Control, node: NodeId) -> Option<bool> {
    let view = control.inner.members.view();
    let view = view.borrow();
    view.members.get(&node).map(|member| !lives(member.member.state))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_member_that_has_not_been_heard_of_yet_is_dead_since_this_node_listens_and_not_for_ever() {
        let view = View { me: NodeId(1), unheard: [NodeId(2)].into(), ..View::default() };
        let started = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        let inventory = take(&view, started, &GroupView::default(), 1_000_000);
        let report = &inventory.nodes[&NodeId(2)];
        assert!(!report.alive);
        // The test itself may take its time.
        assert!((900_000..=995_000).contains(&report.since_ms), "{}", report.since_ms);
    }
}
