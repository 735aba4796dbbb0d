//! Nodes for the tests: real TLS, gossip, disks, elections and Redis ports; only the apps are absent.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use node_consensus::Groups;
use node_storage::{Database, Facts, Options, files};
use proto::ids::{GroupId, NodeId};
use proto::peer::join_service_server::JoinServiceServer;
use proto::peer::peer_service_server::{PeerService, PeerServiceServer};
use proto::peer::{self, Phase};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::super::logins::Logins;
use super::super::redis::RedisStore;
use super::super::{Sessions, SessionsParts};
use crate::bootstrap;
use crate::config::Config;
use crate::control::{Control, ControlParts};
use crate::fence::EpochFence;
use crate::identity::Identity;
use crate::invalidate::{Invalidation, InvalidationParts};
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
    _folder: tempfile::TempDir,
}

impl Farm {
    /// A farm of running nodes whose groups all have a replica on each of the first three. `sets` are
    /// settings as of the command line.
    pub(super) async fn start(count: usize, sets: &[&str]) -> (Self, Vec<Node>) {
        let folder = tempfile::tempdir().unwrap();
        let config = |number: usize| {
            let (gossip, peer) = free_ports();
            let mut all = vec![
                format!("node.name=\"node-{number}\""),
                format!("node.data_dir=\"{}\"", folder.path().join(format!("node-{number}")).display()),
                "network.bind=\"127.0.0.1\"".to_owned(),
                format!("network.gossip_port={gossip}"),
                format!("network.peer_port={peer}"),
            ];
            all.extend(sets.iter().map(|set| (*set).to_owned()));
            Config::load(None, &all, std::iter::empty()).unwrap()
        };
        let farm = Self { configs: (1..=count).map(config).collect(), _folder: folder };
        let token = bootstrap::init(&farm.configs[0]).unwrap().token;
        let mut nodes = vec![farm.run(0).await];
        for which in 1..count {
            let target = format!("{token}@{}", farm.configs[0].peer_advertise());
            bootstrap::join(&farm.configs[which], &target).await.unwrap();
            nodes.push(farm.run(which).await);
        }
        for node in &nodes {
            node.whole(count.min(3)).await;
        }
        (farm, nodes)
    }

    /// Starts a node and waits until it has caught up with the control log.
    pub(super) async fn run(&self, which: usize) -> Node {
        let node = Node::start(which, &self.configs[which]).await;
        node.control.catch_up(PATIENCE).await.unwrap();
        node.members.publish(|state| state.set_phase(Phase::Ready));
        node
    }
}

/// Two ports that are free, below those that the system gives to outgoing connections: one of these
/// could take a port between here and its use.
fn free_ports() -> (u16, u16) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let apart = u16::try_from(std::process::id() % 100).unwrap() * 100;
    let mut ports =
        std::iter::repeat_with(|| 12_000 + (apart + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000);
    let mut free = ports.by_ref().filter(|port| {
        let address = ("127.0.0.1", *port);
        UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok()
    });
    (free.next().unwrap(), free.next().unwrap())
}

/// A running node.
pub(super) struct Node {
    pub(super) control: Control,
    pub(super) sessions: Sessions,
    /// Of its Redis port.
    redis: SocketAddr,
    /// Whether the next answer to operations of another node gets lost.
    loses_answer: Arc<AtomicBool>,
    members: Members,
    which: usize,
    tasks: Tasks,
    databases: [Weak<Database>; 2],
}

impl Node {
    async fn start(which: usize, config: &Config) -> Self {
        let data_dir = &config.node.data_dir;
        let identity = Arc::new(Identity::load(data_dir).unwrap());
        let tasks = Tasks::new();
        let open = |name| Database::open(&data_dir.join(name), Options { cache_bytes: 1 << 20 }).unwrap();
        let (log, database) = (open("control.db"), open("sessions.db"));
        let databases = [Arc::downgrade(&log), Arc::downgrade(&database)];
        let snapshots = data_dir.join("snapshots");
        files::create_dir_durably(&snapshots).unwrap();
        let tls = node_security::client_config(&identity.tls, &[listen::ALPN_RPC]).unwrap();
        let mesh = Mesh::new(identity.node, identity.cluster, tls, tasks.clone());
        for known in &identity.peers {
            mesh.learn(known.node, known.peer);
        }
        let members = Members::start(MembersParts {
            identity: Arc::clone(&identity),
            config: config.clone(),
            mesh: mesh.clone(),
            tasks: tasks.clone(),
        });
        let members = members.unwrap();
        members.publish(|state| state.set_phase(Phase::Syncing));
        let groups =
            Groups::new(identity.node, Arc::new(mesh.clone()), tasks.tracker().clone(), tasks.stop());
        let control = Control::start(ControlParts {
            identity: Arc::clone(&identity),
            groups: groups.clone(),
            database: Arc::clone(&log),
            snapshots: snapshots.clone(),
            mesh: mesh.clone(),
            members: members.clone(),
            fence: EpochFence::open(Arc::new(Facts::new(log))).unwrap(),
            tasks: tasks.clone(),
        });
        let control = control.await.unwrap();
        let parts = SessionsParts {
            groups: groups.clone(),
            database,
            snapshots,
            mesh: mesh.clone(),
            control: control.clone(),
            members: members.clone(),
            config: config.clone(),
            tasks: tasks.clone(),
        };
        let sessions = Sessions::start(parts).await.unwrap();
        let (generation, life) = (identity.generation, identity.life);
        let (members_too, tasks_too) = (members.clone(), tasks.clone());
        let parts = InvalidationParts { generation, life, mesh, members: members_too, tasks: tasks_too };
        let logins = Logins::new(control.clone(), config).unwrap();
        let name = config.node.name.clone();
        let store = RedisStore::new(sessions.clone(), Invalidation::start(parts), logins, name);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let redis = listener.local_addr().unwrap();
        let limits = node_resp::Limits::default();
        let port = node_resp::serve(listener, store, limits, tasks.tracker().clone(), tasks.stop());
        tasks.essential("Redis port", port);
        let loses_answer = Arc::<AtomicBool>::default();
        let agent = Agent {
            groups,
            control: control.clone(),
            sessions: sessions.clone(),
            members: members.clone(),
            loses_answer: Arc::clone(&loses_answer),
        };
        serve(config, &identity, agent, &tasks).await;
        Self { control, sessions, redis, loses_answer, members, which, tasks, databases }
    }

