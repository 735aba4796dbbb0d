//! Against an agent that is a script: what is sent, and what its answers come to.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::Stream;
use futures::stream;
use proto::v1::app_service_server::{AppService, AppServiceServer};
use proto::v1::upload_request::Part;
use proto::v1::{
    ListAppsRequest, ListAppsResponse, ListInstancesRequest, ListInstancesResponse, UploadFile, UploadRequest,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response};

use super::*;
use crate::local;

const FOLLOW: Follow = Follow { detach: false, json: false };

fn code(result: &str) -> u8 {
    let outcome = DeployOutcome { result: result.into(), ..DeployOutcome::default() };
    judge("shop", &outcome).map_or_else(|failure| failure.exit().code(), |()| 0)
}

#[test]
fn each_outcome_has_the_code_of_the_contract() {
    let outcomes = ["done", "failed", "superseded", "rolled_back", "no_quorum", "refused"];
    assert_eq!(outcomes.map(code), [0, 1, 1, 3, 5, 6]);
}

#[test]
fn nodes_that_are_behind_do_not_make_a_deploy_fail() {
    let outcome =
        DeployOutcome { result: "done".into(), behind: vec!["node-3".into()], ..DeployOutcome::default() };
    assert!(judge("shop", &outcome).is_ok());
}

#[test]
fn a_broken_stream_is_not_taken_for_an_answer() {
    assert!(!broke(&Status::unavailable("no quorum")));
    let lost = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
    assert!(broke(&lost), "{lost:?}");
}

#[tokio::test]
async fn a_folder_arrives_whole_with_its_links_and_executables() {
    let farm = Scripted::default();
    let folder = app_folder();
    let big: Vec<u8> = (0..700_000u32).map(|number| number.to_le_bytes()[0]).collect();
    std::fs::write(folder.path().join("big"), &big).unwrap();
    let done = deploy_to(&farm, folder.path()).await;
    assert_eq!(done, Ok(()));
    let received = farm.received.lock().unwrap();
    let paths: Vec<&str> = received.files.iter().map(|(file, _)| file.path.as_str()).collect();
    assert_eq!(paths, ["alias", "big", "bin/run", "holdfast.toml"]);
    assert_eq!(received.files[0].0.link_target, "bin/run");
    assert!(received.files[1].1 == big, "the bytes of a file of several chunks");
    assert!(received.files[2].0.executable && !received.files[3].0.executable);
    assert_eq!((received.version.as_str(), received.manifest.as_str()), ("7", "[app]"));
}

#[tokio::test]
async fn an_upload_that_is_refused_ends_with_the_agents_reason() {
    let farm =
        Scripted { refuse_upload: Some(Status::invalid_argument("unknown key nmae")), ..Scripted::default() };
    let folder = app_folder();
    // More than fits between the two, so that the agent refuses while there is more to send.
    std::fs::write(folder.path().join("big"), vec![0; 4 << 20]).unwrap();
    let failure = deploy_to(&farm, folder.path()).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Usage);
    assert!(failure.to_string().contains("unknown key nmae"), "{failure}");
}

#[tokio::test]
async fn the_last_message_of_a_rollout_decides() {
    let farm = Scripted { outcome: Some("rolled_back"), ..Scripted::default() };
    let failure = deploy_to(&farm, app_folder().path()).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::RolledBack);
}

#[tokio::test]
async fn a_rollout_whose_end_nobody_tells_is_still_going() {
    let farm = Scripted { outcome: None, ..Scripted::default() };
    let failure = deploy_to(&farm, app_folder().path()).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Unfinished);
}

fn app_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("bin")).unwrap();
    std::fs::write(at("holdfast.toml"), "[app]").unwrap();
    std::fs::write(at("bin/run"), "#!/bin/sh").unwrap();
    std::fs::set_permissions(at("bin/run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("bin/run", at("alias")).unwrap();
    folder
}

/// Deploys `folder` to a scripted agent behind a socket of its own.
async fn deploy_to(farm: &Scripted, folder: &Path) -> Result<(), Failure> {
    let dir = tempfile::tempdir().unwrap();
    let socket: PathBuf = dir.path().join("agent.sock");
    let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let server =
        Server::builder().add_service(AppServiceServer::new(farm.clone())).serve_with_incoming(listener);
    let client = async {
        let channel = local::connect(&socket).await?;
        deploy(channel, folder, Some("7".to_owned()), FOLLOW).await
    };
    tokio::select! {
        done = client => done,
        ended = server => panic!("the scripted agent ended: {ended:?}"),
    }
}

/// What came in.
#[derive(Default)]
struct Received {
    manifest: String,
    version: String,
    files: Vec<(UploadFile, Vec<u8>)>,
}

#[derive(Clone)]
struct Scripted {
    received: Arc<Mutex<Received>>,
    refuse_upload: Option<Status>,
    outcome: Option<&'static str>,
}

impl Default for Scripted {
    fn default() -> Self {
        Self { received: Arc::default(), refuse_upload: None, outcome: Some("done") }
    }
}

#[tonic::async_trait]
impl AppService for Scripted {
    type DeployStream = Pin<Box<dyn Stream<Item = Result<DeployProgress, Status>> + Send>>;
    type RollbackStream = Self::DeployStream;

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let mut stream = request.into_inner();
        while let Some(message) = stream.message().await? {
            let mut received = self.received.lock().unwrap();
            match message.part {
                Some(Part::Begin(begin)) => {
                    (received.manifest, received.version) = (begin.manifest, begin.version)
                }
                Some(Part::File(file)) => received.files.push((file, Vec::new())),
                Some(Part::Data(data)) => received.files.last_mut().unwrap().1.extend_from_slice(&data),
                None => return Err(Status::invalid_argument("an empty part")),
            }
            if let Some(status) = &self.refuse_upload {
                return Err(status.clone());
            }
        }
        Ok(Response::new(UploadResponse {
            app: "shop".into(),
            release: "ab".into(),
            ..UploadResponse::default()
        }))
    }

    async fn deploy(&self, _: Request<DeployRequest>) -> Result<Response<Self::DeployStream>, Status> {
        let outcome =
            self.outcome.map(|result| DeployOutcome { result: result.into(), ..DeployOutcome::default() });
        let messages = [
            DeployProgress { message: "node-1 runs it".into(), ..DeployProgress::default() },
            DeployProgress { outcome, ..DeployProgress::default() },
        ];
        Ok(Response::new(Box::pin(stream::iter(messages.map(Ok)))))
    }

    async fn rollback(&self, _: Request<RollbackRequest>) -> Result<Response<Self::RollbackStream>, Status> {
        Err(Status::unimplemented("not part of the script"))
    }

    async fn list_apps(&self, _: Request<ListAppsRequest>) -> Result<Response<ListAppsResponse>, Status> {
        Err(Status::unimplemented("not part of the script"))
    }

    async fn list_instances(
        &self,
        _: Request<ListInstancesRequest>,
    ) -> Result<Response<ListInstancesResponse>, Status> {
        Err(Status::unimplemented("not part of the script"))
    }
}
