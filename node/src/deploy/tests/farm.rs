//! Nodes in one process, with real disks, TLS, gossip, elections and instances. What a node lacks are
//! sessions, caches and public ports.

use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use node_consensus::Groups;
use node_storage::{Database, Facts, Options, files};
use proto::ids::{GroupId, NodeId};
use proto::peer::join_service_server::JoinServiceServer;
use proto::peer::peer_service_server::{PeerService, PeerServiceServer};
use proto::peer::{self, ActRequest, ActResponse, NodeState, Phase};
use proto::v1::app_service_server::AppService as _;
use proto::v1::upload_request::Part;
use proto::v1::{self, DeployOutcome, UploadBegin, UploadFile, UploadRequest, UploadResponse};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::super::service::AppApi;
use super::super::{BlobStream, Deploy, DeployParts};
use crate::bootstrap;
use crate::config::Config;
use crate::control::{Control, ControlParts};
use crate::fence::EpochFence;
use crate::identity::Identity;
use crate::members::{Members, MembersParts};
use crate::mesh::listen::{self, Accepted, Limits};
use crate::mesh::{Mesh, PeerInfo};
use crate::tasks::Tasks;

/// Longer than anything takes on a busy machine: only a failure waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Stands in for `holdfast exec-instance NOFILE PARENT PROGRAM ...`, which is no part of this crate.
const LAUNCHER: [&str; 3] = ["sh", "-c", "shift; exec \"$@\""];

/// Waits for something that happens by itself.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The servers: their folders and configurations.
pub(super) struct Farm {
    configs: Vec<Config>,
    _folder: tempfile::TempDir,
}

impl Farm {
    /// Starts so many nodes; all are members.
    pub(super) async fn start(nodes: usize) -> (Self, Vec<Node>) {
        let folder = tempfile::tempdir().unwrap();
        let config = |number: usize| {
            let (gossip, peer) = free_ports();
            let data_dir = folder.path().join(format!("node-{number}"));
            let sets = [
                format!("node.name=\"node-{number}\""),
                format!("node.data_dir=\"{}\"", data_dir.display()),
                "network.bind=\"127.0.0.1\"".to_owned(),
                format!("network.gossip_port={gossip}"),
                format!("network.peer_port={peer}"),
            ];
            Config::load(None, &sets, std::iter::empty()).unwrap()
        };
        let configs: Vec<Config> = (1..=nodes).map(config).collect();
        let farm = Self { configs, _folder: folder };
        let token = bootstrap::init(&farm.configs[0]).unwrap().token;
        let mut started = vec![farm.node(0).await];
        for which in 1..nodes {
            let target = format!("{token}@{}", farm.configs[0].peer_advertise());
            bootstrap::join(&farm.configs[which], &target).await.unwrap();
            started.push(farm.node(which).await);
        }
        // Two nodes are a voter and a learner: a second vote would only be one more that can be missed.
        let in_the_log = |node: &Node| {
            let view = node.control.group_view().borrow().clone();
            view.voters.len() + view.learners.len() == nodes
        };
        for node in &started {
            eventually("everybody in the log", || in_the_log(node)).await;
        }
        (farm, started)
    }

    /// Starts a node and waits until it is ready, as an agent does.
    pub(super) async fn node(&self, which: usize) -> Node {
        let node = Node::start(which, &self.configs[which]).await;
        node.control.catch_up(PATIENCE).await.unwrap();
        node.deploy.go();
        tokio::time::timeout(PATIENCE, node.deploy.settled()).await.unwrap();
        node.members.publish(|state| state.set_phase(Phase::Ready));
        node
    }
}

/// Ports that were free a moment ago.
fn free_ports() -> (u16, u16) {
    let gossip = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    (gossip.local_addr().unwrap().port(), peer.local_addr().unwrap().port())
}

/// A running node.
pub(super) struct Node {
    pub(super) control: Control,
    pub(super) deploy: Deploy,
    pub(super) members: Members,
    pub(super) api: AppApi,
    pub(super) data_dir: PathBuf,
    which: usize,
    tasks: Tasks,
    database: Weak<Database>,
}