    /// A stock client of this node's Redis port; `login` is `user:password@` or nothing.
    pub(super) async fn client(&self, login: &str) -> redis::aio::MultiplexedConnection {
        self.try_client(login).await.unwrap()
    }

    pub(super) async fn try_client(
        &self,
        login: &str,
    ) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let url = format!("redis://{login}{}/?protocol=resp3", self.redis);
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Has this node execute what it is asked for next by another node, and say nothing of it.
    pub(super) fn lose_next_answer(&self) {
        self.loses_answer.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_lost_answer(&self) -> bool {
        !self.loses_answer.load(Ordering::SeqCst)
    }

    /// Whether the groups that this node leads have the members that the controller has placed.
    pub(super) fn agrees_with_placement(&self) -> bool {
        let placement = self.control.state().placement.clone();
        self.sessions.inner.hosted.led().into_iter().all(|(group, view)| {
            let placed = placement.get(&group.id()).into_iter().flatten().copied();
            placed.collect::<std::collections::BTreeSet<_>>() == view.voters
        })
    }

    /// Waits until every group has so many replicas, by the word of their leaders.
    pub(super) async fn whole(&self, replicas: usize) {
        let view = self.members.view();
        eventually("replicas of all groups", || {
            let groups = self.control.state().groups;
            let view = view.borrow();
            let states = view.members.values().filter_map(|member| member.state.as_ref());
            let led: Vec<_> = states.flat_map(|state| &state.groups).collect();
            let whole = |group: u16| {
                let claims = led.iter().filter(|claim| claim.group == u32::from(group));
                claims.max_by_key(|claim| claim.term).is_some_and(|claim| claim.voters.len() == replicas)
            };
            groups > 0 && (1..=groups).all(whole)
        })
        .await;
    }

    /// Ends the node without a word to the others; which server it was.
    pub(super) async fn stop(self) -> usize {
        let Self { control, sessions, members, which, tasks, databases, .. } = self;
        tasks.stop().cancel();
        members.halt();
        drop((control, sessions, members));
        tasks.drained().await;
        eventually("the end of the databases", || databases.iter().all(|db| db.strong_count() == 0)).await;
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

/// An agent without apps.
struct Agent {
    groups: Groups,
    control: Control,
    sessions: Sessions,
    members: Members,
    loses_answer: Arc<AtomicBool>,
}

fn caller<T>(request: &Request<T>) -> NodeId {
    request.extensions().get::<PeerInfo>().and_then(|info| info.identity.as_ref()).unwrap().node
}

type Answer<T> = Result<Response<T>, Status>;

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("no apps or caches here"))
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

    async fn execute(&self, request: Request<peer::ExecuteRequest>) -> Answer<peer::ExecuteResponse> {
        let from = caller(&request);
        let answer = self.sessions.handle_execute(from, request.into_inner()).await;
        if self.loses_answer.swap(false, Ordering::SeqCst) {
            // Until whoever asked has given up.
            std::future::pending::<()>().await;
        }
        answer.map(Response::new)
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

    async fn voter_secrets(
        &self,
        request: Request<peer::VoterSecretsRequest>,
    ) -> Answer<peer::VoterSecretsResponse> {
        let from = caller(&request);
        self.control.handle_voter_secrets(from, request.into_inner()).await.map(Response::new)
    }

    async fn act(&self, _: Request<peer::ActRequest>) -> Answer<peer::ActResponse> {
        absent()
    }

    type FetchBlobStream = ReceiverStream<Result<peer::FetchBlobResponse, Status>>;

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
