//! A folder that an operator brings in, until it is a release that the cluster knows.
//!
//! The files go straight into the store, each under the hash that its bytes turn out to have; what
//! breaks off belongs to nothing and is swept away. The release is told to the control log only when
//! it is whole on this disk and on another: were this node to die in the next second, the cluster
//! would otherwise have promised to run something that nobody has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use node_apps::{
    AppSpec, BlobWriter, Content, Entry, EntryPath, LinkTarget, ManifestError, Receiving, ReleaseManifest,
    StoreError, Stored,
};
use node_core::control::{Command, ControlState, ReleaseRecord, Route};
use node_core::membership::MemberStatus;
use proto::ids::{NodeId, ReleaseId};
use proto::limits::{RELEASE_BYTES_MAX, RELEASE_ENTRIES_MAX};
use proto::peer::ReplicateRequest;
use proto::v1::upload_request::Part;
use proto::v1::{UploadBegin, UploadFile, UploadRequest, UploadResponse};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::Status;

use super::{Deploy, finished, garbage, on_disk};

/// Uploads at a time. Each may fill the disk up to a release's size.
const UPLOADS_MAX: usize = 2;
/// Files that are synced at a time: they share the file system's commits, of which each takes
/// milliseconds.
const SYNCS_AT_A_TIME: usize = 32;
/// An operator's end that sends nothing for so long is gone.
const PART_TIMEOUT: Duration = Duration::from_secs(60);
/// For the second copy of the largest release over a slow line.
const REPLICATE_TIMEOUT: Duration = Duration::from_secs(1_800);

pub(super) struct Uploads {
    permits: Semaphore,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { permits: Semaphore::new(UPLOADS_MAX) }
    }
}

impl Deploy {
    /// Takes a folder in and makes it a release.
    pub(super) async fn upload(
        &self,
        parts: impl Stream<Item = Result<UploadRequest, Status>> + Unpin + Send,
    ) -> Result<UploadResponse, Status> {
        let _permit =
            self.inner.uploads.permits.try_acquire().map_err(|_| {
                Status::resource_exhausted(format!("{UPLOADS_MAX} uploads are going on already"))
            })?;
        let receiving = Arc::new(self.inner.store.receive());
        let brought = self.bring_in(parts, &receiving).await;
        drop(receiving);
        if brought.is_err() {
            garbage::sweep(self).await;
        }
        brought
    }

    async fn bring_in(
        &self,
        parts: impl Stream<Item = Result<UploadRequest, Status>> + Unpin + Send,
        receiving: &Arc<Receiving>,
    ) -> Result<UploadResponse, Status> {
        let mut upload = Upload::begin(parts, Arc::clone(receiving)).await?;
        let came = upload.files().await;
        // What breaks off is swept away: nothing may still be on its way in then.
        upload.keeping.shutdown().await;
        came?;
        let version = match upload.begin.version.as_str() {
            "" => next_version(&self.state(), &upload.spec.app),
            version => version.to_owned(),
        };
        let manifest =
            ReleaseManifest::new(&upload.begin.manifest, &version, std::mem::take(&mut upload.entries));
        let manifest = Arc::new(manifest.map_err(|error| refused_manifest(&error))?);
        let (receiving, committed) = (Arc::clone(receiving), Arc::clone(&manifest));
        let release = on_disk(move || receiving.commit(&committed)).await.map_err(refused)?;
        self.second_copy(release).await?;
        let record = record(&manifest);
        let response = UploadResponse {
            app: record.app.clone(),
            release: release.to_string(),
            version,
            files: record.files,
            size_bytes: record.size_bytes,
            new_bytes: upload.new_bytes,
        };
        self.inner.control.propose(&Command::RegisterRelease { release, record }).await?;
        Ok(response)
    }

