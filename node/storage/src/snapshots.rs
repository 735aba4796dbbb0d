//! Snapshots of raft groups: one file each, with a checksum.

use std::io::{self, Write as _};
use std::path::PathBuf;

use node_consensus::{EngineError, SnapshotError, Snapshots};
use proto::ids::GroupId;

use crate::StorageError;
use crate::files::{self, DurableFile};

const MAGIC: &[u8; 8] = b"HFSNAP1\n";
/// The state of one group, which is in memory as well.
const BYTES_MAX: u64 = 4 << 30;

/// Snapshot files in one folder, which has to exist.
pub struct SnapshotFiles {
    folder: PathBuf,
}

impl SnapshotFiles {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, group: GroupId) -> PathBuf {
        self.folder.join(format!("group-{group}.snapshot"))
    }
}

impl Snapshots for SnapshotFiles {
    fn save(&self, group: GroupId, bytes: &[u8]) -> Result<(), SnapshotError> {
        let path = self.path(group);
        let write = || -> Result<(), StorageError> {
            let mut file = DurableFile::create(&path, 0o600)?;
            for part in [&MAGIC[..], blake3::hash(bytes).as_bytes(), bytes] {
                file.write_all(part).map_err(StorageError::file("write", &path))?;
            }
            file.finish()
        };
        write().map_err(|error| refused(&error))
    }

    fn load(&self, group: GroupId) -> Result<Option<Vec<u8>>, SnapshotError> {
        let path = self.path(group);
        let mut whole = match files::read_bounded(&path, BYTES_MAX) {
            Ok(whole) => whole,
            // Any other error must not pass for "there is none": the log before a snapshot is gone.
            Err(StorageError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(refused(&error)),
        };
        let damaged = || EngineError(format!("the snapshot {} is damaged", path.display()));
        let rest = whole.strip_prefix(&MAGIC[..]).ok_or_else(damaged)?;
        let (sum, bytes) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
        if blake3::hash(bytes) != blake3::Hash::from(*sum) {
            return Err(damaged().into());
        }
        let head = whole.len() - bytes.len();
        whole.drain(..head);
        Ok(Some(whole))
    }
}

fn refused(error: &StorageError) -> SnapshotError {
    if error.is_for_want_of_descriptors() {
        SnapshotError::NotNow(error.to_string())
    } else {
        EngineError(error.to_string()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_comes_back_as_it_was_and_a_damaged_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = SnapshotFiles::new(dir.path().to_owned());
        assert_eq!(files.load(GroupId(3)), Ok(None));
        files.save(GroupId(3), b"state").unwrap();
        assert_eq!(files.load(GroupId(3)), Ok(Some(b"state".to_vec())));
        let path = files.path(GroupId(3));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(files.load(GroupId(3)).is_err());
        std::fs::write(&path, b"HF").unwrap();
        assert!(files.load(GroupId(3)).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(files.load(GroupId(3)).is_err(), "what can not be read is not what is not there");
    }
}
