//! Getting a release from the nodes that have it.
//!
//! A release is a manifest and files, all named by their hash, so whom they come from does not matter
//! for what they are. It matters for speed and for patience: the files are spread over all nodes that
//! have the release, the near ones first; who does not answer is asked last, and who sends other bytes
//! than it was asked for is not asked again for a while.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use node_apps::{
    BlobWriter, FileContent, ManifestError, Receiving, ReleaseManifest, ReleaseStore, StoreError,
};
use node_core::membership::MemberStatus;
use proto::ids::{BlobHash, NodeId, ReleaseId};
use proto::limits::{BLOB_CHUNK_BYTES, MANIFEST_BYTES_MAX};
use proto::peer::FetchBlobRequest;
use rand::seq::SliceRandom as _;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::on_disk;
use crate::members::{Members, View};
use crate::mesh::Mesh;

/// Releases that are fetched at a time. More would share the same line.
const RELEASES_AT_A_TIME: usize = 2;
/// Files that are fetched at a time for one release: enough to hide the round trips of small ones, and
/// to have them share the file system's commits.
const FILES_AT_A_TIME: usize = 32;
/// A peer that sends nothing for so long is given up for this file.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a peer is not asked after it has sent other bytes than it was asked for.
const BAN: Duration = Duration::from_secs(600);

/// Why a release could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no node that can be reached has release {0}")]
    NoSource(ReleaseId),
    #[error("no node could give {what}; the last one: {last}")]
    NotGiven { what: String, last: PeerError },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("release {release} can not be used: {source}")]
    Manifest { release: ReleaseId, source: ManifestError },
}

/// Why one peer did not give a blob.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("node {node} can not be reached: {reason}")]
    Unreachable { node: NodeId, reason: String },
    #[error("node {node}: {}", status.message())]
    Refused { node: NodeId, status: Box<Status> },
    #[error("node {0} sent nothing for {CHUNK_TIMEOUT:?}")]
    Silent(NodeId),
    #[error("node {node} sent other bytes than those of {hash}")]
    WrongBytes { node: NodeId, hash: BlobHash },
    #[error(transparent)]
    Store(StoreError),
}

/// Fetches releases, each once at a time.
pub(super) struct Fetcher {
    store: ReleaseStore,
    mesh: Mesh,
    members: Members,
    zone: String,
    permits: Semaphore,
    turns: Mutex<BTreeMap<ReleaseId, Arc<tokio::sync::Mutex<()>>>>,
    bans: Mutex<HashMap<NodeId, Instant>>,
}

impl Fetcher {
    pub(super) fn new(store: ReleaseStore, mesh: Mesh, members: Members, zone: String) -> Self {
        let permits = Semaphore::new(RELEASES_AT_A_TIME);
        Self { store, mesh, members, zone, permits, turns: Mutex::default(), bans: Mutex::default() }
    }

    /// Makes sure that a release is whole here. `holder` is a node that is known to have it.
    ///
    /// # Errors
    /// Nobody who can be reached has it, or it does not fit here.
    pub(super) async fn ensure(&self, release: ReleaseId, holder: Option<NodeId>) -> Result<(), FetchError> {
        let turn = Arc::clone(locked(&self.turns).entry(release).or_default());
        let fetched = {
            let _turn = turn.lock().await;
            if self.store.has(release) { Ok(()) } else { self.fetch(release, holder).await }
        };
        let mut turns = locked(&self.turns);
        // Its own and the table's: nobody waits for a turn.
        if Arc::strong_count(&turn) == 2 {
            turns.remove(&release);
        }
        fetched
    }

    /// Whether somebody is at it.
    pub(super) fn is_fetching(&self, release: ReleaseId) -> bool {
        locked(&self.turns).get(&release).is_some_and(|turn| turn.try_lock().is_err())
    }

