//! JoinService: a stranger shows a token, and is a node of this cluster.
//!
//! Nothing is written for somebody whose token this cluster does not know: the port is open to
//! strangers, and an entry costs every voter a disk sync.
//!
//! The request may come in at any node. It is granted where the CA's key is: a node without it hands
//! the request on to one that votes. The token is spent by the entry that admits the node, so two
//! nodes that are asked at once can not spend its last use twice.

use std::net::SocketAddr;
use std::time::Duration;

use node_core::control::{Command, ControlState, Fingerprint, NewNode, Outcome, Refusal, Role};
use node_security::{CertificateAuthority, JoinToken};
use proto::ids::NodeId;
use proto::limits::NAME_BYTES_MAX;
use proto::peer::join_service_server::JoinService;
use proto::peer::{JoinRequest, JoinResponse, PeerAddress};
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

use super::{Control, ProposeError, inventory};
use crate::mesh::PeerInfo;

/// A signing request is some hundred bytes; with room for other key types.
const CSR_BYTES_MAX: usize = 8 << 10;
const TOKEN_BYTES_MAX: usize = 512;
/// There are four roles.
const ROLES_MAX: usize = 16;
/// The whole of a request that is handed on.
const RELAY_MAX: Duration = Duration::from_secs(15);
/// How long a token that is not known here may be on its way from the node that made it.
const TOKEN_MAX: Duration = Duration::from_secs(1);
/// Requests under way at once. More are strangers knocking.
const WAITING_MAX: usize = 256;
/// Admissions written at once, so that the controller's own entries are not kept waiting by them.
const WRITING_MAX: usize = 8;
/// A name's holder of whom nothing was heard for so long after this agent's start is not there.
const HEARD_OF_ALL: Duration = Duration::from_secs(15);

/// How many strangers are listened to at once.
pub(super) struct Joins {
    waiting: Semaphore,
    writing: Semaphore,
}

impl Default for Joins {
    fn default() -> Self {
        Self { waiting: Semaphore::new(WAITING_MAX), writing: Semaphore::new(WRITING_MAX) }
    }
}

#[tonic::async_trait]
impl JoinService for Control {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let Ok(_waiting) = self.inner.joins.waiting.try_acquire() else {
            return Err(Status::unavailable("too many nodes ask to join at once: try again"));
        };
        let info = request.extensions().get::<PeerInfo>();
        let relayed = info.is_some_and(|info| info.identity.is_some());
        let address = info.map(|info| info.address.to_string()).unwrap_or_default();
        let request = request.into_inner();
        let name: String = request.name.chars().take(NAME_BYTES_MAX).collect();
        let answer = match self.inner.identity.authority() {
            Some(authority) => self.admit(&authority, request).await,
            // Once is enough: a node that is asked because it votes and has no key yet says so.
            None if relayed => Err(Status::unavailable("this node does not hold the CA's key yet")),
            None => self.relay(request).await,
        };
        match &answer {
            Ok(response) => tracing::info!(node = response.node, name, address, "admitted a node"),
            Err(status) => tracing::warn!(name, address, error = status.message(), "a join was refused"),
        }
        answer.map(Response::new)
    }
}

impl Control {
    /// Admits a node and certifies it.
    async fn admit(
        &self,
        authority: &CertificateAuthority,
        request: JoinRequest,
    ) -> Result<JoinResponse, Status> {
        let csr = request.csr.clone();
        let (token, node) = parse(request)?;
        // Before the token is spent on it.
        CertificateAuthority::check_request(&csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let token_hash = Fingerprint(token.hash());
        self.wait_for_token(&token_hash).await?;
        let writing = self.inner.joins.writing.acquire().await;
        let _turn = writing.map_err(|_| Status::unavailable("the agent is stopping"))?;
        let replaces = self.dead_holder(&node.name);
        let outcome = self.propose(&Command::AdmitNode { token_hash, node, replaces }).await?;
        let Outcome::Admitted { node, role } = outcome else {
            return Err(Status::internal(format!("the log answered an admission with {outcome:?}")));
        };
        let cluster = self.inner.identity.cluster;
        let certificate = authority.issue(&csr, cluster, node, security_role(role));
        let certificate = certificate.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(JoinResponse {
            cluster_id: cluster.to_string(),
            node: node.0,
            certificate: certificate.into(),
            ca: authority.certificate_der().to_vec().into(),
            gossip_key: self.inner.identity.gossip_key.as_bytes().to_vec().into(),
            peers: self.addresses(node),
        })
    }

    /// Returns when this node's copy of the log knows the token, or a node that came with it.
    async fn wait_for_token(&self, hash: &Fingerprint) -> Result<(), Status> {
        let knows = |state: &ControlState| {
            let tokens = state.tokens.values().map(|token| &token.hash);
            // Every one is compared, each in constant time.
            tokens
                .chain(state.nodes.values().map(|node| &node.token_hash))
                .filter(|known| known.matches(hash))
                .count()
                > 0
        };
        let mut followed = self.watch();
        let known = followed.wait_for(|state| knows(state));
        match tokio::time::timeout(TOKEN_MAX, known).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Status::unavailable("the agent is stopping")),
            Err(_) => Err(ProposeError::Refused(Refusal::UnknownToken).into()),
        }
    }

    /// The member whose name a new disk may take over: one that is known to be dead.
    fn dead_holder(&self, name: &str) -> Option<NodeId> {
        let (holder, _) = self.state().member_named(name).map(|(node, record)| (node, record.clone()))?;
        let heard_of_all = self.inner.started.elapsed() > HEARD_OF_ALL;
        inventory::is_dead(self, holder).unwrap_or(heard_of_all).then_some(holder)
    }

    /// Where the others are, for a node that knows nobody.
    fn addresses(&self, except: NodeId) -> Vec<PeerAddress> {
        let state = self.state();
        let others = state.members().filter(|(node, _)| *node != except);
        others
            .map(|(node, record)| PeerAddress {
                node: node.0,
                peer_addr: self.inner.mesh.address(node).unwrap_or(record.peer_addr).to_string(),
                gossip_addr: record.gossip_addr.to_string(),
            })
            .collect()
    }

    /// Hands a request on to a node that can grant it.
    async fn relay(&self, request: JoinRequest) -> Result<JoinResponse, Status> {
        let mut last = Status::unavailable("no node that holds the CA's key is known here");
        for voter in self.others_to_ask() {
            let Ok(mut client) = self.inner.mesh.join(voter) else { continue };
            match tokio::time::timeout(RELAY_MAX, client.join(request.clone())).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                // Asking again elsewhere is safe: the same key is admitted once.
                Ok(Err(status)) if status.code() == Code::Unavailable => last = status,
                Ok(Err(status)) => return Err(status),
                Err(_) => last = Status::unavailable(format!("node {voter} did not answer in time")),
            }
        }
        Err(last)
    }
}

