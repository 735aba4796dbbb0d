//! How a server becomes a member: `holdfast init` and `holdfast join`.
//!
//! Both work on the data folder while no agent runs on it, and leave an identity there or nothing.
//!
//! ```text
//!   init:  draw cluster id, CA, gossip key, first token ─▶ identity + genesis.json
//!   join:  TOKEN@HOST:PORT ─ TLS, CA checked by the token's digest ─▶ JoinService
//!          key never leaves this server: only a signing request does ─▶ identity
//! ```
//!
//! A server whose data folder still holds another life's logs gets no identity: they would be taken for
//! the new one's, and found damaged. Neither verb makes any of what is refused then, so that one that
//! failed half way can be repeated.
//!
//! A join that is cut off is safe to repeat: the key is kept until the identity is written, and
//! the cluster knows the request again and spends no second use of the token.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper_util::rt::TokioIo;
use node_core::control::{Command, Fingerprint, NewNode, Role, TokenRecord};
use node_security::{CertificateAuthority, GossipKey, JoinToken, NodeKey, SecurityError};
use node_storage::{DirLock, StorageError, files};
use proto::ids::{ClusterId, NodeId};
use proto::peer::join_service_client::JoinServiceClient;
use proto::peer::{JoinRequest, JoinResponse};
use rand::RngCore as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;
use tonic::transport::{Endpoint, Uri};

use crate::config::Config;
use crate::identity::{self, Card, IdentityError, KnownPeer, NewIdentity};

/// Session groups of a new cluster; fixed for its life (sessions.md has the measurements).
const GROUPS: u16 = 16;
/// How long the token lives that `init` prints.
const FIRST_TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
/// The whole of one attempt to join. An election may be going on at the other end.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The first node's id. The log's first indexes are raft's own, so no admission can get it.
const FIRST: NodeId = NodeId(1);

/// Databases, and the marks beside them.
const LEFT_ENDINGS: [&str; 2] = [".db", ".commits"];
/// The folder of the groups' snapshots.
const SNAPSHOTS: &str = "snapshots";

/// Why a server did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("can not use the data folder {}: {source}", path.display())]
    DataDir { path: PathBuf, source: StorageError },
    #[error(
        "{} holds no identity, but what an earlier member left: {}; move the whole folder aside \
         (all of these belong together), or put the identity back that belongs to them",
        path.display(),
        names.join(", ")
    )]
    Leftovers { path: PathBuf, names: Vec<String> },
    #[error("can not make keys or certificates: {0}")]
    Security(#[from] SecurityError),
    #[error("{text:?} is not TOKEN@HOST:PORT: {reason}")]
    Target { text: String, reason: String },
    #[error("can not find {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("can not reach {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address} is not of the cluster that the token is for: {source}")]
    WrongCluster { address: SocketAddr, source: io::Error },
    #[error("the cluster refused: {0}")]
    Refused(String),
    #[error("the cluster has no controller at the moment: {0}")]
    NoController(String),
    #[error("{address} did not answer in {} s", JOIN_TIMEOUT.as_secs())]
    TimedOut { address: SocketAddr },
    #[error("{address} sent an answer that makes no sense: {reason}")]
    BadAnswer { address: SocketAddr, reason: String },
}

/// What `holdfast init` tells.
#[derive(Debug, Clone)]
pub struct InitOutcome {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// The token's id and its secret.
    pub token_id: String,
    pub token: String,
    /// The whole command for the next server.
    pub join: String,
    pub expires: SystemTime,
}

/// What `holdfast join` tells.
#[derive(Debug, Clone, Copy)]
pub struct JoinOutcome {
    pub cluster: ClusterId,
    pub node: NodeId,
}

