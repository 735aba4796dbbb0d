//! Who a member is to foca.
//!
//! foca keeps one identity per *address*, and its address is our node id: a member that restarts or
//! moves is the same member with a newer identity, and its old one is forgotten at once.

use std::net::SocketAddr;

use proto::ids::{Generation, NodeId};
use proto::limits::NAME_BYTES_MAX;
use serde::{Deserialize, Deserializer, Serialize};

/// One life of one node, and how often it had to be renewed in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    pub node: NodeId,
    pub generation: Generation,
    /// Raised each time the others have declared this life dead wrongly: down is final in SWIM, so the
    /// member comes back under another name.
    pub renewal: u32,
    #[serde(deserialize_with = "short_text")]
    pub zone: String,
    pub gossip: SocketAddr,
    pub peer: SocketAddr,
}

/// What foca tells members apart by. Node 0 stands for whoever is there: the one who announces itself
/// to an address may not know who lives at it.
#[derive(Debug, Clone, Copy)]
pub struct NodeAddr(NodeId);

impl PartialEq for NodeAddr {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.0.0 == 0 || other.0.0 == 0
    }
}

impl Id {
    /// The addressee of an announcement; only its node and gossip address count.
    pub fn addressee(node: Option<NodeId>, gossip: SocketAddr) -> Self {
        Self {
            node: node.unwrap_or(NodeId(0)),
            generation: Generation(0),
            renewal: 0,
            zone: String::new(),
            gossip,
            peer: gossip,
        }
    }
}

impl foca::Identity for Id {
    type Addr = NodeAddr;

    fn renew(&self) -> Option<Self> {
        Some(Self { renewal: self.renewal.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> NodeAddr {
        NodeAddr(self.node)
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.renewal) > (adversary.generation, adversary.renewal)
    }
}

fn short_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = <&str>::deserialize(deserializer)?;
    if text.len() > NAME_BYTES_MAX {
        return Err(serde::de::Error::custom("a zone's name is too long"));
    }
    Ok(text.to_owned())
}