    async fn fetch(&self, release: ReleaseId, holder: Option<NodeId>) -> Result<(), FetchError> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.ok();
        let began = Instant::now();
        let manifest = Arc::new(self.manifest(release, holder).await?);
        let receiving = Arc::new(self.store.receive());
        let missing = {
            let (receiving, manifest) = (Arc::clone(&receiving), Arc::clone(&manifest));
            on_disk(move || {
                let missing = receiving.missing(&manifest);
                receiving.check_space(missing.iter().map(|content| content.size).sum())?;
                Ok(missing)
            })
            .await?
        };
        let (files, size): (usize, u64) = (missing.len(), missing.iter().map(|content| content.size).sum());
        let order = AtomicUsize::new(0);
        let mut fetches = stream::iter(missing)
            .map(|content| self.file(release, holder, content, Arc::clone(&receiving), &order))
            .buffer_unordered(FILES_AT_A_TIME);
        while let Some(fetched) = fetches.next().await {
            fetched?;
        }
        drop(fetches);
        on_disk(move || receiving.commit(&manifest).map(drop)).await?;
        let took = began.elapsed();
        tracing::info!(%release, files, size, ?took, "fetched");
        Ok(())
    }

    async fn manifest(
        &self,
        release: ReleaseId,
        holder: Option<NodeId>,
    ) -> Result<ReleaseManifest, FetchError> {
        let store = self.store.clone();
        if let Ok(manifest) = on_disk(move || store.manifest(release)).await {
            return Ok(manifest);
        }
        let mut last = None;
        for node in self.sources(release, holder, 0) {
            match self.manifest_from(node, release).await {
                Ok(bytes) => {
                    return ReleaseManifest::decode(&bytes)
                        .map_err(|source| FetchError::Manifest { release, source });
                }
                Err(error) => last = Some(self.judge(error)),
            }
        }
        Err(last.map_or(FetchError::NoSource(release), |last| FetchError::NotGiven {
            what: "the manifest".to_owned(),
            last,
        }))
    }

    async fn manifest_from(&self, node: NodeId, release: ReleaseId) -> Result<Vec<u8>, PeerError> {
        let hash = BlobHash::from(release);
        let mut chunks = self.ask(node, hash).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.next().await? {
            if bytes.len() + chunk.len() > MANIFEST_BYTES_MAX {
                return Err(PeerError::WrongBytes { node, hash });
            }
            bytes.extend_from_slice(&chunk);
        }
        if blake3::hash(&bytes) == blake3::Hash::from(hash.0) {
            Ok(bytes)
        } else {
            Err(PeerError::WrongBytes { node, hash })
        }
    }

    async fn file(
        &self,
        release: ReleaseId,
        holder: Option<NodeId>,
        content: FileContent,
        receiving: Arc<Receiving>,
        order: &AtomicUsize,
    ) -> Result<(), FetchError> {
        let mut last = None;
        for node in self.sources(release, holder, order.fetch_add(1, Ordering::Relaxed)) {
            match self.file_from(node, content, &receiving).await {
                Ok(()) => return Ok(()),
                // It is not the peer's fault, and the next one could not help.
                Err(PeerError::Store(error)) => return Err(error.into()),
                Err(error) => last = Some(self.judge(error)),
            }
        }
        Err(last.map_or(FetchError::NoSource(release), |last| FetchError::NotGiven {
            what: format!("the file {}", content.hash),
            last,
        }))
    }

    async fn file_from(
        &self,
        node: NodeId,
        content: FileContent,
        receiving: &Arc<Receiving>,
    ) -> Result<(), PeerError> {
        let FileContent { hash, size, executable } = content;
        let mut chunks = self.ask(node, hash).await?;
        let begin = {
            let receiving = Arc::clone(receiving);
            on_disk(move || receiving.file(Some(hash), size, executable)).await
        };
        let mut writer = begin.map_err(PeerError::Store)?;
        while let Some(chunk) = chunks.next().await? {
            writer = write(writer, chunk).await.map_err(|error| wrong(error, node, hash))?;
        }
        let receiving = Arc::clone(receiving);
        on_disk(move || receiving.keep(writer)).await.map(drop).map_err(|error| wrong(error, node, hash))
    }

    async fn ask(&self, node: NodeId, hash: BlobHash) -> Result<Chunks, PeerError> {
        let unreachable = |reason: String| PeerError::Unreachable { node, reason };
        let mut client = self.mesh.bulk(node).map_err(|error| unreachable(error.to_string()))?;
        let request = FetchBlobRequest { hash: hash.0.to_vec().into(), offset: 0 };
        match tokio::time::timeout(CHUNK_TIMEOUT, client.fetch_blob(request)).await {
            Err(_) => Err(PeerError::Silent(node)),
            Ok(Err(status)) if status.code() == Code::Unavailable => {
                Err(unreachable(status.message().to_owned()))
            }
            Ok(Err(status)) => Err(PeerError::Refused { node, status: Box::new(status) }),
            Ok(Ok(response)) => Ok(Chunks { node, stream: response.into_inner() }),
        }
    }

    /// The nodes to ask, in order. Consecutive numbers begin with different ones.
    fn sources(&self, release: ReleaseId, holder: Option<NodeId>, number: usize) -> Vec<NodeId> {
        let banned =
            |node: NodeId| locked(&self.bans).get(&node).is_some_and(|until| Instant::now() < *until);
        let view = self.members.view().borrow().clone();
        let (near, far) = holders(&view, release, &self.zone);
        let mut order = [near, far].map(|mut nodes| {
            nodes.retain(|node| !banned(*node));
            nodes.sort_unstable();
            let shift = number.checked_rem(nodes.len()).unwrap_or(0);
            nodes.rotate_left(shift);
            // The first one takes its turn; who comes after a failure is anybody.
            if let [_, rest @ ..] = nodes.as_mut_slice() {
                rest.shuffle(&mut rand::rng());
            }
            nodes
        });
        let [near, far] = &mut order;
        near.append(far);
        let mut order = std::mem::take(near);
        // It may not have told everybody yet that it has the release.
        order.extend(holder.filter(|holder| !order.contains(holder) && !banned(*holder)));
        order
    }

    fn judge(&self, error: PeerError) -> PeerError {
        tracing::warn!(%error, "a peer did not give a part of a release");
        if let PeerError::WrongBytes { node, .. } = error {
            let mut bans = locked(&self.bans);
            bans.retain(|_, until| Instant::now() < *until);
            bans.insert(node, Instant::now() + BAN);
        }
        error
    }
}