/// Makes this server the first of a new cluster.
///
/// # Errors
/// When it is a member already, an agent runs on the data folder, or the disk refuses.
pub fn init(config: &Config) -> Result<InitOutcome, BootstrapError> {
    let _alone = open_data_dir(&config.node.data_dir)?;
    identity::refuse_member(&config.node.data_dir)?;
    refuse_leftovers(&config.node.data_dir)?;
    let mut id = [0; 16];
    rand::rng().fill_bytes(&mut id);
    let cluster = ClusterId(id);
    let authority = CertificateAuthority::generate(cluster)?;
    let key = NodeKey::generate()?;
    let csr = key.csr()?;
    let certificate = authority.issue(&csr, cluster, FIRST, node_security::Role::Server)?;
    let token = JoinToken::generate(node_security::ca_digest(authority.certificate_der()));
    let expires = SystemTime::now() + FIRST_TOKEN_TTL;
    let record = TokenRecord {
        hash: Fingerprint(token.hash()),
        role: Role::Server,
        expires_ms: unix_ms(expires),
        uses_left: None,
    };
    let genesis = Command::Genesis {
        cluster,
        groups: GROUPS,
        first: new_node(config, &csr),
        token: Some((token.id(), record)),
    };
    let new = NewIdentity {
        card: card(config, cluster, FIRST, Vec::new()),
        certificate,
        key: key.key_der().to_vec(),
        ca: authority.certificate_der().to_vec(),
        gossip_key: GossipKey::generate(),
        ca_key: Some(authority.key_der().to_vec()),
        genesis: Some(genesis),
    };
    identity::write_new(&config.node.data_dir, &new)?;
    Ok(InitOutcome {
        cluster,
        node: FIRST,
        token_id: token.id(),
        token: token.to_string(),
        join: format!("holdfast join {token}@{}", config.peer_advertise()),
        expires,
    })
}

/// Makes this server a member of the cluster that `target` (`TOKEN@HOST:PORT`) names.
///
/// # Errors
/// See [`BootstrapError`]; after any of them the server is as it was.
pub async fn join(config: &Config, target: &str) -> Result<JoinOutcome, BootstrapError> {
    let _alone = open_data_dir(&config.node.data_dir)?;
    identity::refuse_member(&config.node.data_dir)?;
    refuse_leftovers(&config.node.data_dir)?;
    let (token, address) = parse_target(target).await?;
    let (key, csr) = kept_request(&config.node.data_dir)?;
    let node = new_node(config, &csr);
    let request = JoinRequest {
        token: token.to_string(),
        csr: csr.into(),
        name: node.name,
        zone: node.zone,
        region: node.region,
        peer_addr: node.peer_addr.to_string(),
        gossip_addr: node.gossip_addr.to_string(),
        roles: node.roles.into_iter().collect(),
    };
    let answer = tokio::time::timeout(JOIN_TIMEOUT, ask(address, &token, request))
        .await
        .map_err(|_| BootstrapError::TimedOut { address })??;
    let (new, outcome) = accept(config, &token, &key, address, answer)?;
    identity::write_new(&config.node.data_dir, &new)?;
    forget_request(&config.node.data_dir);
    Ok(outcome)
}

async fn parse_target(target: &str) -> Result<(JoinToken, SocketAddr), BootstrapError> {
    // The token is a secret: an error shows no more of it than its beginning.
    let shown = || target.chars().take(8).chain("...".chars()).collect::<String>();
    let bad = |reason: String| BootstrapError::Target { text: shown(), reason };
    let (token, host) = target.trim().rsplit_once('@').ok_or_else(|| bad("there is no '@'".to_owned()))?;
    let token: JoinToken = token.parse().map_err(|error| bad(format!("{error}")))?;
    if host.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
        return Err(bad("there is no port".to_owned()));
    }
    let mut found = tokio::net::lookup_host(host)
        .await
        .map_err(|source| BootstrapError::Resolve { host: host.to_owned(), source })?;
    let none = || io::Error::new(io::ErrorKind::NotFound, "no address");
    let address =
        found.next().ok_or_else(|| BootstrapError::Resolve { host: host.to_owned(), source: none() })?;
    Ok((token, address))
}

