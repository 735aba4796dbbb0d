//! The apps on gRPC: `holdfast.v1.AppService`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use data_encoding::BASE32_NOPAD;
use futures::stream;
use node_core::control::{Command, Outcome, Refusal, Secret};
use proto::ids::ReleaseId;
use proto::v1::app_service_server::AppService;
use proto::v1::{
    DeployRequest, ListAppsRequest, ListAppsResponse, ListInstancesRequest, ListInstancesResponse,
    RollbackRequest, UploadRequest, UploadResponse,
};
use tonic::{Request, Response, Status, Streaming};

use super::progress::{Follow, ProgressStream, already_stable};
use super::{Deploy, on_disk, views};
use crate::control::{Control, ProposeError};
use crate::members::Members;

/// Of an app's password for its keyspace.
const SECRET_BYTES: usize = 20;

/// Releases of which it is remembered how many instances they have.
const COUNTS_MAX: usize = 1_000;

/// Implements the service.
pub struct AppApi {
    deploy: Deploy,
    control: Control,
    members: Members,
    counts: Mutex<HashMap<ReleaseId, u32>>,
}

impl AppApi {
    pub fn new(deploy: Deploy, control: Control, members: Members) -> Self {
        Self { deploy, control, members, counts: Mutex::default() }
    }

    /// Has a rollout begun and follows it.
    async fn roll_out(&self, app: String, command: Command, detach: bool) -> Result<ProgressStream, Status> {
        let outcome = self.control.propose(&command).await.map_err(|error| explain(error, &app))?;
        let Outcome::Targeted { release, attempt, stable } = outcome else {
            return Err(Status::internal(format!("the control log answered with {outcome:?}")));
        };
        if stable {
            let done = already_stable(&self.control.state(), release);
            return Ok(Box::pin(stream::iter([Ok(done)])));
        }
        let (control, members) = (self.control.clone(), self.members.clone());
        let follow = Follow { app, attempt, detach, control, members };
        Ok(follow.stream(&self.deploy.inner.tasks))
    }

    /// Instances of a release on one node; 1 where the release is not here to be asked.
    async fn count(&self, release: ReleaseId) -> u32 {
        let known = self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(&release).copied();
        if let Some(count) = known {
            return count;
        }
        let store = self.deploy.inner.store.clone();
        let Ok(manifest) = on_disk(move || store.manifest(release)).await else { return 1 };
        let count = manifest.spec.run.instances;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTS_MAX {
            counts.clear();
        }
        counts.insert(release, count);
        count
    }
}

#[tonic::async_trait]
impl AppService for AppApi {
    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        self.deploy.upload(request.into_inner()).await.map(Response::new)
    }

    type DeployStream = ProgressStream;

    async fn deploy(&self, request: Request<DeployRequest>) -> Result<Response<ProgressStream>, Status> {
        let DeployRequest { app, release, detach } = request.into_inner();
        let release: ReleaseId =
            release.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let command = Command::SetTarget { app: app.clone(), release, secret: new_secret() };
        self.roll_out(app, command, detach).await.map(Response::new)
    }

    type RollbackStream = ProgressStream;

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<ProgressStream>, Status> {
        let RollbackRequest { app, version, detach } = request.into_inner();
        let to = match version.as_str() {
            "" => None,
            version => Some(self.control.state().find_release(&app, version).ok_or_else(|| {
                Status::not_found(format!("the app {app:?} has no release {version:?} to go back to"))
            })?),
        };
        let command = Command::Rollback { app: app.clone(), to };
        self.roll_out(app, command, detach).await.map(Response::new)
    }

    async fn list_apps(
        &self,
        _request: Request<ListAppsRequest>,
    ) -> Result<Response<ListAppsResponse>, Status> {
        let (state, view) = (self.control.state(), self.members.view().borrow().clone());
        let mut apps = Vec::with_capacity(state.apps.len());
        for (name, record) in &state.apps {
            let instances = match record.target() {
                Some(release) => self.count(release).await,
                None => 0,
            };
            apps.push(views::app(&state, &view, name, record, instances));
        }
        Ok(Response::new(ListAppsResponse { apps }))
    }

    async fn list_instances(
        &self,
        request: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        let app = request.into_inner().app;
        let (state, view) = (self.control.state(), self.members.view().borrow().clone());
        if !app.is_empty() && !state.apps.contains_key(&app) {
            return Err(Status::not_found(format!("there is no app {app:?}")));
        }
        Ok(Response::new(ListInstancesResponse { instances: views::instances(&state, &view, &app) }))
    }
}

/// That something is not there is no reason to refuse what there is.
fn explain(error: ProposeError, app: &str) -> Status {
    if matches!(error, ProposeError::Refused(Refusal::UnknownApp { .. } | Refusal::UnknownRelease { .. })) {
        return Status::not_found(format!("{app:?}: {error}"));
    }
    error.into()
}

/// Safe in a URL.
fn new_secret() -> Secret {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    Secret::new(BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}
