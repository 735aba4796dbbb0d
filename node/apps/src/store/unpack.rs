//! A release as a folder that an app can run in.
//!
//! The files are hard links to the blobs, so that a release costs its folders only. They are read-only,
//! but an app that runs as the agent's own user can force its way to them, and then damages the blob
//! too: that is found by `verify`, and the folder is made anew because its files are no longer the
//! store's. New files that an app makes in its folder stay until then.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use node_storage::files;
use proto::ids::ReleaseId;

use super::{Inner, ReleaseStore, StoreError, hash_file};
use crate::manifest::{Content, FileContent, ReleaseManifest};

impl ReleaseStore {
    /// The release's folder, made or made anew where it is not there as it should be. When that which is
    /// damaged is in use, it is moved aside: what runs in it goes on in it, and what starts from now on
    /// starts in the new one. It is removed when the store is opened again or the release collected.
    ///
    /// # Errors
    /// When the release is not here, or the disk can not be written.
    pub fn unpack(&self, release: ReleaseId, in_use: bool) -> Result<PathBuf, StoreError> {
        let manifest = self.manifest(release)?;
        let inner = &self.inner;
        let folder = inner.releases().join(release.to_string());
        if manifest.entries().iter().all(|entry| {
            let at = folder.join(entry.path.as_str());
            match &entry.content {
                Content::File(content) => inner.is_unpacked(&at, *content),
                Content::Link(target) => {
                    fs::read_link(&at).is_ok_and(|found| found == Path::new(target.as_str()))
                }
            }
        }) {
            return Ok(folder);
        }
        let fresh = inner.temporary();
        inner.unpack_into(&manifest, &fresh)?;
        if folder.exists() {
            if in_use {
                let aside = inner.aside(&folder);
                fs::rename(&folder, &aside).map_err(StoreError::io("move aside", &folder))?;
            } else {
                inner.remove_tree(&folder)?;
            }
        }
        fs::rename(&fresh, &folder).map_err(StoreError::io("place", &folder))?;
        let above = inner.releases();
        files::sync_dir(&above)?;
        Ok(folder)
    }
}

impl Inner {
    fn unpack_into(&self, manifest: &ReleaseManifest, root: &Path) -> Result<(), StoreError> {
        fs::create_dir(root).map_err(StoreError::io("make", root))?;
        let mut folders = vec![root.to_owned()];
        for entry in manifest.entries() {
            let at = root.join(entry.path.as_str());
            let above = at.parent().unwrap_or(root);
            // The entries are in order, so most follow another of the same folder.
            if folders.last().is_none_or(|last| last != above) {
                fs::create_dir_all(above).map_err(StoreError::io("make", above))?;
                folders.push(above.to_owned());
            }
            match &entry.content {
                Content::File(content) => self.place(*content, &at)?,
                Content::Link(target) => {
                    symlink(target.as_str(), &at).map_err(StoreError::io("make", &at))?;
                }
            }
        }
        folders.sort();
        folders.dedup();
        for folder in folders {
            files::sync_dir(&folder)?;
        }
        Ok(())
    }

    /// A free name beside a release's folder.
    fn aside(&self, folder: &Path) -> PathBuf {
        loop {
            let aside = folder.with_extension(self.counter.fetch_add(1, Ordering::Relaxed).to_string());
            if fs::symlink_metadata(&aside).is_err() {
                return aside;
            }
        }
    }

    fn place(&self, content: FileContent, at: &Path) -> Result<(), StoreError> {
        let blob = self.blob_path(content.into());
        match fs::hard_link(&blob, at) {
            Err(error) if can_be_copied(&error) => {
                fs::copy(&blob, at).map(drop).map_err(StoreError::io("copy to", at))
            }
            linked => linked.map_err(StoreError::io("link to", at)),
        }
    }

    /// Whether a file stands there as the release has it: the blob itself, or a good copy of it.
    fn is_unpacked(&self, at: &Path, content: FileContent) -> bool {
        let (Ok(found), Ok(blob)) =
            (fs::symlink_metadata(at), fs::symlink_metadata(self.blob_path(content.into())))
        else {
            return false;
        };
        if (found.dev(), found.ino()) == (blob.dev(), blob.ino()) {
            return true;
        }
        let is_executable = found.permissions().mode() & 0o100 != 0;
        found.is_file()
            && found.len() == content.size
            && is_executable == content.executable
            && hash_file(at).is_ok_and(|hash| hash == content.hash)
    }
}

/// A file system may know no hard links, or only so many to one file (an empty `__init__.py` may be
/// there a hundred thousand times).
fn can_be_copied(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TooManyLinks | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
    )
}