/// One Join call over a connection whose CA has the token's digest.
async fn ask(
    address: SocketAddr,
    token: &JoinToken,
    request: JoinRequest,
) -> Result<JoinResponse, BootstrapError> {
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| BootstrapError::Connect { address, source })?;
    let tls = TlsConnector::from(node_security::joiner_config(token.ca_digest()))
        .connect(node_security::joiner_server_name(), tcp)
        .await
        .map_err(|source| BootstrapError::WrongCluster { address, source })?;
    let once = Arc::new(std::sync::Mutex::new(Some(tls)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        async move { stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe)) }
    });
    let channel = Endpoint::from_static("http://peer.holdfast").connect_with_connector_lazy(connector);
    let answer = JoinServiceClient::new(channel).max_decoding_message_size(1 << 20).join(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        let words = status.message().to_owned();
        if status.code() == Code::Unavailable {
            BootstrapError::NoController(words)
        } else {
            BootstrapError::Refused(words)
        }
    })
}

/// Checks what the cluster has given before any of it is kept.
fn accept(
    config: &Config,
    token: &JoinToken,
    key: &NodeKey,
    address: SocketAddr,
    answer: JoinResponse,
) -> Result<(NewIdentity, JoinOutcome), BootstrapError> {
    let bad = |reason: &str| BootstrapError::BadAnswer { address, reason: reason.to_owned() };
    let cluster: ClusterId = answer.cluster_id.parse().map_err(|_| bad("no cluster id"))?;
    let node = NodeId(answer.node);
    if node_security::ca_digest(&answer.ca) != token.ca_digest() {
        return Err(bad("the CA is not the token's"));
    }
    let certificate = answer.certificate.to_vec();
    let named = node_security::identify(&certificate.clone().into())?;
    if named.cluster != cluster || named.node != node {
        return Err(bad("the certificate is for somebody else"));
    }
    let gossip_key = GossipKey::from_slice(&answer.gossip_key).ok_or_else(|| bad("no gossip key"))?;
    let peers = answer.peers.iter().filter_map(known_peer).collect();
    let new = NewIdentity {
        card: card(config, cluster, node, peers),
        certificate,
        key: key.key_der().to_vec(),
        ca: answer.ca.to_vec(),
        gossip_key,
        ca_key: None,
        genesis: None,
    };
    Ok((new, JoinOutcome { cluster, node }))
}

fn known_peer(peer: &proto::peer::PeerAddress) -> Option<KnownPeer> {
    let (peer_addr, gossip) = (peer.peer_addr.parse().ok()?, peer.gossip_addr.parse().ok()?);
    Some(KnownPeer { node: NodeId(peer.node), peer: peer_addr, gossip })
}

fn new_node(config: &Config, csr: &[u8]) -> NewNode {
    NewNode {
        name: config.node.name.clone(),
        zone: config.node.zone.clone(),
        region: config.node.region.clone(),
        peer_addr: config.peer_advertise(),
        gossip_addr: config.gossip_advertise(),
        roles: config.node.roles.clone(),
        csr_hash: Fingerprint(blake3::hash(csr).into()),
    }
}

fn card(config: &Config, cluster: ClusterId, node: NodeId, peers: Vec<KnownPeer>) -> Card {
    Card { cluster, node, name: config.node.name.clone(), zone: config.node.zone.clone(), peers }
}

/// Creates the data folder for its owner alone, and takes it, so that no agent runs meanwhile.
fn open_data_dir(path: &Path) -> Result<DirLock, BootstrapError> {
    let failed = |source| BootstrapError::DataDir { path: path.to_owned(), source };
    files::create_dir_durably(path).map_err(failed)?;
    DirLock::acquire(path).map_err(failed)
}

