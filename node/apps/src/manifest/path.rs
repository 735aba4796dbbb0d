//! Paths that can not leave the release.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What Linux takes as one part of a path.
const PART_BYTES_MAX: usize = 255;
/// Below Linux's 4096 with room for the store's own folder.
const PATH_BYTES_MAX: usize = 3 << 10;

/// A path relative to the release's root: parts that are names, with `/` between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryPath(String);

/// Where a link points, relative to the folder that it stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkTarget(String);

/// Why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path is empty")]
    Empty,
    #[error("the path {0:?} is too long")]
    TooLong(String),
    #[error("the path {0:?} is absolute")]
    Absolute(String),
    #[error("the path {0:?} has an empty part, '.' or '..' in it, or one that is too long")]
    Part(String),
    #[error("the path {0:?} has a NUL in it")]
    Nul(String),
}

impl EntryPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders above it, from the nearest to the one below the root.
    pub(super) fn parents(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(parent(&self.0), |path| parent(path))
    }

    /// Folders between it and the root.
    fn depth(&self) -> usize {
        self.0.bytes().filter(|b| *b == b'/').count()
    }
}

fn parent(path: &str) -> Option<&str> {
    path.rfind('/').map(|end| &path[..end])
}

impl TryFrom<String> for EntryPath {
    type Error = PathError;

    fn try_from(path: String) -> Result<Self, PathError> {
        check_common(&path)?;
        let bad = |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > PART_BYTES_MAX;
        if path.split('/').any(bad) { Err(PathError::Part(short(&path))) } else { Ok(Self(path)) }
    }
}

impl LinkTarget {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the link at `path` points into the release. The root itself is inside.
    pub fn stays_inside(&self, path: &EntryPath) -> bool {
        let up = self.0.split('/').take_while(|part| *part == "..").count();
        up <= path.depth() && self.0.split('/').skip(up).all(|part| part != "..")
    }
}

impl TryFrom<String> for LinkTarget {
    type Error = PathError;

    fn try_from(target: String) -> Result<Self, PathError> {
        check_common(&target)?;
        Ok(Self(target))
    }
}

fn check_common(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(PathError::TooLong(short(path)));
    }
    if path.starts_with('/') {
        return Err(PathError::Absolute(short(path)));
    }
    if path.contains('\0') {
        return Err(PathError::Nul(short(path)));
    }
    Ok(())
}

fn short(path: &str) -> String {
    path.chars().take(200).collect()
}

impl From<EntryPath> for String {
    fn from(path: EntryPath) -> Self {
        path.0
    }
}

impl From<LinkTarget> for String {
    fn from(target: LinkTarget) -> Self {
        target.0
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
