//! The gRPC servers: the operators' socket, the apps' socket, and the peer port's.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::limits::MESSAGE_BYTES_MAX;
use proto::peer::join_service_server::JoinServiceServer;
use proto::peer::peer_service_server::PeerServiceServer;
use proto::v1::app_service_server::AppServiceServer;
use proto::v1::balancer_service_server::BalancerServiceServer;
use proto::v1::cache_service_server::CacheServiceServer;
use proto::v1::cluster_service_server::ClusterServiceServer;
use proto::v1::control_service_server::ControlServiceServer;
use proto::v1::session_service_server::SessionServiceServer;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::balancer::BalancerApi;
use super::capped;
use super::cluster::ClusterApi;
use super::control::ControlApi;
use super::guard::{self, ServersOnly};
use crate::deploy::service::AppApi;
use crate::invalidate::service::CacheApi;
use crate::mesh::listen::PeerStream;
use crate::mesh::service::PeerApi;
use crate::sessions::logins::Logins;
use crate::sessions::service::SessionApi;
use crate::tasks::Tasks;

/// Calls under way on one connection. A peer's agent multiplexes all of its forwarding over one.
const STREAMS_MAX: u32 = 1_024;
/// Header bytes of one call; ours have a few hundred.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Streams that a client may reset before the server has looked at them (rapid reset,
/// CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 64;
/// A join request is a signing request and some names, and strangers may send it.
const JOIN_BYTES_MAX: usize = 64 << 10;
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Connections at a time. A verb needs one, for a moment; ...
const OPERATORS_MAX: usize = 64;
/// ... an instance one, for as long as it follows its cache.
const APPS_MAX: usize = 128;

/// Who may open the operators' socket: its owner alone.
const OPERATORS: u32 = 0o600;
/// Instances may run as other users; the socket serves nothing but sessions and caches, to who logs in.
const APPS: u32 = 0o666;

/// The services of `holdfast.v1`.
#[derive(Clone)]
pub struct PublicApi {
    pub cluster: Arc<ClusterApi>,
    pub control: Arc<ControlApi>,
    pub apps: Arc<AppApi>,
    pub sessions: Arc<SessionApi>,
    pub cache: Arc<CacheApi>,
    pub balancer: Arc<BalancerApi>,
    pub health: HealthReporter,
}

/// All services of `holdfast.v1` answer from the moment on at which a socket is open.
pub async fn health() -> HealthReporter {
    let reporter = HealthReporter::new();
    reporter.set_serving::<ClusterServiceServer<ClusterApi>>().await;
    reporter.set_serving::<ControlServiceServer<ControlApi>>().await;
    reporter.set_serving::<AppServiceServer<AppApi>>().await;
    reporter.set_serving::<SessionServiceServer<SessionApi>>().await;
    reporter.set_serving::<CacheServiceServer<CacheApi>>().await;
    reporter.set_serving::<BalancerServiceServer<BalancerApi>>().await;
    reporter
}

/// Why a socket can not be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("can not listen on {}: {source}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("{} answers: another agent uses it", .0.display())]
    InUse(PathBuf),
    #[error("{} is there and no socket: is api.socket or api.apps_socket what was meant?", .0.display())]
    NoSocket(PathBuf),
    #[error("the descriptors of the API do not load: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Opens a unix socket in place of one that a dead agent left behind.
