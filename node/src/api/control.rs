//! ControlService: the controller and where each voter stands.

use proto::v1::control_service_server::ControlService;
use proto::v1::{self};
use tonic::{Request, Response, Status};

use super::status::StatusSource;

/// Implements the service over the agent's own view.
pub struct ControlApi {
    pub status: StatusSource,
}

#[tonic::async_trait]
impl ControlService for ControlApi {
    async fn controller(
        &self,
        _: Request<v1::ControllerRequest>,
    ) -> Result<Response<v1::ControllerResponse>, Status> {
        Ok(Response::new(self.status.controller()))
    }
}
