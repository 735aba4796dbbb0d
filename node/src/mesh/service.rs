//! What peers may ask of this node: `PeerService`, each call handed to the part that it is for.
//!
//! The part learns who asks from the certificate, never from the message. A certificate of this
//! cluster is not enough: its node must still be one of the cluster.

use node_consensus::{Groups, HandleError};
use node_security::{PeerIdentity, Role};
use proto::ids::{GroupId, NodeId};
use proto::peer::peer_service_server::PeerService;
use proto::peer::{self};
use tonic::{Request, Response, Status};

use super::listen::PeerInfo;
use crate::control::Control;
use crate::deploy::Deploy;
use crate::identity::Identity;
use crate::invalidate::Invalidation;
use crate::members::Members;
use crate::sessions::Sessions;

use std::sync::Arc;

/// The parts that peers talk to.
pub struct PeerApi {
    pub identity: Arc<Identity>,
    pub groups: Groups,
    pub control: Control,
    pub members: Members,
    pub sessions: Sessions,
    pub deploy: Deploy,
    pub invalidation: Invalidation,
}

impl PeerApi {
    /// The node that asks.
    fn caller<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        self.certified(request).map(|identity| identity.node)
    }

    fn certified<'a, T>(&self, request: &'a Request<T>) -> Result<&'a PeerIdentity, Status> {
        let identity = request
            .extensions()
            .get::<PeerInfo>()
            .and_then(|info| info.identity.as_ref())
            .ok_or_else(|| Status::unauthenticated("this call needs a node's certificate"))?;
        if identity.cluster != self.identity.cluster {
            return Err(Status::permission_denied("the certificate is of another cluster"));
        }
        let state = self.control.state();
        let removed = state.nodes.get(&identity.node).is_some_and(|record| record.removed);
        if removed {
            return Err(Status::permission_denied(format!("node {} has been removed", identity.node)));
        }
        Ok(identity)
    }
}

#[tonic::async_trait]
impl PeerService for PeerApi {
    async fn raft(
        &self,
        request: Request<peer::RaftRequest>,
    ) -> Result<Response<peer::RaftResponse>, Status> {
        let PeerIdentity { node: from, role, .. } = *self.certified(&request)?;
        let request = request.into_inner();
        if request.to != self.identity.node.0 {
            return Err(Status::not_found(format!(
                "this is node {}, not {}",
                self.identity.node, request.to
            )));
        }
        let group = u16::try_from(request.group)
            .map(GroupId)
            .map_err(|_| Status::invalid_argument("no such group"))?;
        let answer = match role {
            Role::Server => self.groups.handle(from, group, request.payload).await,
            // It may hold sessions. The control log is not for it to write.
            Role::Worker => self.groups.handle_outsider(from, GroupId::CONTROL, group, request.payload).await,
        };
        match answer {
            Ok(payload) => Ok(Response::new(peer::RaftResponse { payload })),
            Err(error) => Err(refuse(&error)),
        }
    }

    async fn propose(
        &self,
        request: Request<peer::ProposeRequest>,
    ) -> Result<Response<peer::ProposeResponse>, Status> {
        let from = self.caller(&request)?;
        self.control.handle_propose(from, request.into_inner()).await.map(Response::new)
    }

    async fn execute(
        &self,
        request: Request<peer::ExecuteRequest>,
    ) -> Result<Response<peer::ExecuteResponse>, Status> {
        let from = self.caller(&request)?;
        self.sessions.handle_execute(from, request.into_inner()).await.map(Response::new)
    }

    async fn sync_states(
        &self,
        request: Request<peer::SyncStatesRequest>,
    ) -> Result<Response<peer::SyncStatesResponse>, Status> {
        let from = self.caller(&request)?;
        self.members.handle_sync(from, request.into_inner()).await.map(Response::new)
    }

    async fn push_states(
        &self,
        request: Request<peer::PushStatesRequest>,
    ) -> Result<Response<peer::PushStatesResponse>, Status> {
        let from = self.caller(&request)?;
        self.members.handle_push(from, request.into_inner()).await.map(Response::new)
    }

    async fn act(&self, request: Request<peer::ActRequest>) -> Result<Response<peer::ActResponse>, Status> {
        let from = self.caller(&request)?;
        self.deploy.handle_act(from, request.into_inner()).await.map(Response::new)
    }

    type FetchBlobStream = crate::deploy::BlobStream;

    async fn fetch_blob(
        &self,
        request: Request<peer::FetchBlobRequest>,
    ) -> Result<Response<Self::FetchBlobStream>, Status> {
        let from = self.caller(&request)?;
        self.deploy.handle_fetch_blob(from, request.into_inner()).await.map(Response::new)
    }

    async fn replicate(
        &self,
        request: Request<peer::ReplicateRequest>,
    ) -> Result<Response<peer::ReplicateResponse>, Status> {
        let from = self.caller(&request)?;
        self.deploy.handle_replicate(from, request.into_inner()).await.map(Response::new)
    }

    async fn push_invalidations(
        &self,
        request: Request<peer::PushInvalidationsRequest>,
    ) -> Result<Response<peer::PushInvalidationsResponse>, Status> {
        let from = self.caller(&request)?;
        self.invalidation.handle_push(from, request.into_inner()).await.map(Response::new)
    }

    async fn pull_invalidations(
        &self,
        request: Request<peer::PullInvalidationsRequest>,
    ) -> Result<Response<peer::PullInvalidationsResponse>, Status> {
        let from = self.caller(&request)?;
        self.invalidation.handle_pull(from, request.into_inner()).await.map(Response::new)
    }

    async fn voter_secrets(
        &self,
        request: Request<peer::VoterSecretsRequest>,
    ) -> Result<Response<peer::VoterSecretsResponse>, Status> {
        let from = self.caller(&request)?;
        self.control.handle_voter_secrets(from, request.into_inner()).await.map(Response::new)
    }
}

fn refuse(error: &HandleError) -> Status {
    match error {
        HandleError::Outsider { .. } => Status::permission_denied(error.to_string()),
        HandleError::UnknownGroup(_) => Status::not_found(error.to_string()),
        HandleError::Stopped => Status::unavailable(error.to_string()),
        HandleError::Malformed(_) => Status::invalid_argument(error.to_string()),
    }
}
