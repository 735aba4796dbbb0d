//! An engine and snapshots in memory, for simulations and tests.
//!
//! [`MemoryEngine`] is on disk at once: what it has acknowledged survives the drop of every handle but
//! its own. [`MemoryEngine::break_with`] makes it fail like a disk whose fsync did.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::ids::GroupId;

use crate::engine::{Batch, Done, Engine, EngineError, SnapshotError, Snapshots, Write};

#[derive(Default)]
pub struct MemoryEngine {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    broken: Option<String>,
}

impl MemoryEngine {
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every commit fails, as after an fsync error.
    pub fn break_with(&self, reason: &str) {
        self.state().broken = Some(reason.to_owned());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for MemoryEngine {
    fn commit(&self, batch: Batch, done: Done) {
        let result = {
            let mut state = self.state();
            match &state.broken {
                Some(reason) => Err(EngineError(reason.clone())),
                None => {
                    for write in batch.writes {
                        match write {
                            Write::Put { key, value } => {
                                state.disk.insert(key, value);
                            }
                            Write::Delete { key } => {
                                state.disk.remove(&key);
                            }
                            Write::DeleteRange { from, to } => {
                                state.disk.retain(|key, _| *key < from || *key >= to);
                            }
                        }
                    }
                    Ok(())
                }
            }
        };
        done(result);
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.state().disk.get(key).cloned())
    }

    fn range(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        for (key, value) in self.state().disk.range(from.to_vec()..to.to_vec()) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[derive(Default)]
pub struct MemorySnapshots {
    files: Mutex<BTreeMap<GroupId, Vec<u8>>>,
    exhausted: AtomicBool,
    broken: AtomicBool,
}

impl MemorySnapshots {
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every call is refused for the moment, as without a free file descriptor; or no longer.
    pub fn set_exhausted(&self, exhausted: bool) {
        self.exhausted.store(exhausted, Ordering::SeqCst);
    }

    /// From now on every call fails for good; or no longer.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), SnapshotError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(EngineError("the disk is broken".to_owned()).into());
        }
        if self.exhausted.load(Ordering::SeqCst) {
            return Err(SnapshotError::NotNow("no descriptor is free".to_owned()));
        }
        Ok(())
    }
}

impl Snapshots for MemorySnapshots {
    fn is_prompt(&self) -> bool {
        true
    }

    fn save(&self, group: GroupId, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.check()?;
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(group, bytes.to_vec());
        Ok(())
    }

    fn load(&self, group: GroupId) -> Result<Option<Vec<u8>>, SnapshotError> {
        self.check()?;
        Ok(self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&group).cloned())
    }
}
