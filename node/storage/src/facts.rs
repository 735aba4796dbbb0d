//! A node's own facts: a few named values beside the control log, such as the highest epoch seen.

use std::sync::{Arc, mpsc};

use node_consensus::{Batch, Engine as _};

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
    /// When it may not be on disk.
    pub fn put(&self, name: &str, value: &[u8]) -> Result<(), StorageError> {
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
