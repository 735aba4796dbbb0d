//! Which commands a node may send to the log's leader.
//!
//! A compromised ordinary node must not become the controller, nor speak for another node. So the
//! commands by which a cluster is founded and ruled are never taken from the mesh at all: the leader
//! writes them itself. What makes a server of somebody is taken from servers alone, since a server votes
//! and holds the CA's key. What is left is what any member's operator may ask for.

use node_core::control::{Command, ControlState, Role, TokenRecord};
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
    #[error("node {0} joined as a worker: only a server may admit nodes and make tokens for servers")]
    ServersOnly(NodeId),
}

/// Whether the node that the certificate names may have this command written.
pub(super) fn check(from: NodeId, command: &Command, state: &ControlState) -> Result<(), AccessError> {
    let member = state.member(from).ok_or(AccessError::NotAMember(from))?;
    match command {
        Command::Genesis { .. } | Command::ControllerStarted { .. } | Command::Order { .. } => {
            Err(AccessError::LeaderOnly)
        }
        Command::UpdateNode { node, .. } if *node != from => {
            Err(AccessError::Impersonation { from, named: *node })
        }
        Command::AdmitNode { .. }
        | Command::CreateToken { token: TokenRecord { role: Role::Server, .. }, .. }
            if member.role != Role::Server =>
        {
            Err(AccessError::ServersOnly(from))
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
    use node_core::control::{Fingerprint, NewNode, Order, Outcome};
    use proto::ids::{ClusterId, Epoch};

    use super::*;

    fn new_node(name: &str) -> NewNode {
        NewNode {
            name: name.to_owned(),
            zone: "a".to_owned(),
            region: "r".to_owned(),
            peer_addr: ([127, 0, 0, 1], 1).into(),
            gossip_addr: ([127, 0, 0, 1], 2).into(),
            roles: ["voter".to_owned()].into(),
            csr_hash: Fingerprint([1; 32]),
        }
    }

    fn token(hash: u8, role: Role) -> Command {
        let token =
            TokenRecord { hash: Fingerprint([hash; 32]), role, expires_ms: u64::MAX, uses_left: None };
        Command::CreateToken { id: format!("token {hash}"), token }
    }

    fn admit(name: &str, token: u8, replaces: Option<NodeId>) -> Command {
        let csr_hash = Fingerprint([token.wrapping_add(100); 32]);
        let node = NewNode { csr_hash, ..new_node(name) };
        Command::AdmitNode { token_hash: Fingerprint([token; 32]), node, replaces }
    }

    fn founded() -> ControlState {
        let mut state = ControlState::default();
        let first = new_node("node-1");
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

    #[test]
    fn a_worker_makes_no_servers_and_takes_nobodys_place() {
        let mut state = founded();
        state.apply(4, 0, &token(7, Role::Worker));
        let admitted = state.apply(5, 0, &admit("node-5", 7, None));
        assert_eq!(admitted, Outcome::Admitted { node: NodeId(5), role: Role::Worker });
        let usurp = admit("node-1", 7, Some(NodeId(1)));
        for command in [usurp, admit("node-6", 7, None), token(8, Role::Server)] {
            assert_eq!(check(NodeId(5), &command, &state), Err(AccessError::ServersOnly(NodeId(5))));
            assert_eq!(check(NodeId(1), &command, &state), Ok(()));
        }
        assert_eq!(check(NodeId(5), &token(8, Role::Worker), &state), Ok(()));
    }
}
