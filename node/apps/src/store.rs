//! The releases on this node's disk: every file once, by its content.
//!
//! ```text
//!   DIR/blobs/ab/abcd…       a file's bytes, named by their blake3; read-only
//!   DIR/blobs/ab/abcd….x     the same for a file that may be executed (a hard link shares the mode)
//!   DIR/manifests/<id>       written last: the release was whole when this was
//!   DIR/releases/<id>/       unpacked for running, hard links to the blobs; can be made anew any time
//!   DIR/releases/<id>.<n>/   one that was damaged while something ran in it
//!   DIR/incoming/            what is being written; emptied at the start
//! ```
//!
//! A kill at any moment leaves either a file that nothing names, which the next start or the next
//! collection removes, or a complete one: bytes are synced before they get their name, names before
//! the manifest, and the manifest before anybody is told. Nothing is changed in place.
//!
//! What is on the disk is not trusted for ever: before a release is run its files are hashed again,
//! what is damaged is thrown away, and the release counts as missing until the files have been fetched
//! again.
//!
//! All of this blocks; callers have threads for that.

mod receive;
mod space;
#[cfg(test)]
mod tests;
mod unpack;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use node_storage::{StorageError, files};
use proto::ids::{BlobHash, ReleaseId};
use proto::limits::MANIFEST_BYTES_MAX;
use tokio::sync::watch;

use crate::manifest::{FileContent, ManifestError, ReleaseManifest};

pub use receive::{BlobWriter, Receiving, Stored};
use space::Space;

/// Bytes read at a time for hashing.
const CHUNK_BYTES: usize = 256 << 10;

const EXECUTABLE_EXTENSION: &str = "x";

/// Why the store can not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("can not {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("not enough room in {}: {needed} more bytes are needed, and {available} can be used", path.display())]
    NoSpace { path: PathBuf, needed: u64, available: u64 },
    #[error("the bytes are not those of {expected}")]
    WrongContent { expected: BlobHash },
    #[error("{size} bytes were announced, and other than that came")]
    WrongSize { size: u64 },
    #[error("release {release} is not here")]
    UnknownRelease { release: ReleaseId },
    #[error("release {release} is not whole: {missing} of its files are missing")]
    NotWhole { release: ReleaseId, missing: usize },
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl StoreError {
    fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}

/// The store of one node. Clones are the same one.
#[derive(Debug, Clone)]
pub struct ReleaseStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Names files in `incoming`.
    counter: AtomicU64,
    /// Blobs that somebody is about to make part of a release. Held by whoever removes or commits.
    pins: Mutex<BTreeMap<FileKey, usize>>,
    space: Arc<Space>,
    /// Releases that are whole.
    whole: watch::Sender<Arc<BTreeSet<ReleaseId>>>,
}

/// A file of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct FileKey {
    hash: BlobHash,
    executable: bool,
}

impl From<FileContent> for FileKey {
    fn from(content: FileContent) -> Self {
        Self { hash: content.hash, executable: content.executable }
    }
}

