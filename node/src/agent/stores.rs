//! The databases of this node, and that they are those that it had.
//!
//! A database knows by the file beside it whether it has lost something. Where both are gone it would be
//! new, under an identity that has voted and acknowledged writes: it would vote again in the same terms,
//! with an empty log. So once they are there that is noted elsewhere, with the identity.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use node_storage::{Database, Facts, Options, StorageError, files};

use super::AgentError;

/// sled's page cache; the state lives in memory anyway.
const CACHE_BYTES: u64 = 8 << 20;
/// In the identity's folder: this identity has databases.
const MADE: &str = "databases-made";
const PUBLIC: u32 = 0o644;

/// What is durable on this node.
pub struct Stores {
    pub control: Arc<Database>,
    pub sessions: Arc<Database>,
    pub facts: Arc<Facts>,
    pub snapshots: PathBuf,
}

impl Stores {
    /// # Errors
    /// When one can not be read, has lost something, or is gone.
    pub fn open(data_dir: &Path) -> Result<Self, AgentError> {
        let made = data_dir.join("identity").join(MADE);
        let were_made = made.try_exists().map_err(|source| AgentError::Storage {
            path: made.clone(),
            source: StorageError::File { action: "look at", path: made.clone(), source },
        })?;
        let open = |name: &str| {
            let path = data_dir.join(name);
            if were_made && !path.exists() {
                return Err(AgentError::Gone { path });
            }
            Database::open(&path, Options { cache_bytes: CACHE_BYTES })
                .map_err(|source| AgentError::Storage { path, source })
        };
        let control = open("control.db")?;
        let sessions = open("sessions.db")?;
        if !were_made {
            files::write_atomically(&made, b"", PUBLIC)
                .map_err(|source| AgentError::Storage { path: made.clone(), source })?;
        }
        let snapshots = data_dir.join("snapshots");
        let failed = |source| AgentError::Storage { path: snapshots.clone(), source };
        files::create_dir_durably(&snapshots).map_err(failed)?;
        // Each is as large as the one that a kill kept it from replacing.
        files::remove_unfinished(&snapshots).map_err(failed)?;
        let facts = Arc::new(Facts::new(Arc::clone(&control)));
        Ok(Self { control, sessions, facts, snapshots })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_gone_with_what_it_remembers_is_not_made_anew_under_the_same_identity() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("identity")).unwrap();
        drop(Stores::open(folder.path()).unwrap());
        drop(Stores::open(folder.path()).unwrap());
        std::fs::remove_dir_all(folder.path().join("sessions.db")).unwrap();
        std::fs::remove_file(folder.path().join("sessions.commits")).unwrap();
        let error = Stores::open(folder.path()).err().unwrap();
        assert!(matches!(&error, AgentError::Gone { path } if path.ends_with("sessions.db")), "{error}");
        assert!(!folder.path().join("sessions.db").exists());
    }
}