/// Refuses a data folder that has what only an agent makes, which has an identity first. A database
/// under another name than its mark, or either without the other, is what is left when somebody moved
/// aside a part of them.
fn refuse_leftovers(data_dir: &Path) -> Result<(), BootstrapError> {
    let failed = |source| BootstrapError::DataDir {
        path: data_dir.to_owned(),
        source: StorageError::File { action: "read", path: data_dir.to_owned(), source },
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data_dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let is_left = if name == SNAPSHOTS {
            std::fs::read_dir(data_dir.join(&name)).map_err(failed)?.next().is_some()
        } else {
            LEFT_ENDINGS.iter().any(|ending| name.ends_with(ending))
        };
        if is_left {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    names.sort();
    Err(BootstrapError::Leftovers { path: data_dir.to_owned(), names })
}

/// The key and signing request of a join that was cut off, or new ones, on disk before anybody
/// hears of them. The request is kept as well, since signing it again gives other bytes and the
/// cluster knows it by these.
fn kept_request(data_dir: &Path) -> Result<(NodeKey, Vec<u8>), BootstrapError> {
    let [key_path, csr_path] = request_paths(data_dir);
    let failed = |source| BootstrapError::DataDir { path: data_dir.to_owned(), source };
    if key_path.exists() && csr_path.exists() {
        let key = files::read_bounded(&key_path, 1 << 16).map_err(failed)?;
        let csr = files::read_bounded(&csr_path, 1 << 16).map_err(failed)?;
        return Ok((NodeKey::from_der(key)?, csr));
    }
    let key = NodeKey::generate()?;
    let csr = key.csr()?;
    files::write_atomically(&key_path, key.key_der(), 0o600).map_err(failed)?;
    files::write_atomically(&csr_path, &csr, 0o600).map_err(failed)?;
    Ok((key, csr))
}

/// The identity holds the key now; a copy that stays is harmless.
fn forget_request(data_dir: &Path) {
    for path in request_paths(data_dir) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "a file of the join stays beside the identity");
        }
    }
}

fn request_paths(data_dir: &Path) -> [PathBuf; 2] {
    ["join.key", "join.csr"].map(|name| data_dir.join(name))
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(data_dir: &Path) -> Config {
        let sets =
            [format!("node.data_dir=\"{}\"", data_dir.display()), "network.bind=\"127.0.0.1\"".to_owned()];
        Config::load(None, &sets, std::iter::empty()).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }

    #[tokio::test]
    async fn what_an_earlier_member_left_is_named_and_gets_no_new_identity() {
        for left in ["control.db", "control.commits", "sessions.db", "sessions.commits", "snapshots"] {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().join(left);
            if left.ends_with(".commits") {
                fs::write(&at, [0; 8]).unwrap();
            } else {
                fs::create_dir(&at).unwrap();
                fs::write(at.join("group-1.snapshot"), "x").unwrap();
            }
            let initialised = init(&config(dir.path())).map(drop);
            let joined = join(&config(dir.path()), "no target at all").await.map(drop);
            for refused in [initialised, joined] {
                let words = refused.unwrap_err().to_string();
                assert!(words.contains(left) && words.contains("move the whole folder aside"), "{words}");
            }
            assert_eq!(names(dir.path()), [left], "nothing was written");
        }
    }

    #[tokio::test]
    async fn an_attempt_that_failed_half_way_and_folders_without_files_are_no_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(SNAPSHOTS)).unwrap();
        let token = JoinToken::generate(node_security::ca_digest(b"a certificate"));
        // Nobody listens on port 1.
        let target = format!("{token}@127.0.0.1:1");
        for _ in 0..2 {
            let failed = join(&config(dir.path()), &target).await;
            assert!(matches!(failed, Err(BootstrapError::Connect { .. })), "{failed:?}");
        }
        assert_eq!(names(dir.path()), ["join.csr", "join.key", SNAPSHOTS]);
        fs::create_dir(dir.path().join("identity.new")).unwrap();
        init(&config(dir.path())).unwrap();
        let again = init(&config(dir.path())).map(drop);
        assert!(matches!(again, Err(BootstrapError::Identity(IdentityError::AlreadyMember { .. }))));
    }
}
