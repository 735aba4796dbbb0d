//! Nodes for the tests: everything below the apps is real.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use node_consensus::Groups;
use node_storage::{Database, Facts, Options, files};
use proto::ids::{Epoch, GroupId, NodeId, ReleaseId};
use proto::peer::act_request::What;
use proto::peer::join_service_server::JoinServiceServer;
use proto::peer::peer_service_server::{PeerService, PeerServiceServer};
use proto::peer::{self, AppState, Phase};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::bootstrap::{self, BootstrapError};
use crate::config::Config;
use crate::control::{Control, ControlParts};
use crate::fence::EpochFence;
use crate::identity::Identity;
use crate::members::{Members, MembersParts};
use crate::mesh::listen::{self, Accepted, Limits};
use crate::mesh::{Mesh, PeerInfo};
use crate::tasks::Tasks;

/// Longer than anything takes on a busy machine: only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

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
    token: String,
    _folder: tempfile::TempDir,
}

impl Farm {
    pub(super) fn new(nodes: usize) -> Self {
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
        Self { configs: (1..=nodes).map(config).collect(), token: String::new(), _folder: folder }
    }

    pub(super) fn config(&self, which: usize) -> &Config {
        &self.configs[which]
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn address(&self, which: usize) -> SocketAddr {
        self.configs[which].peer_advertise()
    }

    pub(super) async fn init(&mut self) -> Node {
        self.token = bootstrap::init(&self.configs[0]).unwrap().token;
        self.start(0).await
    }

    pub(super) async fn join(&self, which: usize, at: usize) -> Result<(), BootstrapError> {
        let target = format!("{}@{}", self.token, self.address(at));
        bootstrap::join(&self.configs[which], &target).await.map(|_| ())
    }

    /// Starts a node and waits until it has caught up with the log.
    pub(super) async fn start(&self, which: usize) -> Node {
        let node = Node::start(which, &self.configs[which]).await;
        node.control.catch_up(PATIENCE).await.unwrap();
        node.members.publish(|state| state.set_phase(Phase::Ready));
        node
    }
}

/// Ports that were free a moment ago, below those that the kernel gives to outgoing connections: while a
/// node is down, nobody else gets its port.
fn free_ports() -> (u16, u16) {
    let free = |port: &u16| {
        UdpSocket::bind(("127.0.0.1", *port)).is_ok() && TcpListener::bind(("127.0.0.1", *port)).is_ok()
    };
    let mut ports = std::iter::repeat_with(|| rand::random_range(10_000..32_000)).filter(free);
    (ports.next().unwrap(), ports.next().unwrap())
}

/// A running node.
pub(super) struct Node {
    pub(super) control: Control,
    pub(super) identity: Arc<Identity>,
    members: Members,
    which: usize,
    tasks: Tasks,
    database: Weak<Database>,
}

impl Node {
    async fn start(which: usize, config: &Config) -> Self {
        let data_dir = &config.node.data_dir;
        let identity = Arc::new(Identity::load(data_dir).unwrap());
        let tasks = Tasks::new();
        let options = Options { cache_bytes: 1 << 20 };
        let database = Database::open(&data_dir.join("control.db"), options).unwrap();
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
            mesh,
            members: members.clone(),
            fence: fence.clone(),
            tasks: tasks.clone(),
        });
        let control = control.await.unwrap();
        let agent = Agent { groups, control: control.clone(), fence, members: members.clone() };
        serve(config, &identity, agent, &tasks).await;
        Self { control, identity, members, which, tasks, database: Arc::downgrade(&database) }
    }

    /// Whether it has a state of another node, or a way to it.
    pub(super) fn knows(&self, other: NodeId) -> bool {
        let view = self.members.view().borrow().clone();
        view.members.get(&other).is_some_and(|member| member.state.is_some())
            || self.control.inner.mesh.address(other).is_some()
    }

    /// The release of an app that the node says it runs.
    pub(super) fn runs(&self, app: &str) -> Option<ReleaseId> {
        let view = self.members.view().borrow().clone();
        let state = view.members.get(&self.identity.node)?.state.clone()?;
        let app = state.apps.iter().find(|known| known.app == app)?;
        ReleaseId::from_slice(&app.release)
    }

    /// Ends the node without a word to the others; which server it was.
    pub(super) async fn stop(self) -> usize {
        let Self { control, members, which, tasks, database, .. } = self;
        tasks.stop().cancel();
        members.halt();
        drop((control, members));
        tasks.drained().await;
        eventually("the end of the database", || database.strong_count() == 0).await;
        which
    }
}

