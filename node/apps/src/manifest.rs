//! What a release is: a list of files by their content, and how to run them.
//!
//! A release's id is the blake3 of its manifest's bytes, and the manifest names every file by the
//! blake3 of its content. So the id that the control log holds pins every byte, whoever delivers it.
//! What arrives is not trusted beyond that: paths come from somebody's folder or from a peer, and a
//! path is a way out of the release's root. Everything that could be one is refused when a manifest
//! is read, so that the code which creates files has nothing left to check.
//!
//! The rules that keep a release inside its root:
//! - a path is relative, has no `.`, `..` or empty part, and no NUL;
//! - no entry stands below another entry that is a file or a link, so the folders above an entry are
//!   real folders that unpacking made;
//! - a link's target goes up only at its beginning, and no further than the root. (To go up in the
//!   middle would go up from wherever *another* link points, and the path's text does not tell where.)

mod path;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use proto::ids::{BlobHash, ReleaseId};
use proto::limits::{MANIFEST_BYTES_MAX, RELEASE_BYTES_MAX, RELEASE_ENTRIES_MAX};
use serde::{Deserialize, Serialize};

use crate::spec::{AppSpec, SpecError};

pub use path::{EntryPath, LinkTarget, PathError};

/// Changes when an older reader would misunderstand a manifest.
const FORMAT: u32 = 1;

/// Longest version: a tag with what `git describe` adds.
pub const VERSION_BYTES_MAX: usize = 128;

/// A release, as its manifest tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseManifest {
    pub version: String,
    pub spec: AppSpec,
    spec_text: String,
    entries: Vec<Entry>,
    id: ReleaseId,
    bytes: Vec<u8>,
}

/// One file or link of a release. Folders are where files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub path: EntryPath,
    #[serde(flatten)]
    pub content: Content,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    File(FileContent),
    Link(LinkTarget),
}

/// A regular file. Of its mode, only whether it may be executed is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileContent {
    pub hash: BlobHash,
    pub size: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// The manifest as its bytes have it. The order of the fields and of the entries is fixed, so the same
/// release always has the same bytes.
#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    app: String,
    version: String,
    /// The text of `holdfast.toml`.
    spec: String,
    entries: Vec<Entry>,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("a manifest of {bytes} bytes is larger than {MANIFEST_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("the manifest can not be read: {0}")]
    Malformed(#[source] serde_json::Error),
    #[error("the manifest has format {format}; this version reads {FORMAT}")]
    Format { format: u32 },
    #[error(
        "a version is 1 to {VERSION_BYTES_MAX} bytes of printable text without blanks, unlike {version:?}"
    )]
    Version { version: String },
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("the manifest is of the app {app:?}, its specification of {spec_app:?}")]
    OtherApp { app: String, spec_app: String },
    #[error("a release may have {RELEASE_ENTRIES_MAX} entries, not {entries}")]
    TooManyEntries { entries: usize },
    #[error("a release may have {RELEASE_BYTES_MAX} bytes")]
    TooManyBytes,
    #[error("the release has no files")]
    Empty,
    #[error("the manifest's entries are not in order at {path:?}")]
    NotSorted { path: String },
    #[error("{path:?} is there twice")]
    Duplicate { path: String },
    #[error("{path:?} stands below {parent:?}, which is no folder")]
    BelowAFile { path: String, parent: String },
    #[error("the link {path:?} leaves the release: it points to {target:?}")]
    LinkLeaves { path: String, target: String },
}

impl ReleaseManifest {
    /// A release from its parts. The entries may come in any order.
    ///
    /// # Errors
    /// What a reader of the manifest would refuse.
    pub fn new(spec_text: &str, version: &str, mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        let spec = AppSpec::parse(spec_text)?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let written = Written {
            format: FORMAT,
            app: spec.app.clone(),
            version: version.to_owned(),
            spec: spec_text.to_owned(),
            entries,
        };
        let bytes =
            serde_json::to_vec(&written).expect("a manifest has only string keys, and no failing part");
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { bytes: bytes.len() });
        }
        written.check(spec, bytes)
    }

    /// Reads a manifest that comes from a peer or from the disk.
    ///
    /// # Errors
    /// Whatever would make the release unsafe to unpack or impossible to run.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge { bytes: bytes.len() });
        }
        let written: Written = serde_json::from_slice(bytes).map_err(ManifestError::Malformed)?;
        let spec = AppSpec::parse(&written.spec)?;
        written.check(spec, bytes.to_vec())
    }

    /// The canonical bytes, of which the id is the hash.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn id(&self) -> ReleaseId {
        self.id
    }

    pub fn app(&self) -> &str {
        &self.spec.app
    }

    /// In the order of their paths.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The regular files, each path on its own.
    pub fn files(&self) -> impl Iterator<Item = (&EntryPath, FileContent)> {
        self.entries.iter().filter_map(|entry| match &entry.content {
            Content::File(file) => Some((&entry.path, *file)),
            Content::Link(_) => None,
        })
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.files().map(|(_, file)| file.size).sum()
    }
}

impl Written {
    fn check(self, spec: AppSpec, bytes: Vec<u8>) -> Result<ReleaseManifest, ManifestError> {
        if self.format != FORMAT {
            return Err(ManifestError::Format { format: self.format });
        }
        if self.app != spec.app {
            return Err(ManifestError::OtherApp { app: self.app, spec_app: spec.app });
        }
        let printable = self.version.bytes().all(|b| b.is_ascii_graphic());
        if !(1..=VERSION_BYTES_MAX).contains(&self.version.len()) || !printable {
            return Err(ManifestError::Version { version: self.version.chars().take(80).collect() });
        }
        check_entries(&self.entries)?;
        Ok(ReleaseManifest {
            version: self.version,
            spec,
            spec_text: self.spec,
            entries: self.entries,
            id: ReleaseId(*blake3::hash(&bytes).as_bytes()),
            bytes,
        })
    }
}

fn check_entries(entries: &[Entry]) -> Result<(), ManifestError> {
    if entries.is_empty() {
        return Err(ManifestError::Empty);
    }
    if entries.len() > RELEASE_ENTRIES_MAX {
        return Err(ManifestError::TooManyEntries { entries: entries.len() });
    }
    for pair in entries.windows(2) {
        let path = || pair[1].path.to_string();
        match pair[0].path.cmp(&pair[1].path) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Err(ManifestError::Duplicate { path: path() }),
            std::cmp::Ordering::Greater => return Err(ManifestError::NotSorted { path: path() }),
        }
    }
    let taken: HashSet<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    let mut total: u64 = 0;
    for Entry { path, content } in entries {
        if let Some(parent) = path.parents().find(|parent| taken.contains(parent)) {
            return Err(ManifestError::BelowAFile { path: path.to_string(), parent: parent.to_owned() });
        }
        match content {
            Content::File(file) => total = total.saturating_add(file.size),
            Content::Link(target) if target.stays_inside(path) => {}
            Content::Link(target) => {
                return Err(ManifestError::LinkLeaves { path: path.to_string(), target: target.to_string() });
            }
        }
    }
    if total > RELEASE_BYTES_MAX { Err(ManifestError::TooManyBytes) } else { Ok(()) }
}
