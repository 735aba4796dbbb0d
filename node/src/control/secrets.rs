//! The CA's key, which voters alone hold: so that whichever of them leads can admit a server.
//!
//! It travels over the mesh, from a voter to a voter, and lies in a file of mode 0600. (The design
//! seals it in the log and rotates it when a voter is demoted; that comes with the rotation of keys.)

use std::time::Duration;

use node_core::control::NodeRecord;
use proto::ids::NodeId;
use proto::peer::{VoterSecretsRequest, VoterSecretsResponse};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Control;

const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Before all voters are asked again.
const RETRY: Duration = Duration::from_secs(1);

impl Control {
    /// Hands the CA's key to a voter.
    ///
    /// # Errors
    /// The caller does not vote, or this node has no key.
    pub async fn handle_voter_secrets(
        &self,
        from: NodeId,
        _: VoterSecretsRequest,
    ) -> Result<VoterSecretsResponse, Status> {
        let votes = self.inner.group.watch().borrow().voters.contains(&from);
        if !votes || !self.state().member(from).is_some_and(NodeRecord::may_vote) {
            tracing::warn!(node = %from, "refused the CA's key to a node that does not vote");
            return Err(Status::permission_denied(format!("node {from} does not vote")));
        }
        let authority = self.inner.identity.authority();
        let authority = authority.ok_or_else(|| Status::unavailable("this node has no CA key itself"))?;
        tracing::info!(node = %from, "handing the CA's key to a voter");
        Ok(VoterSecretsResponse { ca_key: authority.key_der().to_vec().into() })
    }
}

/// Fetches the key once this node votes and has none.
pub(super) async fn run(control: Control, stop: CancellationToken) {
    let mut group = control.group_view();
    let fetch = async {
        while control.inner.identity.authority().is_none() {
            if group.wait_for(|view| view.voters.contains(&control.me())).await.is_err() {
                return;
            }
            for voter in control.others_to_ask() {
                if fetch_from(&control, voter).await {
                    tracing::info!(from = %voter, "this node holds the CA's key from now on");
                    break;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = fetch => {}
    }
    stop.cancelled().await;
}

impl Control {
    /// The controller, then the other voters.
    pub(super) fn others_to_ask(&self) -> Vec<NodeId> {
        let voters = self.inner.group.watch().borrow().voters.clone();
        let mut nodes: Vec<NodeId> = self.state().controller.into_iter().chain(voters).collect();
        let mut asked = std::collections::BTreeSet::from([self.me()]);
        nodes.retain(|node| asked.insert(*node));
        nodes
    }
}

async fn fetch_from(control: &Control, voter: NodeId) -> bool {
    let Ok(mut client) = control.inner.mesh.peer(voter) else { return false };
    match tokio::time::timeout(ANSWER_MAX, client.voter_secrets(VoterSecretsRequest {})).await {
        Err(_) => false,
        Ok(Err(status)) => {
            tracing::debug!(node = %voter, error = status.message(), "no CA key from a voter");
            false
        }
        Ok(Ok(response)) => match control.inner.identity.keep_ca_key(response.into_inner().ca_key.to_vec()) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(node = %voter, %error, "a voter handed over a CA key that can not be kept");
                false
            }
        },
    }
}