async fn serve(config: &Config, identity: &Identity, agent: Agent, tasks: &Tasks) {
    let listener = tokio::net::TcpListener::bind(config.peer_bind()).await.unwrap();
    let (rpc, accepted) = tokio::sync::mpsc::channel(8);
    let (proxy, _nobody_proxies) = tokio::sync::mpsc::channel(1);
    let alpn = [listen::ALPN_RPC, listen::ALPN_PROXY];
    let tls = node_security::server_config(&identity.tls, &alpn).unwrap();
    tasks.essential(
        "peer port",
        listen::run(listener, tls, Limits::default(), Accepted { rpc, proxy }, tasks.clone()),
    );
    let join = JoinServiceServer::new(agent.control.clone());
    let routes = Routes::new(PeerServiceServer::new(agent)).add_service(join);
    let stop = tasks.stop();
    tasks.essential("peer gRPC", async move {
        let incoming = ReceiverStream::new(accepted);
        let server = tonic::transport::Server::builder().add_routes(routes);
        server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await.unwrap();
    });
}

/// An agent that runs whatever it is told, at once.
struct Agent {
    groups: Groups,
    control: Control,
    fence: EpochFence,
    members: Members,
}

fn caller<T>(request: &Request<T>) -> NodeId {
    request.extensions().get::<PeerInfo>().and_then(|info| info.identity.as_ref()).unwrap().node
}

type Answer<T> = Result<Response<T>, Status>;

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("no apps, sessions or caches here"))
}

#[tonic::async_trait]
impl PeerService for Agent {
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
        let from = caller(&request);
        self.control.handle_propose(from, request.into_inner()).await.map(Response::new)
    }

    async fn voter_secrets(
        &self,
        request: Request<peer::VoterSecretsRequest>,
    ) -> Answer<peer::VoterSecretsResponse> {
        let from = caller(&request);
        self.control.handle_voter_secrets(from, request.into_inner()).await.map(Response::new)
    }

    async fn sync_states(
        &self,
        request: Request<peer::SyncStatesRequest>,
    ) -> Answer<peer::SyncStatesResponse> {
        let from = caller(&request);
        self.members.handle_sync(from, request.into_inner()).await.map(Response::new)
    }

    async fn push_states(
        &self,
        request: Request<peer::PushStatesRequest>,
    ) -> Answer<peer::PushStatesResponse> {
        let from = caller(&request);
        self.members.handle_push(from, request.into_inner()).await.map(Response::new)
    }

    async fn act(&self, request: Request<peer::ActRequest>) -> Answer<peer::ActResponse> {
        let request = request.into_inner();
        let admitted = self.fence.admit(Epoch(request.epoch)).await;
        let reason = admitted.as_ref().err().map(ToString::to_string).unwrap_or_default();
        if admitted.is_ok() {
            self.members.publish(|state| match request.what.unwrap() {
                What::Fetch(fetch) => state.releases.push(fetch.release),
                What::Run(run) => {
                    state.apps.retain(|known| known.app != run.app);
                    state.apps.push(AppState {
                        app: run.app,
                        release: run.release,
                        state: "ready".to_owned(),
                        message: String::new(),
                        epoch: request.epoch,
                        action: request.action,
                    });
                }
            });
        }
        let epoch_seen = self.fence.seen().0;
        Ok(Response::new(peer::ActResponse { accepted: admitted.is_ok(), epoch_seen, reason }))
    }

    async fn execute(&self, _: Request<peer::ExecuteRequest>) -> Answer<peer::ExecuteResponse> {
        absent()
    }

    type FetchBlobStream =
        Pin<Box<dyn futures::Stream<Item = Result<peer::FetchBlobResponse, Status>> + Send>>;

    async fn fetch_blob(&self, _: Request<peer::FetchBlobRequest>) -> Answer<Self::FetchBlobStream> {
        absent()
    }

    async fn replicate(&self, _: Request<peer::ReplicateRequest>) -> Answer<peer::ReplicateResponse> {
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
