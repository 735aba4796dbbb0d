//! BalancerService: what this node's balancer does with a request.

use proto::v1::balancer_service_server::BalancerService;
use proto::v1::{self};
use tonic::{Request, Response, Status};

use crate::routing::Routing;

/// Implements the service over this node's routing.
pub struct BalancerApi {
    pub routing: Routing,
}

#[tonic::async_trait]
impl BalancerService for BalancerApi {
    async fn routes(&self, _: Request<v1::RoutesRequest>) -> Result<Response<v1::RoutesResponse>, Status> {
        Ok(Response::new(v1::RoutesResponse { routes: self.routing.routes() }))
    }

    async fn backends(
        &self,
        _: Request<v1::BackendsRequest>,
    ) -> Result<Response<v1::BackendsResponse>, Status> {
        Ok(Response::new(v1::BackendsResponse { backends: self.routing.backends() }))
    }
}
