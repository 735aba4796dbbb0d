//! Which commands a node may send to the log's leader.
//!
//! A compromised ordinary node must not become the controller, nor speak for another node. So the
//! commands by which a cluster is founded and ruled are never taken from the mesh at all: the leader
//! writes them itself. What is left is what any member's operator may ask for.

use node_core::control::{Command, ControlState};
use proto::ids::NodeId;

/// Why a member may not say this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AccessError {
    #[error("node {0} is not a member of this cluster")]
    NotAMember(NodeId),
    #[error("only the leader of the control log itself may write this")]
    LeaderOnly,
    #[error("node {from} may not speak for node {named}")]
    Impersonation { from: NodeId, named: NodeId },
}

/// Whether the node that the certificate names may have this command written.
pub(super) fn check(from: NodeId, command: &Command, state: &ControlState) -> Result<(), AccessError> {
    state.member(from).ok_or(AccessError::NotAMember(from))?;
    match command {
        Command::Genesis { .. } | Command::ControllerStarted { .. } | Command::Order { .. } => {
            Err(AccessError::LeaderOnly)
        }
        Command::UpdateNode { node, .. } if *node != from => {
            Err(AccessError::Impersonation { from, named: *node })
        }
        Command::UpdateNode { .. }
        | Command::AdmitNode { .. }
        | Command::CreateToken { .. }
        | Command::RevokeToken { .. }
        | Command::RegisterRelease { .. }
        | Command::SetTarget { .. }
        | Command::Rollback { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use node_core::control::{Fingerprint, NewNode, Order};
    use proto::ids::{ClusterId, Epoch};

    use super::*;

    fn founded() -> ControlState {
        let mut state = ControlState::default();
        let first = NewNode {
            name: "node-1".to_owned(),
            zone: "a".to_owned(),
            region: "r".to_owned(),
            peer_addr: ([127, 0, 0, 1], 1).into(),
            gossip_addr: ([127, 0, 0, 1], 2).into(),
            roles: ["voter".to_owned()].into(),
            csr_hash: Fingerprint([1; 32]),
        };
        state.apply(2, 0, &Command::Genesis { cluster: ClusterId([1; 16]), groups: 1, first, token: None });
        state.apply(3, 0, &Command::ControllerStarted { node: NodeId(1) });
        state
    }

    #[test]
    fn a_member_can_not_rule_through_the_mesh_even_with_the_right_epoch() {
        let state = founded();
        let order = Order::Place { groups: Default::default() };
        for command in
            [Command::Order { epoch: state.epoch, order }, Command::ControllerStarted { node: NodeId(1) }]
        {
            assert_eq!(check(NodeId(1), &command, &state), Err(AccessError::LeaderOnly));
        }
        assert_eq!(state.epoch, Epoch(3));
    }

    #[test]
    fn a_member_speaks_for_itself_and_a_stranger_for_nobody() {
        let state = founded();
        let update = |node| Command::UpdateNode {
            node: NodeId(node),
            peer_addr: ([127, 0, 0, 1], 1).into(),
            gossip_addr: ([127, 0, 0, 1], 2).into(),
            roles: Default::default(),
        };
        assert_eq!(check(NodeId(1), &update(1), &state), Ok(()));
        let forged = AccessError::Impersonation { from: NodeId(1), named: NodeId(7) };
        assert_eq!(check(NodeId(1), &update(7), &state), Err(forged));
        assert_eq!(check(NodeId(7), &update(7), &state), Err(AccessError::NotAMember(NodeId(7))));
    }
}