    /// Has another node take a copy, unless there is none.
    async fn second_copy(&self, release: ReleaseId) -> Result<(), Status> {
        let mut last = None;
        for node in self.others() {
            match self.replicate_to(node, release).await {
                Ok(()) => return Ok(()),
                Err(reason) => {
                    tracing::warn!(%node, %release, reason, "no second copy there");
                    last = Some(format!("node {node}: {reason}"));
                }
            }
        }
        last.map_or(Ok(()), |last| {
            Err(Status::failed_precondition(format!("no other node took a copy; {last}")))
        })
    }

    async fn replicate_to(&self, node: NodeId, release: ReleaseId) -> Result<(), String> {
        let mut client = self.inner.mesh.peer(node).map_err(|error| error.to_string())?;
        let request = ReplicateRequest { release: release.0.to_vec().into() };
        match tokio::time::timeout(REPLICATE_TIMEOUT, client.replicate(request)).await {
            Err(_) => Err(format!("not done in {REPLICATE_TIMEOUT:?}")),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                if answer.complete { Ok(()) } else { Err(answer.reason) }
            }
        }
    }

    /// The other live members, those of other zones first.
    fn others(&self) -> Vec<NodeId> {
        let state = self.state();
        let view = self.inner.members.view().borrow().clone();
        let zone = state.nodes.get(&self.inner.me).map(|record| record.zone.clone());
        let is_alive = |node: &NodeId| {
            view.members.get(node).is_some_and(|member| member.member.state == MemberStatus::Alive)
        };
        let others = state.members().filter(|(node, _)| *node != self.inner.me && is_alive(node));
        let mut others: Vec<_> =
            others.map(|(node, record)| (Some(&record.zone) == zone.as_ref(), node)).collect();
        others.sort_unstable();
        others.into_iter().map(|(_, node)| node).collect()
    }
}

/// An upload as far as it has come.
struct Upload<S> {
    parts: S,
    receiving: Arc<Receiving>,
    begin: UploadBegin,
    spec: AppSpec,
    entries: Vec<Entry>,
    /// Files that are complete and not yet durable.
    keeping: JoinSet<Result<(EntryPath, Stored), StoreError>>,
    bytes: u64,
    new_bytes: u64,
}

impl<S: Stream<Item = Result<UploadRequest, Status>> + Unpin + Send> Upload<S> {
    async fn begin(mut parts: S, receiving: Arc<Receiving>) -> Result<Self, Status> {
        let Some(Part::Begin(begin)) = next(&mut parts).await? else {
            return Err(Status::invalid_argument("an upload begins with its manifest"));
        };
        // Before a byte is sent in vain.
        let spec = AppSpec::parse(&begin.manifest).map_err(|error| refused_manifest(&error.into()))?;
        let (entries, keeping) = (Vec::new(), JoinSet::new());
        Ok(Self { parts, receiving, begin, spec, entries, keeping, bytes: 0, new_bytes: 0 })
    }

    async fn files(&mut self) -> Result<(), Status> {
        while let Some(part) = next(&mut self.parts).await? {
            let Part::File(file) = part else {
                return Err(Status::invalid_argument("a file was expected"));
            };
            let entries = self.entries.len() + self.keeping.len();
            if entries >= RELEASE_ENTRIES_MAX {
                let error = ManifestError::TooManyEntries { entries: entries + 1 };
                return Err(refused_manifest(&error));
            }
            let bad = |error| Status::invalid_argument(format!("{:?}: {error}", file.path));
            let path = EntryPath::try_from(file.path.clone()).map_err(bad)?;
            if file.link_target.is_empty() {
                let writer = self.file(&file).await?;
                self.keep(path, writer).await?;
            } else {
                let content = Content::Link(LinkTarget::try_from(file.link_target.clone()).map_err(bad)?);
                self.entries.push(Entry { path, content });
            }
        }
        while self.kept().await? {}
        Ok(())
    }