/// The live nodes that say they have a release: those of this zone, and the others.
fn holders(view: &View, release: ReleaseId, zone: &str) -> (Vec<NodeId>, Vec<NodeId>) {
    let has = |node: &NodeId| {
        *node != view.me
            && view.members.get(node).is_some_and(|member| {
                matches!(member.member.state, MemberStatus::Alive | MemberStatus::Suspect)
                    && member
                        .state
                        .as_ref()
                        .is_some_and(|state| state.releases.iter().any(|id| id[..] == release.0))
            })
    };
    let near = |node: &NodeId| view.members.get(node).is_some_and(|member| member.member.zone == zone);
    view.members.keys().copied().filter(has).partition(near)
}

/// A blob on its way, with bounded patience for each chunk.
struct Chunks {
    node: NodeId,
    stream: tonic::Streaming<proto::peer::FetchBlobResponse>,
}

impl Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>, PeerError> {
        let node = self.node;
        match tokio::time::timeout(CHUNK_TIMEOUT, self.stream.message()).await {
            Err(_) => Err(PeerError::Silent(node)),
            Ok(Err(status)) => Err(PeerError::Refused { node, status: Box::new(status) }),
            Ok(Ok(message)) => Ok(message.map(|message| message.data)),
        }
    }
}

async fn write(mut writer: BlobWriter, chunk: Bytes) -> Result<BlobWriter, StoreError> {
    on_disk(move || {
        for part in chunk.chunks(BLOB_CHUNK_BYTES) {
            writer.write(part)?;
        }
        Ok(writer)
    })
    .await
}

/// Bytes that do not fit their name are the peer's fault, everything else is this node's.
fn wrong(error: StoreError, node: NodeId, hash: BlobHash) -> PeerError {
    match error {
        StoreError::WrongContent { .. } | StoreError::WrongSize { .. } => {
            PeerError::WrongBytes { node, hash }
        }
        StoreError::Io { .. }
        | StoreError::NoSpace { .. }
        | StoreError::UnknownRelease { .. }
        | StoreError::NotWhole { .. }
        | StoreError::Storage(_)
        | StoreError::Manifest(_) => PeerError::Store(error),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