impl Node {
    async fn start(which: usize, config: &Config) -> Self {
        let data_dir = config.node.data_dir.clone();
        let identity = Arc::new(Identity::load(&data_dir).unwrap());
        let tasks = Tasks::new();
        let database =
            Database::open(&data_dir.join("control.db"), Options { cache_bytes: 1 << 20 }).unwrap();
        let snapshots = data_dir.join("snapshots");
        files::create_dir_durably(&snapshots).unwrap();
        let tls = node_security::client_config(&identity.tls, &[listen::ALPN_RPC]).unwrap();
        let mesh = Mesh::new(identity.node, identity.cluster, tls, tasks.clone());
        for known in &identity.peers {
            mesh.learn(known.node, known.peer);
        }
        mesh.learn(identity.node, config.peer_advertise());
        let fence = EpochFence::open(Arc::new(Facts::new(Arc::clone(&database)))).unwrap();
        let members = Members::start(MembersParts {
            identity: Arc::clone(&identity),
            config: config.clone(),
            mesh: mesh.clone(),
            tasks: tasks.clone(),
        });
        let members = members.unwrap();
        members.publish(|state| state.set_phase(Phase::Syncing));
        let transport = Arc::new(mesh.clone());
        let groups = Groups::new(identity.node, transport, tasks.tracker().clone(), tasks.stop());
        let control = Control::start(ControlParts {
            identity: Arc::clone(&identity),
            groups: groups.clone(),
            database: Arc::clone(&database),
            snapshots,
            mesh: mesh.clone(),
            members: members.clone(),
            fence: fence.clone(),
            tasks: tasks.clone(),
        })
        .await
        .unwrap();
        let balancer = Arc::new(balancer::Balancer::start(balancer::Settings::default()).unwrap());
        let parts = DeployParts {
            identity: Arc::clone(&identity),
            config: config.clone(),
            mesh,
            control: control.clone(),
            members: members.clone(),
            fence,
            balancer,
            tasks: tasks.clone(),
        };
        let deploy = Deploy::launching(parts, LAUNCHER.map(Into::into).into()).await.unwrap();
        let peers =
            Peers { groups, control: control.clone(), members: members.clone(), deploy: deploy.clone() };
        serve(config, &identity, peers, &tasks).await;
        let api = AppApi::new(deploy.clone(), control.clone(), members.clone());
        let database = Arc::downgrade(&database);
        Self { control, deploy, members, api, data_dir, which, tasks, database }
    }

    pub(super) fn id(&self) -> NodeId {
        self.deploy.inner.me
    }

    /// What a node says of itself, as this one has heard.
    pub(super) fn heard(&self, of: NodeId) -> Option<NodeState> {
        self.members.view().borrow().members.get(&of)?.state.as_deref().cloned()
    }

    /// Brings a folder in that is given as (path, bytes); a path under `bin/` may be executed.
    pub(super) async fn upload(
        &self,
        spec: &str,
        version: &str,
        files: &[(&str, &[u8])],
    ) -> Result<UploadResponse, Status> {
        let mut parts = vec![begin(spec, version)];
        for (path, bytes) in files {
            parts.push(file(path, bytes.len()));
            parts.extend(bytes.chunks(1_000).map(|chunk| Part::Data(chunk.to_vec().into())));
        }
        self.upload_parts(parts).await
    }

    pub(super) async fn upload_parts(&self, parts: Vec<Part>) -> Result<UploadResponse, Status> {
        let requests = parts.into_iter().map(|part| Ok(UploadRequest { part: Some(part) }));
        self.deploy.upload(futures::stream::iter(requests)).await
    }

    /// Rolls a release out and waits for the end.
    pub(super) async fn roll_out(&self, uploaded: &UploadResponse) -> (DeployOutcome, Vec<String>) {
        let request =
            v1::DeployRequest { app: uploaded.app.clone(), release: uploaded.release.clone(), detach: false };
        listen(self.api.deploy(Request::new(request)).await.unwrap().into_inner()).await
    }

    pub(super) async fn roll_back(&self, app: &str, version: &str) -> (DeployOutcome, Vec<String>) {
        let request = v1::RollbackRequest { app: app.to_owned(), version: version.to_owned(), detach: false };
        listen(self.api.rollback(Request::new(request)).await.unwrap().into_inner()).await
    }

    /// Asks another node's agent for something, over TLS as the controller does.
    pub(super) async fn ask(&self, agent: &Node, act: ActRequest) -> Result<ActResponse, Status> {
        let mut client = self.deploy.inner.mesh.peer(agent.id()).unwrap();
        client.act(act).await.map(Response::into_inner)
    }

    pub(super) async fn instances(&self) -> Vec<v1::Instance> {
        let request = v1::ListInstancesRequest { app: String::new() };
        self.api.list_instances(Request::new(request)).await.unwrap().into_inner().instances
    }

    pub(super) async fn app(&self, name: &str) -> Option<v1::AppDetail> {
        let apps = self.api.list_apps(Request::new(v1::ListAppsRequest {})).await.unwrap().into_inner().apps;
        apps.into_iter().find(|app| app.name == name)
    }

    /// Ends the node without a word to the others; which server it was.
    pub(super) async fn stop(self) -> usize {
        let Self { control, deploy, members, api, which, tasks, database, .. } = self;
        tasks.stop().cancel();
        members.halt();
        drop((control, deploy, members, api));
        tasks.drained().await;
        eventually("the end of the database", || database.strong_count() == 0).await;
        which
    }
}

