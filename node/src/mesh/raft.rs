//! The consensus module's transport: its payloads travel as `PeerService.Raft`.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use node_consensus::{Transport, TransportError};
use proto::ids::{GroupId, NodeId};
use proto::peer::RaftRequest;
use tonic::Code;

use super::Mesh;

impl Transport for Mesh {
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        payload: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let client = self.peer(to);
        async move {
            let mut client = client.map_err(|error| TransportError::Unreachable(error.to_string()))?;
            let request = RaftRequest { to: to.0, group: u32::from(group.0), payload };
            match tokio::time::timeout(deadline, client.raft(request)).await {
                Err(_) => Err(TransportError::Timeout),
                Ok(Ok(response)) => Ok(response.into_inner().payload),
                Ok(Err(status)) => Err(classify(&status)),
            }
        }
        .boxed()
    }
}

/// A peer that is not there is left alone for a while; anything else may be tried again at once.
fn classify(status: &tonic::Status) -> TransportError {
    if matches!(status.code(), Code::Unavailable | Code::NotFound) {
        TransportError::Unreachable(status.message().to_owned())
    } else {
        TransportError::Failed(status.to_string())
    }
}
