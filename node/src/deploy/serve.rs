//! Giving blobs to peers.
//!
//! A blob is hashed while it is sent. One that is not what it is called ends the stream with an error
//! instead of its end, and is thrown away here, so that damage on one disk does not spread and is
//! repaired from the others.

use std::fs::File;
use std::io::Read as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use node_apps::ReleaseStore;
use proto::ids::BlobHash;
use proto::limits::BLOB_CHUNK_BYTES;
use proto::peer::{FetchBlobRequest, FetchBlobResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::on_disk;
use crate::tasks::Tasks;

/// Blobs that are sent at a time: each holds a file and some chunks.
const STREAMS_MAX: usize = 64;
/// How long one waits for its turn before it is told to ask somebody else.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Chunks read ahead of the wire.
const READ_AHEAD: usize = 2;

/// A blob on its way.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<FetchBlobResponse, Status>> + Send>>;

pub(super) struct Serving {
    permits: Arc<Semaphore>,
}

impl Default for Serving {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

impl Serving {
    pub(super) async fn stream(
        &self,
        store: &ReleaseStore,
        request: &FetchBlobRequest,
        tasks: &Tasks,
    ) -> Result<BlobStream, Status> {
        let hash = BlobHash::from_slice(&request.hash)
            .ok_or_else(|| Status::invalid_argument("not a hash of 32 bytes"))?;
        let turn = tokio::time::timeout(TURN_MAX, Arc::clone(&self.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = turn else {
            return Err(Status::resource_exhausted("busy with giving files to others"));
        };
        let opened = store.clone();
        let blob = on_disk(move || opened.open_blob(hash)).await;
        let blob = blob.map_err(|error| Status::internal(error.to_string()))?;
        let Some((file, size)) = blob else {
            return Err(Status::not_found(format!("no file {hash} here")));
        };
        if request.offset > size {
            return Err(Status::out_of_range(format!("the file has {size} bytes")));
        }
        let (chunks, stream) = mpsc::channel(READ_AHEAD);
        let sending =
            Sending { store: store.clone(), hash, file, skip: request.offset, chunks, _permit: permit };
        tasks.tracker().spawn_blocking(move || sending.run());
        Ok(Box::pin(ReceiverStream::new(stream)))
    }
}

struct Sending {
    store: ReleaseStore,
    hash: BlobHash,
    file: File,
    /// Bytes that the peer has already. They are read nevertheless: the hash is of all.
    skip: u64,
    chunks: mpsc::Sender<Result<FetchBlobResponse, Status>>,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    fn run(mut self) {
        let mut hasher = blake3::Hasher::new();
        loop {
            let mut chunk = vec![0; BLOB_CHUNK_BYTES];
            let read = match self.file.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return self.give_up(&format!("can not be read: {error}")),
            };
            chunk.truncate(read);
            hasher.update(&chunk);
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= skipped as u64;
            chunk.drain(..skipped);
            if chunk.is_empty() {
                continue;
            }
            // A peer that has gone away needs no more.
            if self.chunks.blocking_send(Ok(FetchBlobResponse { data: chunk.into() })).is_err() {
                return;
            }
        }
        if hasher.finalize() != blake3::Hash::from(self.hash.0) {
            self.give_up("is damaged");
        }
    }

    fn give_up(&self, words: &str) {
        let Self { store, hash, chunks, .. } = self;
        let message = format!("the file {hash} {words} on this node");
        tracing::warn!("{message}");
        let _gone = chunks.blocking_send(Err(Status::data_loss(message)));
        if let Err(error) = store.discard(*hash) {
            tracing::warn!(%error, "can not remove a damaged file");
        }
    }
}