    /// Has a file made durable while the next ones come in.
    async fn keep(&mut self, path: EntryPath, writer: BlobWriter) -> Result<(), Status> {
        while self.keeping.len() >= SYNCS_AT_A_TIME && self.kept().await? {}
        let receiving = Arc::clone(&self.receiving);
        self.keeping.spawn_blocking(move || Ok((path, receiving.keep(writer)?)));
        Ok(())
    }

    /// Waits for one of the files that are being made durable. Whether there was one.
    async fn kept(&mut self) -> Result<bool, Status> {
        let Some(kept) = self.keeping.join_next().await else { return Ok(false) };
        let (path, Stored { content, new }) = finished(kept).map_err(refused)?;
        if new {
            self.new_bytes = self.new_bytes.saturating_add(content.size);
        }
        self.entries.push(Entry { path, content: Content::File(content) });
        Ok(true)
    }

    async fn file(&mut self, file: &UploadFile) -> Result<BlobWriter, Status> {
        let (size, executable) = (file.size_bytes, file.executable);
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > RELEASE_BYTES_MAX {
            return Err(refused_manifest(&ManifestError::TooManyBytes));
        }
        let receiving = Arc::clone(&self.receiving);
        let mut writer = on_disk(move || receiving.file(None, size, executable)).await.map_err(refused)?;
        let mut left = size;
        while left > 0 {
            let Some(Part::Data(data)) = next(&mut self.parts).await? else {
                return Err(Status::invalid_argument(format!(
                    "{:?} broke off, {left} bytes before its end",
                    file.path
                )));
            };
            left = left.saturating_sub(data.len() as u64);
            writer = write(writer, data).await.map_err(refused)?;
        }
        Ok(writer)
    }
}

async fn write(mut writer: BlobWriter, data: Bytes) -> Result<BlobWriter, StoreError> {
    on_disk(move || writer.write(&data).map(|()| writer)).await
}

async fn next(
    parts: &mut (impl Stream<Item = Result<UploadRequest, Status>> + Unpin),
) -> Result<Option<Part>, Status> {
    match tokio::time::timeout(PART_TIMEOUT, parts.next()).await {
        Err(_) => Err(Status::deadline_exceeded(format!("nothing came for {PART_TIMEOUT:?}"))),
        Ok(None) => Ok(None),
        Ok(Some(request)) => match request?.part {
            Some(part) => Ok(Some(part)),
            None => Err(Status::invalid_argument("a part of no known kind")),
        },
    }
}

/// One more than the largest version of the app that is a number.
fn next_version(state: &ControlState, app: &str) -> String {
    let versions = state.releases.values().filter(|record| record.app == app).map(|record| &record.version);
    let newest = versions.filter_map(|version| version.parse::<u64>().ok()).max().unwrap_or(0);
    newest.saturating_add(1).to_string()
}

/// What the control log holds of a release.
fn record(manifest: &ReleaseManifest) -> ReleaseRecord {
    let node_apps::Route { hosts, path, timeout, retries } = manifest.spec.route.clone();
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let route = Route { hosts, path, timeout_ms: millis(timeout), retries, ..Route::default() };
    ReleaseRecord {
        app: manifest.app().to_owned(),
        version: manifest.version.clone(),
        size_bytes: manifest.size_bytes(),
        files: manifest.entries().len() as u64,
        route: Some(route),
        rollout_ms: millis(manifest.spec.rollout.deadline),
        created_ms: 0,
        registered_index: 0,
    }
}

fn refused_manifest(error: &ManifestError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(error: StoreError) -> Status {
    let words = error.to_string();
    match error {
        StoreError::NoSpace { .. } => Status::resource_exhausted(words),
        StoreError::WrongSize { .. } | StoreError::WrongContent { .. } | StoreError::Manifest(_) => {
            Status::invalid_argument(words)
        }
        StoreError::Io { .. }
        | StoreError::UnknownRelease { .. }
        | StoreError::NotWhole { .. }
        | StoreError::Storage(_) => Status::internal(words),
    }
}
