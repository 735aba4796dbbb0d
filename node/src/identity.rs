//! Who this server is in its cluster: what `init` or `join` wrote, read at every start.
//!
//! ```text
//!   DATA_DIR/identity/  node.json   cluster, id, name, zone, first peers
//!                       node.crt node.key ca.crt gossip.key
//!                       ca.key      on voters only
//!                       genesis.json  on the first node, until the control log holds it
//!   DATA_DIR/generation   how often this disk's agent has started, as a clock that never goes back
//! ```
//!
//! The folder is written whole into a temporary one and renamed, so that a server is a member or
//! is not, and never half of one.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use node_core::control::Command;
use node_core::invalidation::Life;
use node_core::membership::next_generation;
use node_security::{CertificateAuthority, GossipKey, TlsIdentity};
use node_storage::files;
use proto::ids::{ClusterId, Generation, NodeId};
use serde::{Deserialize, Serialize};

/// The largest file in the folder is the genesis command: one node, one token.
const FILE_BYTES_MAX: u64 = 1 << 20;

const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// Why a server can not say who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("this server is not a member of a cluster: {} does not exist", .0.display())]
    NotMember(PathBuf),
    #[error("this server is already node {node} of cluster {cluster} (in {})", path.display())]
    AlreadyMember { cluster: ClusterId, node: NodeId, path: PathBuf },
    #[error("can not read or write {}: {source}", path.display())]
    File { path: PathBuf, source: node_storage::StorageError },
    #[error("can not put the identity in place at {}: {source}", path.display())]
    Place { path: PathBuf, source: io::Error },
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
}

/// The part of the identity that is no secret and no certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Card {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub name: String,
    pub zone: String,
    /// Members that were there at the join, to find the others by.
    pub peers: Vec<KnownPeer>,
}

/// Where a member was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    pub node: NodeId,
    pub peer: SocketAddr,
    pub gossip: SocketAddr,
}

/// What `init` and `join` write.
pub struct NewIdentity {
    pub card: Card,
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    pub ca: Vec<u8>,
    pub gossip_key: GossipKey,
    pub ca_key: Option<Vec<u8>>,
    pub genesis: Option<Command>,
}

/// A member's identity, loaded.
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub name: String,
    pub zone: String,
    pub generation: Generation,
    pub life: Life,
    pub peers: Vec<KnownPeer>,
    pub tls: TlsIdentity,
    pub gossip_key: GossipKey,
    folder: PathBuf,
    authority: RwLock<Option<Arc<CertificateAuthority>>>,
}

