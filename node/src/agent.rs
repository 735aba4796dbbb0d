//! The agent's life: start the parts in the order in which they need each other, serve, stop.
//!
//! ```text
//!   identity ─▶ databases ─▶ mesh ─▶ members ─▶ control ─▶ sessions, deploy, invalidation
//!                                                   │
//!                 joining ──(control log caught up)─┘─▶ syncing ──(apps run)──▶ ready
//!                                                                                │ SIGTERM
//!                                                       left ◀── draining ◀──────┘
//! ```
//!
//! Every socket is bound before the first part starts, so that a port in use is told at once and
//! nothing has to be taken back. Traffic comes when the node says that it is ready, not before.

mod descriptors;
mod folder;
mod ports;
mod signals;
mod stores;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use node_consensus::Groups;
use node_security::SecurityError;
use node_storage::StorageError;
use proto::peer::Phase;

use crate::api::admin;
use crate::api::balancer::BalancerApi;
use crate::api::cluster::ClusterApi;
use crate::api::control::ControlApi;
use crate::api::metrics::Metrics;
use crate::api::sockets::{self, PublicApi, SocketError};
use crate::api::status::StatusSource;
use crate::config::Config;
use crate::control::{Control, ControlParts};
use crate::deploy::{Deploy, DeployParts};
use crate::fence::EpochFence;
use crate::identity::{Identity, IdentityError};
use crate::invalidate::{Invalidation, InvalidationParts};
use crate::members::{Members, MembersParts};
use crate::mesh::Mesh;
use crate::mesh::listen::{self, Accepted, Limits};
use crate::mesh::service::PeerApi;
use crate::routing::Routing;
use crate::sessions::logins::Logins;
use crate::sessions::redis::RedisStore;
use crate::sessions::{Sessions, SessionsParts};
use crate::tasks::Tasks;

use descriptors::Descriptors;
use ports::Ports;
use stores::Stores;

/// How long a starting node waits for the control log before it serves what it knew: after a
/// crash of most of the farm there may be nobody to catch up with, and the serving plane must not
/// wait for the control plane.
const CATCH_UP_MAX: Duration = Duration::from_secs(20);
/// How long it then waits for its apps before it takes traffic for those that run.
const APPS_MAX: Duration = Duration::from_secs(120);
/// Between saying *draining* and closing the doors: the others' balancers have heard by then.
const DRAIN_PAUSE: Duration = Duration::from_millis(300);
/// Requests that are being answered may finish.
const BALANCER_GRACE: Duration = Duration::from_secs(10);
/// What does not stop by itself by then is left to the process's end.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Connections waiting between accept and the part that they are for.
const ACCEPTED_QUEUE: usize = 64;

/// Why the agent could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("can not open {}: {source}", path.display())]
    Storage { path: PathBuf, source: StorageError },
    #[error("the database {} is gone, and this node has voted and confirmed writes with it", path.display())]
    Gone { path: PathBuf },
    #[error("can not listen on {address} ({what}): {source}")]
    Bind { what: &'static str, address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("can not use this node's certificate: {0}")]
    Security(#[from] SecurityError),
    #[error("can not start {part}: {reason}")]
    Start { part: &'static str, reason: String },
    #[error("can not listen for signals: {0}")]
    Signals(io::Error),
    #[error("{0}")]
    Fault(String),
}

impl AgentError {
    /// Whether this node no longer has what it has confirmed to others: only a new identity helps.
    pub fn has_lost_data(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Storage { source: StorageError::Corrupt { .. }, .. })
    }
}

/// Runs the agent until it is told to stop (SIGTERM, SIGINT) or has to.
///
/// # Errors
/// What kept it from starting, or the fault that ended it.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let signals = signals::Signals::new().map_err(AgentError::Signals)?;
    let data_dir = &config.node.data_dir;
    let _alone = folder::take(data_dir).await?;
    let identity = Arc::new(Identity::load(data_dir)?);
    let ports = Ports::bind(&config).await?;
    let tasks = Tasks::new();
    tracing::info!(
        cluster = %identity.cluster, node = %identity.node, name = identity.name,
        generation = %identity.generation, "starting"
    );
    let parts = start(&config, &identity, ports, &tasks).await;
    let agent = match parts {
        Ok(agent) => agent,
        Err(error) => {
            tasks.stop().cancel();
            tasks.drained().await;
            return Err(error);
        }
    };
    let stop = tasks.stop();
    tokio::select! {
        name = signals.received() => tracing::info!(signal = name, "stopping"),
        () = stop.cancelled() => {}
        // Not in a task of its own: one that goes must not say afterwards that it is ready.
        never = agent.arrive() => match never {},
    }
    agent.depart(&tasks).await;
    match tasks.failure() {
        None => Ok(()),
        Some(reason) => Err(AgentError::Fault(reason.to_owned())),
    }
}

/// The parts that the agent's own life needs.
struct Agent {
    control: Control,
    members: Members,
    deploy: Deploy,
    balancer: Arc<balancer::Balancer>,
}

