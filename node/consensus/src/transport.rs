//! How a group's messages reach another node.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::ids::{GroupId, NodeId};

/// Why a message has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The node is not there: leave it alone for a while.
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("no answer in time")]
    Timeout,
    /// It may work at the next try.
    #[error("failed: {0}")]
    Failed(String),
}

/// Carries opaque payloads between the same group's members. The receiver hands them to
/// [`crate::Groups::handle`] with the sender's proved identity.
pub trait Transport: Send + Sync + 'static {
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        payload: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;
}