impl Identity {
    /// Reads the identity and starts a new generation, durable before it is used: two lives of an
    /// agent must never share one.
    ///
    /// # Errors
    /// [`IdentityError::NotMember`] on a server that has not joined; otherwise what is damaged.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let folder = folder(data_dir);
        let card = card(data_dir)?.ok_or_else(|| IdentityError::NotMember(folder.clone()))?;
        let ca = read(&folder.join("ca.crt"))?;
        let tls = TlsIdentity::new(
            card.cluster,
            card.node,
            read(&folder.join("node.crt"))?,
            read(&folder.join("node.key"))?,
            ca.clone(),
        );
        let key_path = folder.join("gossip.key");
        let gossip_key = GossipKey::from_slice(&read(&key_path)?)
            .ok_or_else(|| damaged(&key_path, "not a key of 32 bytes"))?;
        let ca_key_path = folder.join("ca.key");
        let authority = if ca_key_path.exists() {
            Some(authority(&ca, read(&ca_key_path)?, &ca_key_path)?)
        } else {
            None
        };
        let (generation, life) = start_generation(data_dir)?;
        Ok(Self {
            cluster: card.cluster,
            node: card.node,
            name: card.name,
            zone: card.zone,
            generation,
            life,
            peers: card.peers,
            tls,
            gossip_key,
            folder,
            authority: RwLock::new(authority),
        })
    }

    /// The CA, on a node that has its key.
    pub fn authority(&self) -> Option<Arc<CertificateAuthority>> {
        self.authority.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the CA's key, which another voter has handed over.
    ///
    /// # Errors
    /// When it is not the key of this cluster's CA, or can not be written.
    pub fn keep_ca_key(&self, key: Vec<u8>) -> Result<(), IdentityError> {
        let path = self.folder.join("ca.key");
        let made = authority(&read(&self.folder.join("ca.crt"))?, key.clone(), &path)?;
        write(&path, &key, SECRET)?;
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(())
    }

    /// The command that founds the cluster, where this node has not yet logged it.
    ///
    /// # Errors
    /// When the file is there and damaged.
    pub fn genesis(&self) -> Result<Option<Command>, IdentityError> {
        let path = self.folder.join("genesis.json");
        if !path.exists() {
            return Ok(None);
        }
        serde_json::from_slice(&read(&path)?).map(Some).map_err(|error| damaged(&path, error.to_string()))
    }

    /// Forgets the genesis, which the control log now holds.
    ///
    /// # Errors
    /// When the file can not be removed.
    pub fn genesis_done(&self) -> Result<(), IdentityError> {
        let path = self.folder.join("genesis.json");
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::Place { path, source })
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Refuses a data folder that already belongs to a cluster.
///
/// # Errors
/// [`IdentityError::AlreadyMember`].
pub fn refuse_member(data_dir: &Path) -> Result<(), IdentityError> {
    match card(data_dir)? {
        None => Ok(()),
        Some(card) => Err(IdentityError::AlreadyMember {
            cluster: card.cluster,
            node: card.node,
            path: folder(data_dir),
        }),
    }
}

/// Writes a new member's identity, all or nothing.
///
/// # Errors
/// When the disk refuses, or the folder has an identity already.
pub fn write_new(data_dir: &Path, identity: &NewIdentity) -> Result<(), IdentityError> {
    refuse_member(data_dir)?;
    let target = folder(data_dir);
    let temporary = data_dir.join("identity.new");
    let place = |source| IdentityError::Place { path: target.clone(), source };
    match std::fs::remove_dir_all(&temporary) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(place(source)),
        Ok(()) | Err(_) => {}
    }
    files::create_dir_durably(&temporary)
        .map_err(|source| IdentityError::File { path: temporary.clone(), source })?;
    write(&temporary.join("node.json"), &json(&identity.card), PUBLIC)?;
    write(&temporary.join("node.crt"), &identity.certificate, PUBLIC)?;
    write(&temporary.join("node.key"), &identity.key, SECRET)?;
    write(&temporary.join("ca.crt"), &identity.ca, PUBLIC)?;
    write(&temporary.join("gossip.key"), identity.gossip_key.as_bytes(), SECRET)?;
    if let Some(key) = &identity.ca_key {
        write(&temporary.join("ca.key"), key, SECRET)?;
    }
    if let Some(genesis) = &identity.genesis {
        write(&temporary.join("genesis.json"), &json(genesis), SECRET)?;
    }
    std::fs::rename(&temporary, &target).map_err(place)?;
    files::sync_dir(data_dir).map_err(|source| IdentityError::File { path: data_dir.to_owned(), source })
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

fn card(data_dir: &Path) -> Result<Option<Card>, IdentityError> {
    let path = folder(data_dir).join("node.json");
    if !path.exists() {
        return Ok(None);
    }
    serde_json::from_slice(&read(&path)?).map(Some).map_err(|error| damaged(&path, error.to_string()))
}

fn start_generation(data_dir: &Path) -> Result<(Generation, Life), IdentityError> {
    let path = data_dir.join("generation");
    let (persisted, life) = if path.exists() {
        let text = String::from_utf8_lossy(&read(&path)?).trim().to_owned();
        (Generation(text.parse().map_err(|_| damaged(&path, "not a number"))?), Life::Later)
    } else {
        (Generation(0), Life::First)
    };
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let generation = next_generation(persisted, u64::try_from(now_ms).unwrap_or(0));
    write(&path, generation.to_string().as_bytes(), PUBLIC)?;
    Ok((generation, life))
}

fn authority(ca: &[u8], key: Vec<u8>, path: &Path) -> Result<Arc<CertificateAuthority>, IdentityError> {
    CertificateAuthority::from_parts(ca.to_vec(), key)
        .map(Arc::new)
        .map_err(|error| damaged(path, error.to_string()))
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("maps with string keys and plain values always serialise")
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    files::read_bounded(path, FILE_BYTES_MAX)
        .map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    files::write_atomically(path, bytes, mode)
        .map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

fn damaged(path: &Path, reason: impl Into<String>) -> IdentityError {
    IdentityError::Damaged { path: path.to_owned(), reason: reason.into() }
}