impl Agent {
    /// From *joining* to *ready*, and so for as long as it is polled.
    async fn arrive(&self) -> Infallible {
        self.members.publish(|state| state.set_phase(Phase::Syncing));
        if let Err(error) = self.control.catch_up(CATCH_UP_MAX).await {
            tracing::warn!(%error, "going on with what this node knew: the control log can not be caught up with");
        }
        self.deploy.go();
        if tokio::time::timeout(APPS_MAX, self.deploy.settled()).await.is_err() {
            tracing::warn!("an app is not ready yet; taking traffic for the others");
        }
        self.balancer.open();
        self.members.publish(|state| state.set_phase(Phase::Ready));
        tracing::info!("ready");
        self.control.stay_introduced().await
    }

    /// Out of the others' balancers first, then the doors, then the apps, then everything.
    async fn depart(&self, tasks: &Tasks) {
        self.members.publish(|state| {
            state.set_phase(Phase::Draining);
            state.draining = true;
        });
        self.balancer.leave();
        tokio::time::sleep(DRAIN_PAUSE).await;
        self.balancer.shutdown(BALANCER_GRACE).await;
        self.deploy.stop_all().await;
        // Last of what the others are told, so that what is led here is led elsewhere at once. One that ends
        // because of a fault has not left: it is down, and somebody should look.
        let members = self.members.clone();
        if tasks.failure().is_none() && tokio::task::spawn_blocking(move || members.leave()).await.is_err() {
            tracing::warn!("the goodbye was not said; the others will find out by themselves");
        }
        tasks.stop().cancel();
        if tokio::time::timeout(STOP_MAX, tasks.drained()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

async fn start(
    config: &Config,
    identity: &Arc<Identity>,
    ports: Ports,
    tasks: &Tasks,
) -> Result<Agent, AgentError> {
    let stores = Stores::open(&config.node.data_dir)?;
    let proxy_tls = node_security::client_config(&identity.tls, &[listen::ALPN_PROXY])?;
    let server_tls = node_security::server_config(&identity.tls, &[listen::ALPN_RPC, listen::ALPN_PROXY])?;
    let descriptors = Descriptors::take();
    let balancer =
        Arc::new(start_balancer(config, descriptors.public, proxy_tls).map_err(start_error("the balancer"))?);
    let parts = Parts::start(config, identity, &stores, &balancer, tasks).await?;
    let routing = Routing::start(Arc::clone(&balancer), &parts.members, parts.control.watch(), tasks);
    let status = StatusSource::new(parts.control.clone(), parts.control.group_view(), parts.members.view());
    let api = parts.api(config, identity, &status, &routing).await;
    let agent = Agent {
        control: parts.control.clone(),
        members: parts.members.clone(),
        deploy: parts.deploy.clone(),
        balancer,
    };
    let doors = Doors {
        ports,
        status,
        routing,
        api,
        control: parts.control.clone(),
        sessions: parts.sessions.clone(),
        invalidation: parts.invalidation.clone(),
        peers: parts.peers(identity),
        server_tls,
        descriptors,
    };
    doors.open(config, &agent, tasks)?;
    Ok(agent)
}

/// The parts that know each other, in the order in which they are started.
struct Parts {
    members: Members,
    groups: Groups,
    control: Control,
    sessions: Sessions,
    deploy: Deploy,
    invalidation: Invalidation,
}

impl Parts {
    async fn start(
        config: &Config,
        identity: &Arc<Identity>,
        stores: &Stores,
        balancer: &Arc<balancer::Balancer>,
        tasks: &Tasks,
    ) -> Result<Self, AgentError> {
        let mesh = start_mesh(config, identity, tasks)?;
        let fence = EpochFence::open(Arc::clone(&stores.facts)).map_err(start_error("the epoch fence"))?;
        let members = Members::start(MembersParts {
            identity: Arc::clone(identity),
            config: config.clone(),
            mesh: mesh.clone(),
            tasks: tasks.clone(),
        })
        .map_err(start_error("the membership"))?;
        let transport = Arc::new(mesh.clone());
        let groups = Groups::new(identity.node, transport, tasks.tracker().clone(), tasks.stop());
        let control = Control::start(ControlParts {
            identity: Arc::clone(identity),
            groups: groups.clone(),
            database: Arc::clone(&stores.control),
            snapshots: stores.snapshots.clone(),
            mesh: mesh.clone(),
            members: members.clone(),
            fence: fence.clone(),
            tasks: tasks.clone(),
        })
        .await
        .map_err(start_error("the control log"))?;
        let sessions = Sessions::start(SessionsParts {
            groups: groups.clone(),
            database: Arc::clone(&stores.sessions),
            snapshots: stores.snapshots.clone(),
            mesh: mesh.clone(),
            control: control.clone(),
            members: members.clone(),
            config: config.clone(),
            tasks: tasks.clone(),
        })
        .await
        .map_err(start_error("the session groups"))?;
        let deploy = Deploy::start(DeployParts {
            identity: Arc::clone(identity),
            config: config.clone(),
            mesh: mesh.clone(),
            control: control.clone(),
            members: members.clone(),
            fence,
            balancer: Arc::clone(balancer),
            tasks: tasks.clone(),
        })
        .await
        .map_err(start_error("the apps"))?;
        let invalidation = Invalidation::start(InvalidationParts {
            generation: identity.generation,
            life: identity.life,
            mesh,
            members: members.clone(),
            tasks: tasks.clone(),
        });
        Ok(Self { members, groups, control, sessions, deploy, invalidation })
    }

    async fn api(
        &self,
        config: &Config,
        identity: &Identity,
        status: &StatusSource,
        routing: &Routing,
    ) -> PublicApi {
        let (control, members) = (self.control.clone(), self.members.clone());
        PublicApi {
            cluster: Arc::new(ClusterApi {
                status: status.clone(),
                control: control.clone(),
                ca_digest: node_security::ca_digest(identity.tls.ca_der()),
                advertise: config.peer_advertise(),
            }),
            control: Arc::new(ControlApi { status: status.clone() }),
            apps: Arc::new(crate::deploy::service::AppApi::new(self.deploy.clone(), control, members)),
            sessions: Arc::new(crate::sessions::service::SessionApi::new(self.sessions.clone())),
            cache: Arc::new(crate::invalidate::service::CacheApi::new(self.invalidation.clone())),
            balancer: Arc::new(BalancerApi { routing: routing.clone() }),
            health: sockets::health().await,
        }
    }

    fn peers(self, identity: &Arc<Identity>) -> PeerApi {
        PeerApi {
            identity: Arc::clone(identity),
            groups: self.groups,
            control: self.control,
            members: self.members,
            sessions: self.sessions,
            deploy: self.deploy,
            invalidation: self.invalidation,
        }
    }
}

fn start_mesh(config: &Config, identity: &Identity, tasks: &Tasks) -> Result<Mesh, AgentError> {
    let tls = node_security::client_config(&identity.tls, &[listen::ALPN_RPC])?;
    let mesh = Mesh::new(identity.node, identity.cluster, tls, tasks.clone());
    for peer in &identity.peers {
        mesh.learn(peer.node, peer.peer);
    }
    // Itself too: the controller acts on its own node by the same way as on the others.
    mesh.learn(identity.node, config.peer_advertise());
    Ok(mesh)
}

/// Everything that answers, started last.
struct Doors {
    ports: Ports,
    status: StatusSource,
    routing: Routing,
    peers: PeerApi,
    api: PublicApi,
    control: Control,
    sessions: Sessions,
    invalidation: Invalidation,
    server_tls: Arc<rustls::ServerConfig>,
    descriptors: Descriptors,
}

impl Doors {
    fn open(self, config: &Config, agent: &Agent, tasks: &Tasks) -> Result<(), AgentError> {
        let (rpc, rpc_accepted) = tokio::sync::mpsc::channel(ACCEPTED_QUEUE);
        let (proxy, mut proxied) = tokio::sync::mpsc::channel(ACCEPTED_QUEUE);
        let accepted = Accepted { rpc, proxy };
        let limits = Limits::within(self.descriptors.peer);
        tasks.essential(
            "peer port",
            listen::run(self.ports.peer, self.server_tls, limits, accepted, tasks.clone()),
        );
        let balancer = Arc::clone(&agent.balancer);
        tasks.essential("proxied requests", async move {
            while let Some(stream) = proxied.recv().await {
                if stream.is_surplus() {
                    balancer.turn_away_peer(stream);
                } else {
                    balancer.serve_peer(stream);
                }
            }
        });
        let logins = Logins::new(self.control.clone(), config).map_err(start_error("the Redis port"))?;
        let grpc =
            sockets::peer_server(rpc_accepted, self.control, self.peers, self.api.clone(), tasks.clone())?;
        tasks.essential("peer gRPC", grpc);
        let operators = sockets::operators(self.ports.operators, self.api.clone(), tasks.clone())?;
        tasks.essential("operators' socket", operators);
        tasks.essential(
            "apps' socket",
            sockets::apps(self.ports.apps, self.api, logins.clone(), tasks.clone()),
        );
        let metrics = Metrics::new(self.routing);
        tasks.essential("admin port", admin::run(self.ports.admin, self.status, metrics, tasks.clone()));
        let store = RedisStore::new(self.sessions, self.invalidation, logins, config.node.name.clone());
        let limits =
            node_resp::Limits { connections_max: self.descriptors.redis, ..node_resp::Limits::default() };
        let (tracker, stop) = (tasks.tracker().clone(), tasks.stop());
        tasks.essential("Redis port", node_resp::serve(self.ports.resp, store, limits, tracker, stop));
        Ok(())
    }
}

fn start_balancer(
    config: &Config,
    connections_max: usize,
    tls: Arc<rustls::ClientConfig>,
) -> Result<balancer::Balancer, balancer::StartError> {
    balancer::Balancer::start(balancer::Settings {
        http: config.balancer.http.clone(),
        workers: config.balancer.workers,
        trusted_proxies: config.balancer.trusted_proxies.clone(),
        tls: Some(tls),
        connections_max,
    })
}

fn start_error<E: std::fmt::Display>(part: &'static str) -> impl FnOnce(E) -> AgentError {
    move |error| AgentError::Start { part, reason: error.to_string() }
}
