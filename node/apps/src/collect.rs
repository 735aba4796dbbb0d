//! The folder that somebody deploys, as a list of what a release will be made of.
//!
//! Everything in the folder belongs to the release, except `.git`: guessing what else is not meant
//! would surprise. What can not be in a release (sockets, devices, links that lead out of the folder,
//! names that are not text) is an error that names it, not something left out in silence.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proto::limits::{RELEASE_BYTES_MAX, RELEASE_ENTRIES_MAX};

use crate::manifest::{EntryPath, LinkTarget, PathError};

/// Not part of what is deployed, however it got there.
const IGNORED: &str = ".git";

/// Folders below one another: deeper than any path may be.
const DEPTH_MAX: usize = 200;

/// One file or link found in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceEntry {
    pub path: EntryPath,
    pub kind: SourceKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    File { source: PathBuf, size: u64, executable: bool },
    Link { target: LinkTarget },
}

/// Why a folder can not be made a release.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("can not read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is neither a file, a folder nor a link", .0.display())]
    Special(PathBuf),
    #[error("{} has a name that is not UTF-8", .0.display())]
    NotText(PathBuf),
    #[error("{} can not be in a release: {source}", path.display())]
    Path { path: PathBuf, source: PathError },
    #[error(
        "the link {} leaves the folder: it points to {target:?} (a link may go up with '..' only at its beginning)",
        path.display()
    )]
    LinkLeaves { path: PathBuf, target: String },
    #[error("the folder has more than {RELEASE_ENTRIES_MAX} entries")]
    TooMany,
    #[error("the folder has more than {RELEASE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("{} is too deep", .0.display())]
    TooDeep(PathBuf),
}

/// Lists what is in a folder, in the order of the paths.
///
/// # Errors
/// The first thing that a release can not hold.
pub fn collect(folder: &Path) -> Result<Vec<SourceEntry>, CollectError> {
    let mut found = Found::default();
    found.folder(folder, "", 0)?;
    found.entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found.entries)
}

#[derive(Default)]
struct Found {
    entries: Vec<SourceEntry>,
    bytes: u64,
}

impl Found {
    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<(), CollectError> {
        let read = |source| CollectError::Read { path: folder.to_owned(), source };
        if depth > DEPTH_MAX {
            return Err(CollectError::TooDeep(folder.to_owned()));
        }
        for item in fs::read_dir(folder).map_err(read)? {
            let item = item.map_err(read)?;
            let at = item.path();
            let name = item.file_name().into_string().map_err(|_| CollectError::NotText(at.clone()))?;
            if name == IGNORED {
                continue;
            }
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let metadata = fs::symlink_metadata(&at)
                .map_err(|source| CollectError::Read { path: at.clone(), source })?;
            if metadata.is_dir() {
                self.folder(&at, &path, depth + 1)?;
            } else {
                self.entry(at, path, &metadata)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, at: PathBuf, path: String, metadata: &fs::Metadata) -> Result<(), CollectError> {
        if self.entries.len() >= RELEASE_ENTRIES_MAX {
            return Err(CollectError::TooMany);
        }
        let refused = |source| CollectError::Path { path: at.clone(), source };
        let path = EntryPath::try_from(path).map_err(refused)?;
        let kind = if metadata.is_symlink() {
            let target =
                fs::read_link(&at).map_err(|source| CollectError::Read { path: at.clone(), source })?;
            let target =
                target.into_os_string().into_string().map_err(|_| CollectError::NotText(at.clone()))?;
            let leaves = || CollectError::LinkLeaves { path: at.clone(), target: target.clone() };
            let checked = LinkTarget::try_from(target.clone()).map_err(|_| leaves())?;
            if !checked.stays_inside(&path) {
                return Err(leaves());
            }
            SourceKind::Link { target: checked }
        } else if metadata.is_file() {
            self.bytes = self.bytes.saturating_add(metadata.len());
            if self.bytes > RELEASE_BYTES_MAX {
                return Err(CollectError::TooLarge);
            }
            let executable = metadata.permissions().mode() & 0o111 != 0;
            SourceKind::File { source: at, size: metadata.len(), executable }
        } else {
            return Err(CollectError::Special(at));
        };
        self.entries.push(SourceEntry { path, kind });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_listed_with_its_links_and_executables_but_without_git() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("bin")).unwrap();
        fs::create_dir_all(at(".git/objects")).unwrap();
        fs::create_dir_all(at("empty")).unwrap();
        fs::write(at(".git/objects/x"), "x").unwrap();
        fs::write(at("bin/run"), "#!/bin/sh").unwrap();
        fs::set_permissions(at("bin/run"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(at(".env"), "A=1").unwrap();
        symlink("bin/run", at("alias")).unwrap();
        let found = collect(folder.path()).unwrap();
        let paths: Vec<&str> = found.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, [".env", "alias", "bin/run"]);
        assert!(matches!(&found[1].kind, SourceKind::Link { target } if target.as_str() == "bin/run"));
        assert!(matches!(&found[2].kind, SourceKind::File { executable: true, size: 9, .. }));
        assert!(matches!(&found[0].kind, SourceKind::File { executable: false, .. }));
    }

    #[test]
    fn a_link_that_leaves_the_folder_is_named() {
        for target in ["/etc/passwd", "../x", "a/../../x"] {
            let folder = tempfile::tempdir().unwrap();
            symlink(target, folder.path().join("escape")).unwrap();
            let words = collect(folder.path()).unwrap_err().to_string();
            assert!(words.contains("escape") && words.contains(target), "{words}");
        }
    }

    #[test]
    fn a_socket_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
        assert!(matches!(collect(folder.path()), Err(CollectError::Special(_))));
    }

    #[test]
    fn a_name_that_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
        assert!(matches!(collect(folder.path()), Err(CollectError::NotText(_))));
    }
}