pub(super) fn begin(spec: &str, version: &str) -> Part {
    Part::Begin(UploadBegin { manifest: spec.to_owned(), version: version.to_owned() })
}

pub(super) fn file(path: &str, size: usize) -> Part {
    Part::File(UploadFile {
        path: path.to_owned(),
        executable: path.starts_with("bin/"),
        size_bytes: size as u64,
        link_target: String::new(),
    })
}

/// The outcome, and the words on the way.
async fn listen(mut steps: super::super::progress::ProgressStream) -> (DeployOutcome, Vec<String>) {
    let mut words = Vec::new();
    loop {
        let step =
            tokio::time::timeout(PATIENCE, steps.next()).await.unwrap_or_else(|_| panic!("stuck: {words:?}"));
        let step = step.unwrap().unwrap();
        words.push(step.message);
        if let Some(outcome) = step.outcome {
            return (outcome, words);
        }
    }
}

async fn serve(config: &Config, identity: &Identity, peers: Peers, tasks: &Tasks) {
    let listener = tokio::net::TcpListener::bind(config.peer_bind()).await.unwrap();
    let (rpc, accepted) = tokio::sync::mpsc::channel(8);
    let (proxy, _nobody_proxies) = tokio::sync::mpsc::channel(1);
    let alpn = [listen::ALPN_RPC, listen::ALPN_PROXY];
    let tls = node_security::server_config(&identity.tls, &alpn).unwrap();
    tasks.essential(
        "peer port",
        listen::run(listener, tls, Limits::default(), Accepted { rpc, proxy }, tasks.clone()),
    );
    let join = JoinServiceServer::new(peers.control.clone());
    let routes = Routes::new(PeerServiceServer::new(peers)).add_service(join);
    let stop = tasks.stop();
    tasks.essential("peer gRPC", async move {
        let incoming = ReceiverStream::new(accepted);
        let server = tonic::transport::Server::builder().add_routes(routes);
        server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await.unwrap();
    });
}

/// What peers may ask of a node here.
struct Peers {
    groups: Groups,
    control: Control,
    members: Members,
    deploy: Deploy,
}

fn caller<T>(request: &Request<T>) -> NodeId {
    request.extensions().get::<PeerInfo>().and_then(|info| info.identity.as_ref()).unwrap().node
}

type Answer<T> = Result<Response<T>, Status>;

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("no sessions or caches here"))
}

/// Hands a call to the part that it is for.
macro_rules! to {
    ($request:ident, $part:expr, $method:ident) => {{
        let from = caller(&$request);
        $part.$method(from, $request.into_inner()).await.map(Response::new)
    }};
}

#[tonic::async_trait]
impl PeerService for Peers {
    async fn raft(&self, request: Request<peer::RaftRequest>) -> Answer<peer::RaftResponse> {
        let from = caller(&request);
        let request = request.into_inner();
        let group = GroupId(u16::try_from(request.group).unwrap());
        match self.groups.handle(from, group, request.payload).await {
            Ok(payload) => Ok(Response::new(peer::RaftResponse { payload })),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    async fn propose(&self, request: Request<peer::ProposeRequest>) -> Answer<peer::ProposeResponse> {
        to!(request, self.control, handle_propose)
    }

    async fn voter_secrets(
        &self,
        request: Request<peer::VoterSecretsRequest>,
    ) -> Answer<peer::VoterSecretsResponse> {
        to!(request, self.control, handle_voter_secrets)
    }

    async fn sync_states(
        &self,
        request: Request<peer::SyncStatesRequest>,
    ) -> Answer<peer::SyncStatesResponse> {
        to!(request, self.members, handle_sync)
    }

    async fn push_states(
        &self,
        request: Request<peer::PushStatesRequest>,
    ) -> Answer<peer::PushStatesResponse> {
        to!(request, self.members, handle_push)
    }

    async fn act(&self, request: Request<peer::ActRequest>) -> Answer<peer::ActResponse> {
        to!(request, self.deploy, handle_act)
    }

    type FetchBlobStream = BlobStream;

    async fn fetch_blob(&self, request: Request<peer::FetchBlobRequest>) -> Answer<BlobStream> {
        to!(request, self.deploy, handle_fetch_blob)
    }

    async fn replicate(&self, request: Request<peer::ReplicateRequest>) -> Answer<peer::ReplicateResponse> {
        to!(request, self.deploy, handle_replicate)
    }

    async fn execute(&self, _: Request<peer::ExecuteRequest>) -> Answer<peer::ExecuteResponse> {
        absent()
    }

    async fn push_invalidations(
        &self,
        _: Request<peer::PushInvalidationsRequest>,
    ) -> Answer<peer::PushInvalidationsResponse> {
        absent()
    }

    async fn pull_invalidations(
        &self,
        _: Request<peer::PullInvalidationsRequest>,
    ) -> Answer<peer::PullInvalidationsResponse> {
        absent()
    }
}