/// Makes a request typed, with every length checked.
fn parse(request: JoinRequest) -> Result<(JoinToken, NewNode), Status> {
    let invalid = |what: &str| Status::invalid_argument(format!("the join request's {what} is no good"));
    let sizes = [
        ("token", request.token.len() <= TOKEN_BYTES_MAX),
        ("signing request", (1..=CSR_BYTES_MAX).contains(&request.csr.len())),
        ("name", request.name.len() <= NAME_BYTES_MAX),
        ("zone", request.zone.len() <= NAME_BYTES_MAX),
        ("region", request.region.len() <= NAME_BYTES_MAX),
        (
            "roles",
            request.roles.len() <= ROLES_MAX && request.roles.iter().all(|role| role.len() <= NAME_BYTES_MAX),
        ),
    ];
    if let Some((what, _)) = sizes.iter().find(|(_, fits)| !fits) {
        return Err(invalid(what));
    }
    let token: JoinToken = request.token.parse().map_err(|_| invalid("token"))?;
    let address = |text: &str| text.parse::<SocketAddr>().map_err(|_| invalid("address"));
    let node = NewNode {
        name: request.name,
        zone: request.zone,
        region: request.region,
        peer_addr: address(&request.peer_addr)?,
        gossip_addr: address(&request.gossip_addr)?,
        roles: request.roles.into_iter().collect(),
        csr_hash: Fingerprint(blake3::hash(&request.csr).into()),
    };
    Ok((token, node))
}

fn security_role(role: Role) -> node_security::Role {
    match role {
        Role::Server => node_security::Role::Server,
        Role::Worker => node_security::Role::Worker,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> JoinRequest {
        JoinRequest {
            token: JoinToken::generate([7; 32]).to_string(),
            csr: vec![1, 2, 3].into(),
            name: "node-2".to_owned(),
            zone: "a".to_owned(),
            region: "r".to_owned(),
            peer_addr: "127.0.0.1:7412".to_owned(),
            gossip_addr: "127.0.0.1:7411".to_owned(),
            roles: vec!["voter".to_owned()],
        }
    }

    #[test]
    fn a_request_becomes_a_node_known_by_the_hash_of_its_signing_request() {
        let (_, node) = parse(request()).unwrap();
        assert_eq!(node.csr_hash, Fingerprint(blake3::hash(&[1, 2, 3]).into()));
        assert_eq!(node.peer_addr, ([127, 0, 0, 1], 7412).into());
    }

    #[test]
    fn what_is_too_long_or_no_address_is_refused_by_its_name() {
        let long = "x".repeat(10_000);
        let cases = [
            ("token", JoinRequest { token: long.clone(), ..request() }),
            ("token", JoinRequest { token: "HFT1-nonsense".to_owned(), ..request() }),
            ("signing request", JoinRequest { csr: vec![0; 10_000].into(), ..request() }),
            ("name", JoinRequest { name: long.clone(), ..request() }),
            ("roles", JoinRequest { roles: vec!["voter".to_owned(); 100], ..request() }),
            ("roles", JoinRequest { roles: vec![long], ..request() }),
            ("address", JoinRequest { peer_addr: "nowhere".to_owned(), ..request() }),
        ];
        for (what, request) in cases {
            let status = parse(request).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(what), "{} does not name {what}", status.message());
        }
    }
}
