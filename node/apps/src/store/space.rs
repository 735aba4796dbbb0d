//! Whether there is room, asked before bytes are fetched rather than found out in the middle.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;

/// Room that releases leave to the databases and logs: an agent whose disk is full acknowledges
/// nothing any more.
const RESERVED_BYTES: u64 = 256 << 20;

/// The room of the store's file system, and what of it has been promised to files on their way in:
/// many come at a time, and each of them alone might fit.
#[derive(Debug)]
pub(super) struct Space {
    root: PathBuf,
    promised: Mutex<u64>,
}

/// Room for what is still to be written of a file. Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Promise {
    space: Arc<Space>,
    bytes: u64,
}

impl Space {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, promised: Mutex::default() }
    }

    /// # Errors
    /// [`StoreError::NoSpace`] when so many bytes do not fit.
    pub(super) fn check(&self, bytes: u64) -> Result<(), StoreError> {
        self.fits(bytes, *self.promised())
    }

    /// Keeps room for so many bytes.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`].
    pub(super) fn promise(self: &Arc<Self>, bytes: u64) -> Result<Promise, StoreError> {
        let mut promised = self.promised();
        self.fits(bytes, *promised)?;
        *promised += bytes;
        drop(promised);
        Ok(Promise { space: Arc::clone(self), bytes })
    }

    fn fits(&self, needed: u64, promised: u64) -> Result<(), StoreError> {
        let free = rustix::fs::statvfs(&self.root)
            .map_err(|error| StoreError::io("ask for the free space of", &self.root)(error.into()))?;
        let available = available(free.f_bavail.saturating_mul(free.f_frsize), promised);
        if needed <= available {
            return Ok(());
        }
        Err(StoreError::NoSpace { path: self.root.clone(), needed, available })
    }

    fn promised(&self) -> MutexGuard<'_, u64> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise {
    /// So many of the bytes are on the disk now, and no longer free.
    pub(super) fn redeem(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        *self.space.promised() -= bytes;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.redeem(self.bytes);
    }
}

fn available(free: u64, promised: u64) -> u64 {
    free.saturating_sub(RESERVED_BYTES).saturating_sub(promised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_reserved_room_nor_what_was_promised_is_given_away() {
        assert_eq!(available(RESERVED_BYTES + 10, 0), 10);
        assert_eq!(available(RESERVED_BYTES + 10, 4), 6);
        assert_eq!(available(RESERVED_BYTES + 10, 11), 0);
        assert_eq!(available(1, 0), 0);
    }

    #[test]
    fn what_is_promised_to_one_is_not_promised_to_another_until_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let space = Arc::new(Space::new(folder.path().to_owned()));
        // More than half of what there is, whatever else is written meanwhile.
        let free = rustix::fs::statvfs(folder.path()).unwrap();
        let most = available(free.f_bavail * free.f_frsize, 0) / 3 * 2;
        let mut first = space.promise(most).unwrap();
        let words = space.promise(most).unwrap_err().to_string();
        assert!(words.contains("more bytes are needed"), "{words}");
        assert!(space.check(most).is_err());
        first.redeem(most / 2);
        drop(first);
        assert_eq!(*space.promised(), 0);
        drop(space.promise(most).unwrap());
    }
}
