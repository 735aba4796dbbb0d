//! Taking files in: from an operator's upload, or from peers.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use node_storage::files::{self, DurableFile};
use proto::ids::{BlobHash, ReleaseId};

use super::space::Promise;
use super::{FileKey, ReleaseStore, StoreError, hash_file, unique};
use crate::manifest::{FileContent, ReleaseManifest};

const PLAIN_MODE: u32 = 0o444;
const EXECUTABLE_MODE: u32 = 0o555;

/// Files that are being taken in for a release. While it lives, none of them is collected, nor is the
/// release that was made of them.
#[derive(Debug)]
pub struct Receiving {
    store: ReleaseStore,
    pinned: Mutex<Vec<FileKey>>,
}

/// One file on its way in. Dropped before the end, it leaves nothing.
pub struct BlobWriter {
    store: ReleaseStore,
    file: DurableFile,
    room: Promise,
    hasher: blake3::Hasher,
    expected: Option<BlobHash>,
    size: u64,
    written: u64,
    executable: bool,
}

/// What came of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub content: FileContent,
    /// It was not here before.
    pub new: bool,
}

impl Receiving {
    pub(super) fn new(store: ReleaseStore) -> Self {
        Self { store, pinned: Mutex::default() }
    }

    /// Refuses what would not fit.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`].
    pub fn check_space(&self, bytes: u64) -> Result<(), StoreError> {
        self.store.inner.space.check(bytes)
    }

    /// Begins a file of exactly `size` bytes; with `expected`, of exactly this content.
    ///
    /// # Errors
    /// When there is no room, or it can not be made.
    pub fn file(
        &self,
        expected: Option<BlobHash>,
        size: u64,
        executable: bool,
    ) -> Result<BlobWriter, StoreError> {
        let room = self.store.inner.space.promise(size)?;
        let temporary = self.store.inner.temporary();
        let mode = if executable { EXECUTABLE_MODE } else { PLAIN_MODE };
        let file = DurableFile::create(&temporary, mode)?;
        Ok(BlobWriter {
            store: self.store.clone(),
            file,
            room,
            hasher: blake3::Hasher::new(),
            expected,
            size,
            written: 0,
            executable,
        })
    }

    /// The files of a release that are still missing here. Those that are here stay.
    pub fn missing(&self, manifest: &ReleaseManifest) -> Vec<FileContent> {
        let contents = unique(manifest);
        for content in &contents {
            self.pin((*content).into());
        }
        self.store.inner.absent(contents)
    }

    /// Finishes a file: durable, and under its name.
    ///
    /// # Errors
    /// [`StoreError::WrongContent`] and [`StoreError::WrongSize`] when other bytes came.
    pub fn keep(&self, writer: BlobWriter) -> Result<Stored, StoreError> {
        let BlobWriter { store, file, room: _room, hasher, expected, size, written, executable } = writer;
        if written != size {
            return Err(StoreError::WrongSize { size });
        }
        let hash = BlobHash(*hasher.finalize().as_bytes());
        if let Some(expected) = expected.filter(|expected| *expected != hash) {
            return Err(StoreError::WrongContent { expected });
        }
        let key = FileKey { hash, executable };
        self.pin(key);
        let content = FileContent { hash, size, executable };
        let path = store.inner.blob_path(key);
        // One that has been damaged since must not win over a good one.
        if path.exists() && hash_file(&path).is_ok_and(|found| found == hash) {
            return Ok(Stored { content, new: false });
        }
        if let Some(folder) = path.parent() {
            files::create_dir_durably(folder)?;
            // Another writer may have made it a moment ago, and is still syncing it.
            files::sync_dir(&store.inner.blobs())?;
        }
        file.finish_at(&path)?;
        Ok(Stored { content, new: true })
    }

    /// Makes a release of files that are all here. When this returns it is durable.
    ///
    /// # Errors
    /// [`StoreError::NotWhole`] while files are missing.
    pub fn commit(&self, manifest: &ReleaseManifest) -> Result<ReleaseId, StoreError> {
        let missing = self.missing(manifest).len();
        let release = manifest.id();
        if missing > 0 {
            return Err(StoreError::NotWhole { release, missing });
        }
        // Under the lock, so that a collection sees the manifest or the pins.
        let pins = self.store.pins();
        files::write_atomically(&self.store.inner.manifest_path(release), manifest.bytes(), PLAIN_MODE)?;
        self.store.mark(release, true);
        drop(pins);
        Ok(release)
    }

    fn pin(&self, key: FileKey) {
        *self.store.pins().entry(key).or_insert(0) += 1;
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).push(key);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut pins = self.store.pins();
        for key in self.pinned.get_mut().unwrap_or_else(PoisonError::into_inner) {
            if let Some(count) = pins.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(key);
                }
            }
        }
    }
}

impl BlobWriter {
    /// # Errors
    /// [`StoreError::WrongSize`] when more comes than was announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written > self.size {
            return Err(StoreError::WrongSize { size: self.size });
        }
        self.hasher.update(bytes);
        let incoming: &Path = &self.store.inner.incoming();
        self.file.write_all(bytes).map_err(StoreError::io("write into", incoming))?;
        self.room.redeem(bytes.len() as u64);
        Ok(())
    }
}
