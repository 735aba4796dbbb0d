//! Where a group is: who holds it, who leads it, and who of them lives.
//!
//! All of it is hearsay but what this node's own replica says. A wrong answer costs a detour: whoever
//! is asked and does not lead says so.

use node_core::membership::MemberStatus;
use proto::ids::{GroupId, NodeId};

use super::hosted::Hosted;
use crate::control::Control;
use crate::members::Members;

#[derive(Clone)]
pub(super) struct Whereabouts {
    pub(super) me: NodeId,
    pub(super) control: Control,
    pub(super) members: Members,
    pub(super) hosted: Hosted,
}

impl Whereabouts {
    /// The group's leader, by the newest term that anybody speaks of: the replica here, or who says of
    /// itself that it leads.
    ///
    /// A replica here may know nothing newer because it was taken out of its group, which is the last that
    /// a replica hears of it. So it does not have the last word, and none at all once it knows.
    pub(super) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let here = self.hosted.get(group).and_then(|replica| {
            let view = replica.watch();
            let view = view.borrow();
            let belongs = view.voters.contains(&self.me) || view.learners.contains(&self.me);
            view.leader.filter(|_| belongs).map(|leader| (view.term, leader))
        });
        let view = self.members.view();
        let view = view.borrow();
        let claims = view.members.iter().filter_map(|(node, member)| {
            let groups = &member.state.as_ref()?.groups;
            let claim = groups.iter().find(|claim| claim.group == u32::from(group.0))?;
            // Its own last word is what the replica here says.
            (*node != self.me && lives(member.member.state)).then_some((claim.term, *node))
        });
        let claimed = claims.max();
        let newer = claimed.filter(|(term, _)| here.is_none_or(|(known, _)| *term > known));
        newer.or(here).map(|(_, node)| node)
    }

    /// Another node to ask when nobody is known to lead: the replicas in turn.
    pub(super) fn replica(&self, group: GroupId, turn: usize) -> Option<NodeId> {
        let state = self.control.state();
        let others = state.placement.get(&group)?.iter().copied();
        let others: Vec<NodeId> = others.filter(|node| *node != self.me && self.lives(*node)).collect();
        others.get(turn.checked_rem(others.len())?).copied()
    }

    pub(super) fn lives(&self, node: NodeId) -> bool {
        let view = self.members.view();
        let view = view.borrow();
        node == self.me || view.members.get(&node).is_some_and(|member| lives(member.member.state))
    }

    /// How many of a group's replicas live, and how many there are.
    pub(super) fn census(&self, group: GroupId) -> (usize, usize) {
        let state = self.control.state();
        let replicas = state.placement.get(&group).map_or(&[][..], Vec::as_slice);
        (replicas.iter().filter(|node| self.lives(**node)).count(), replicas.len())
    }
}

/// A suspicion alone ends nothing.
fn lives(status: MemberStatus) -> bool {
    match status {
        MemberStatus::Alive | MemberStatus::Suspect => true,
        MemberStatus::Down | MemberStatus::Left => false,
    }
}