///
/// # Errors
/// When an agent still answers there, or the folder can not be written.
pub async fn listen(path: &Path, mode: Mode) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Listen { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // Nothing but a socket is ever removed: the path is an operator's, and may be mistyped.
    let found = match fs::symlink_metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if let Some(found) = found {
        if !found.is_socket() {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::InUse(path.to_owned()));
        }
        fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = match mode {
        Mode::Operators => OPERATORS,
        Mode::Apps => APPS,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// Whom a unix socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Operators,
    Apps,
}

/// Serves everything to operators on this server.
///
/// # Errors
/// When reflection can not be built.
pub fn operators(
    listener: UnixListener,
    api: PublicApi,
    tasks: Tasks,
) -> Result<impl Future<Output = ()> + Send, SocketError> {
    let routes = public_routes(&api, |_: &Request<()>| Ok(()))?;
    Ok(serve_unix(listener, OPERATORS_MAX, routes, tasks))
}

/// Serves sessions and caches to instances, each its own.
pub async fn apps(listener: UnixListener, api: PublicApi, logins: Logins, tasks: Tasks) {
    let log_in = move |request: Request<()>| guard::log_in(&logins, request);
    let routes = Routes::new(InterceptedService::new(session_server(&api), log_in.clone()))
        .add_service(InterceptedService::new(cache_server(&api), log_in));
    serve_unix(listener, APPS_MAX, routes, tasks).await;
}

/// Serves the peer port's gRPC connections.
///
/// # Errors
/// When reflection can not be built.
pub fn peer_server(
    incoming: mpsc::Receiver<io::Result<PeerStream>>,
    join: impl proto::peer::join_service_server::JoinService,
    peers: PeerApi,
    api: PublicApi,
    tasks: Tasks,
) -> Result<impl Future<Output = ()> + Send, SocketError> {
    let servers = ServersOnly::new(Arc::clone(&peers.identity), peers.control.clone());
    let peers = PeerServiceServer::new(peers)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let routes = public_routes(&api, move |request| servers.check(request))?
        .add_service(JoinServiceServer::new(join).max_decoding_message_size(JOIN_BYTES_MAX))
        .add_service(peers);
    Ok(async move {
        let stop = tasks.stop();
        let served = server()
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                ReceiverStream::new(incoming),
                async move { stop.cancelled().await },
            )
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the peer port's gRPC failed");
        }
    })
}

fn public_routes(
    api: &PublicApi,
    check: impl Fn(&Request<()>) -> Result<(), Status> + Clone + Send + Sync + 'static,
) -> Result<Routes, SocketError> {
    let guard = move |request: Request<()>| check(&request).map(|()| request);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let health = HealthServer::new(HealthService::from_health_reporter(api.health.clone()));
    Ok(Routes::new(InterceptedService::new(
        ClusterServiceServer::from_arc(Arc::clone(&api.cluster)),
        guard.clone(),
    ))
    .add_service(InterceptedService::new(
        ControlServiceServer::from_arc(Arc::clone(&api.control)),
        guard.clone(),
    ))
    .add_service(InterceptedService::new(
        AppServiceServer::from_arc(Arc::clone(&api.apps)).max_decoding_message_size(MESSAGE_BYTES_MAX),
        guard.clone(),
    ))
    .add_service(InterceptedService::new(session_server(api), guard.clone()))
    .add_service(InterceptedService::new(cache_server(api), guard.clone()))
    .add_service(InterceptedService::new(
        BalancerServiceServer::from_arc(Arc::clone(&api.balancer)),
        guard.clone(),
    ))
    .add_service(InterceptedService::new(health, guard.clone()))
    .add_service(InterceptedService::new(reflection, guard)))
}

fn session_server(api: &PublicApi) -> SessionServiceServer<SessionApi> {
    SessionServiceServer::from_arc(Arc::clone(&api.sessions)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn cache_server(api: &PublicApi) -> CacheServiceServer<CacheApi> {
    CacheServiceServer::from_arc(Arc::clone(&api.cache)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

async fn serve_unix(listener: UnixListener, connections_max: usize, routes: Routes, tasks: Tasks) {
    let stop = tasks.stop();
    let served = server()
        .add_routes(routes)
        .serve_with_incoming_shutdown(capped::unix(listener, connections_max), async move {
            stop.cancelled().await
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "a unix socket's gRPC failed");
    }
}

/// tonic's defaults are unlimited.
fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let living = listen(&path, Mode::Operators).await.unwrap();
        assert!(matches!(listen(&path, Mode::Operators).await, Err(SocketError::InUse(_))));
        drop(living);
        drop(listen(&path, Mode::Operators).await.unwrap());
        let file = folder.path().join("agent.toml");
        fs::write(&file, "precious").unwrap();
        let words = listen(&file, Mode::Operators).await.unwrap_err().to_string();
        assert!(words.contains("no socket") && words.contains("agent.toml"), "{words}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
