//! The names in a certificate, and what they say.

use proto::ids::{ClusterId, NodeId};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::SecurityError;

/// What a certificate lets its node be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Whatever its configuration names, a voter included.
    Server,
    /// Anything but a voter.
    Worker,
}

impl Role {
    fn label(self) -> &'static str {
        match self {
            Self::Server => "role-server",
            Self::Worker => "role-worker",
        }
    }
}

/// Who holds a certificate, once the chain has been verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub role: Role,
}

impl PeerIdentity {
    /// The DNS names of this identity's certificate.
    pub(crate) fn dns_names(&self) -> Vec<String> {
        [format!("node-{}", self.node), "any".to_owned(), self.role.label().to_owned()]
            .map(|label| format!("{label}.{}.holdfast", self.cluster))
            .to_vec()
    }
}

/// The name to ask for when dialling a node, or any node where it is not known yet which.
pub fn server_name(cluster: ClusterId, node: Option<NodeId>) -> ServerName<'static> {
    let label = node.map_or_else(|| "any".to_owned(), |node| format!("node-{node}"));
    ServerName::try_from(format!("{label}.{cluster}.holdfast"))
        .expect("labels of letters, digits and '-' below 63 bytes make a DNS name")
}

/// Reads who a certificate is for. Its chain is TLS's business, before this is asked.
///
/// # Errors
/// When it can not be parsed, or does not name exactly one node and role of one cluster.
pub fn identify(certificate: &CertificateDer<'_>) -> Result<PeerIdentity, SecurityError> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(SecurityError::Unreadable)?;
    let (mut node, mut role) = (None, None);
    for name in parsed.valid_dns_names() {
        let (label, cluster) = split(name).ok_or(SecurityError::NamesNoNode)?;
        let fresh = match label {
            "any" => true,
            "role-server" => role.replace((cluster, Role::Server)).is_none(),
            "role-worker" => role.replace((cluster, Role::Worker)).is_none(),
            other => node.replace((cluster, node_number(other)?)).is_none(),
        };
        if !fresh {
            return Err(SecurityError::NamesNoNode);
        }
    }
    match (node, role) {
        (Some((cluster, node)), Some((same, role))) if cluster == same => {
            Ok(PeerIdentity { cluster, node, role })
        }
        _ => Err(SecurityError::NamesNoNode),
    }
}

fn split(name: &str) -> Option<(&str, ClusterId)> {
    let (label, cluster) = name.strip_suffix(".holdfast")?.split_once('.')?;
    Some((label, cluster.parse().ok()?))
}

fn node_number(label: &str) -> Result<NodeId, SecurityError> {
    let digits = label.strip_prefix("node-").ok_or(SecurityError::NamesNoNode)?;
    let number: u64 = digits.parse().map_err(|_| SecurityError::NamesNoNode)?;
    // One spelling per node, so that "node-07" and "node-+7" are nobody.
    if number.to_string() == digits { Ok(NodeId(number)) } else { Err(SecurityError::NamesNoNode) }
}