impl ReleaseStore {
    /// Opens the store, which is made where there is none, and clears what a kill left half done.
    ///
    /// # Errors
    /// When the folder can not be read or written.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let inner = Inner {
            root: root.to_owned(),
            counter: AtomicU64::new(0),
            pins: Mutex::default(),
            space: Arc::new(Space::new(root.to_owned())),
            whole: watch::Sender::default(),
        };
        let incoming = inner.incoming();
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("clear", &incoming)(error));
            }
            _ => {}
        }
        for folder in [incoming, inner.blobs(), inner.manifests(), inner.releases()] {
            files::create_dir_durably(&folder)?;
        }
        files::remove_unfinished(&inner.manifests())?;
        // Nothing runs yet.
        for folder in list(&inner.releases())?.iter().filter(|folder| aside_of(folder).is_some()) {
            inner.remove_tree(folder)?;
        }
        let store = Self { inner: Arc::new(inner) };
        let mut whole = BTreeSet::new();
        for release in store.known()? {
            match store.missing_of(release) {
                Ok(Some(missing)) if missing.is_empty() => {
                    whole.insert(release);
                }
                Ok(_) => {}
                // A later version's, for example: it may be run again after the next change of version.
                Err(StoreError::Manifest(error)) => {
                    tracing::warn!(%release, %error, "a manifest is not understood; the release can not run here");
                }
                Err(error) => return Err(error),
            }
        }
        store.inner.whole.send_replace(Arc::new(whole));
        Ok(store)
    }

    /// The releases that are whole, whenever that changes.
    pub fn watch(&self) -> watch::Receiver<Arc<BTreeSet<ReleaseId>>> {
        self.inner.whole.subscribe()
    }

    /// Whether every file of a release is here.
    pub fn has(&self, release: ReleaseId) -> bool {
        self.inner.whole.borrow().contains(&release)
    }

    /// A release's manifest. One that is damaged counts as not here.
    ///
    /// # Errors
    /// [`StoreError::UnknownRelease`], or when it can not be read.
    pub fn manifest(&self, release: ReleaseId) -> Result<ReleaseManifest, StoreError> {
        let path = self.inner.manifest_path(release);
        match files::read_bounded(&path, MANIFEST_BYTES_MAX as u64) {
            Ok(bytes) if blake3::hash(&bytes) == blake3::Hash::from(release.0) => {
                return Ok(ReleaseManifest::decode(&bytes)?);
            }
            Ok(_) | Err(StorageError::TooLarge { .. }) => {}
            Err(StorageError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::UnknownRelease { release });
            }
            Err(StorageError::File { source, .. }) if is_lost(&source) => {}
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(%release, "its manifest is damaged; removed");
        remove_file(&path)?;
        self.mark(release, false);
        Err(StoreError::UnknownRelease { release })
    }

    /// Opens a blob, or a manifest under its release's id, with its size. `None`: it is not here.
    /// Whoever reads it hashes it, and calls [`ReleaseStore::discard`] if it is not what it should be.
    ///
    /// # Errors
    /// When it is here and can not be opened.
    pub fn open_blob(&self, hash: BlobHash) -> Result<Option<(File, u64)>, StoreError> {
        let plain = self.inner.blob_path(FileKey { hash, executable: false });
        let executable = self.inner.blob_path(FileKey { hash, executable: true });
        let manifest = self.inner.manifest_path(ReleaseId(hash.0));
        for path in [plain, executable, manifest] {
            match File::open(&path) {
                Ok(file) => {
                    let size = file.metadata().map_err(StoreError::io("look at", &path))?.len();
                    return Ok(Some((file, size)));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("open", &path)(error)),
            }
        }
        Ok(None)
    }

    /// Looks again at a blob that was found damaged, and removes it if it is. The releases that it is
    /// part of are no longer whole.
    ///
    /// # Errors
    /// When the disk can not be read or written.
    pub fn discard(&self, hash: BlobHash) -> Result<(), StoreError> {
        let of_release = |manifest: &ReleaseManifest| manifest.files().any(|(_, file)| file.hash == hash);
        for release in self.known()? {
            if release.0 == hash.0 || self.manifest(release).is_ok_and(|manifest| of_release(&manifest)) {
                self.verify(release)?;
            }
        }
        Ok(())
    }

    /// Hashes every file of a release again. What is damaged is removed; what is then missing is
    /// returned, and while that is something the release is not whole.
    ///
    /// # Errors
    /// [`StoreError::UnknownRelease`], or when the disk can not be read or written.
    pub fn verify(&self, release: ReleaseId) -> Result<Vec<FileContent>, StoreError> {
        let manifest = self.manifest(release)?;
        #[cfg(holdfast_mutants)]
        if mutation::is("digest-ignored") {
            return Ok(Vec::new());
        }
        let mut missing = Vec::new();
        for content in unique(&manifest) {
            if !self.inner.is_intact(content)? {
                missing.push(content);
            }
        }
        self.mark(release, missing.is_empty());
        Ok(missing)
    }

    /// Begins to take in files.
    pub fn receive(&self) -> Receiving {
        Receiving::new(self.clone())
    }

    /// Removes the releases that are neither in `keep` nor younger than `young`, and the files that no
    /// release needs any more and nobody is taking in. Returns how many bytes that were.
    ///
    /// # Errors
    /// When the disk can not be read or written, or a release that stays has a manifest that can not be
    /// read: nobody knows then which files it needs, and nothing is removed.
    pub fn collect(&self, keep: &BTreeSet<ReleaseId>, young: Duration) -> Result<u64, StoreError> {
        let pins = self.pins();
        let mut needed: HashSet<FileKey> = pins.keys().copied().collect();
        let mut unneeded = Vec::new();
        for release in self.known()? {
            let path = self.inner.manifest_path(release);
            if keep.contains(&release) || is_younger(&path, young)? {
                needed.extend(self.manifest(release)?.files().map(|(_, file)| FileKey::from(file)));
            } else {
                unneeded.push((release, path));
            }
        }
        for (release, path) in unneeded {
            // First the manifest: without it the rest means nothing.
            remove_file(&path)?;
            self.mark(release, false);
            tracing::info!(%release, "collected");
        }
        for unpacked in list(&self.inner.releases())? {
            let release = file_name(&unpacked).parse().ok().or_else(|| aside_of(&unpacked));
            // Something may run in it, whatever has become of the manifest.
            let stays = |release| keep.contains(&release) || self.inner.manifest_path(release).exists();
            if !release.is_some_and(stays) {
                self.inner.remove_tree(&unpacked)?;
            }
        }
        let mut freed = 0;
        for folder in list(&self.inner.blobs())? {
            for path in list(&folder)? {
                if !key(&path).is_some_and(|key| needed.contains(&key)) {
                    freed += fs::metadata(&path).map_err(StoreError::io("look at", &path))?.len();
                    remove_file(&path)?;
                }
            }
        }
        drop(pins);
        Ok(freed)
    }

    /// The releases of which there is a manifest.
    fn known(&self) -> Result<Vec<ReleaseId>, StoreError> {
        Ok(list(&self.inner.manifests())?.iter().filter_map(|path| file_name(path).parse().ok()).collect())
    }

    /// Files of a release that are not here, by a look at the folder alone. `None`: there is no manifest.
    fn missing_of(&self, release: ReleaseId) -> Result<Option<Vec<FileContent>>, StoreError> {
        match self.manifest(release) {
            Ok(manifest) => Ok(Some(self.inner.absent(unique(&manifest)))),
            Err(StoreError::UnknownRelease { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn mark(&self, release: ReleaseId, whole: bool) {
        self.inner.whole.send_if_modified(|releases| {
            if releases.contains(&release) == whole {
                return false;
            }
            let releases = Arc::make_mut(releases);
            if whole { releases.insert(release) } else { releases.remove(&release) }
        });
    }

    fn pins(&self) -> MutexGuard<'_, BTreeMap<FileKey, usize>> {
        self.inner.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    fn manifest_path(&self, release: ReleaseId) -> PathBuf {
        self.manifests().join(release.to_string())
    }

    fn blob_path(&self, key: FileKey) -> PathBuf {
        let mut path = self.blobs().join(HEXLOWER.encode(&key.hash.0[..1])).join(key.hash.to_string());
        if key.executable {
            path.set_extension(EXECUTABLE_EXTENSION);
        }
        path
    }

    /// A name of its own in `incoming`.
    fn temporary(&self) -> PathBuf {
        self.incoming().join(self.counter.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Those that have no file of their size.
    fn absent(&self, contents: Vec<FileContent>) -> Vec<FileContent> {
        let is_there = |content: FileContent| {
            fs::metadata(self.blob_path(content.into())).is_ok_and(|metadata| metadata.len() == content.size)
        };
        contents.into_iter().filter(|content| !is_there(*content)).collect()
    }

    /// Whether a file is here and is what it should be. Anything else is removed.
    fn is_intact(&self, content: FileContent) -> Result<bool, StoreError> {
        let path = self.blob_path(content.into());
        match hash_file(&path) {
            Ok(hash) if hash == content.hash => Ok(true),
            Ok(_) => {
                tracing::warn!(hash = %content.hash, "a file of a release is damaged; removed");
                remove_file(&path)?;
                Ok(false)
            }
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(StoreError::Io { source, .. }) if is_lost(&source) => {
                tracing::warn!(hash = %content.hash, %source, "a file of a release can not be read; removed");
                remove_file(&path)?;
                Ok(false)
            }
            // Such as no free descriptor: that says nothing about the file.
            Err(error) => Err(error),
        }
    }

    /// Removes a folder so that a kill on the way leaves nothing under its name.
    fn remove_tree(&self, path: &Path) -> Result<(), StoreError> {
        let aside = self.temporary();
        fs::rename(path, &aside).map_err(StoreError::io("move aside", path))?;
        fs::remove_dir_all(&aside).map_err(StoreError::io("remove", &aside))
    }
}

/// Whether a disk says with this that it can not give the bytes back.
fn is_lost(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN];
    Errno::from_io_error(error).is_some_and(|error| lost.contains(&error))
}

/// Which release a folder that was moved aside had been unpacked from.
fn aside_of(folder: &Path) -> Option<ReleaseId> {
    let (release, number) = file_name(folder).split_once('.')?;
    number.parse::<u64>().ok()?;
    release.parse().ok()
}

/// The contents of a release's files, each once.
fn unique(manifest: &ReleaseManifest) -> Vec<FileContent> {
    let contents: BTreeSet<FileContent> = manifest.files().map(|(_, file)| file).collect();
    contents.into_iter().collect()
}

fn key(path: &Path) -> Option<FileKey> {
    let executable = path.extension().is_some_and(|extension| extension == EXECUTABLE_EXTENSION);
    let hash = path.file_stem()?.to_str()?.parse().ok()?;
    Some(FileKey { hash, executable })
}

fn hash_file(path: &Path) -> Result<BlobHash, StoreError> {
    let mut file = File::open(path).map_err(StoreError::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk).map_err(StoreError::io("read", path))?;
        if read == 0 {
            return Ok(BlobHash(*hasher.finalize().as_bytes()));
        }
        hasher.update(&chunk[..read]);
    }
}

fn is_younger(path: &Path, young: Duration) -> Result<bool, StoreError> {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.map_err(StoreError::io("look at", path))?.elapsed();
    // A time in the future: the clock was set back. Rather keep it.
    Ok(age.is_err() || age.is_ok_and(|age| age < young))
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read =
        || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|item| Ok(item?.path())).collect() };
    read().map_err(StoreError::io("list", folder))
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
