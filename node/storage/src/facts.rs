//! A node's own facts: a few named values beside the control log, such as the highest epoch seen.

use std::sync::{Arc, mpsc};

use node_consensus::{Batch, Engine as _};

use crate::database::VALUE_BYTES_MAX;
use crate::{Database, StorageError};

/// Above every raft group's keys: group 65,535 does not exist.
const PREFIX: &[u8] = b"\xff\xfffact/";

/// Named values that survive power cuts.
pub struct Facts {
    database: Arc<Database>,
}

impl Facts {
    pub fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    /// # Errors
    /// When the disk can not be read.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.database.get(&key(name)).map_err(|error| StorageError::Stopped(error.0))
    }

    /// Returns when the value is on disk. Blocks for as long as a sync takes: call it from a thread
    /// that may.
    ///
    /// # Errors
    /// When it is larger than a fact may be, or may not be on disk.
    pub fn put(&self, name: &str, value: &[u8]) -> Result<(), StorageError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(StorageError::FactTooLarge { name: name.to_owned(), bytes: value.len() });
        }
        let mut batch = Batch::default();
        batch.put(key(name), value.to_vec());
        let (tell, told) = mpsc::sync_channel(1);
        self.database.commit(batch, Box::new(move |result| drop(tell.send(result))));
        let committed = told.recv().map_err(|_| StorageError::Stopped("its thread is gone".to_owned()))?;
        committed.map_err(|error| StorageError::Stopped(error.0))
    }
}

fn key(name: &str) -> Vec<u8> {
    [PREFIX, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn a_fact_is_there_after_a_restart_and_one_that_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open =
            || Facts::new(Database::open(&dir.path().join("db"), Options { cache_bytes: 1 << 20 }).unwrap());
        let facts = open();
        assert_eq!(facts.get("epoch").unwrap(), None);
        facts.put("epoch", b"7").unwrap();
        let large = facts.put("epoch", &[0; VALUE_BYTES_MAX + 1]);
        assert!(matches!(large, Err(StorageError::FactTooLarge { .. })));
        drop(facts);
        assert_eq!(open().get("epoch").unwrap(), Some(b"7".to_vec()));
    }
}
