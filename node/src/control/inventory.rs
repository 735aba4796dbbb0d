//! What the planner is told of the farm: the membership's verdicts and the nodes' own states.

use node_consensus::GroupView;
use node_core::control::{Electorate, Inventory, NodeReport};
use node_core::membership::MemberStatus;
use proto::ids::NodeId;
use proto::peer::NodeState;

use super::Control;
use crate::members::{MemberView, View};

/// The farm at this moment; `now_ms` is the group's time.
pub(super) fn take(view: &View, group: &GroupView, now_ms: u64) -> Inventory {
    let report = |(node, member): (&NodeId, &MemberView)| {
        let dead_or_alive_ms = u64::try_from(member.member.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let since_ms = now_ms.saturating_sub(dead_or_alive_ms);
        let alive = *node == view.me || lives(member.member.state);
        let caught_up = *node == view.me || group.caught_up.contains(node);
        (*node, NodeReport::new(alive, since_ms, caught_up, present_state(member)))
    };
    Inventory {
        nodes: view.members.iter().map(report).collect(),
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
