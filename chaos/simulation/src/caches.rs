//! What applications keep, and what they ought to see: the reason why there are invalidations.

/// Values that are cached, few so that they are changed again and again.
pub const KEYS: usize = 8;

/// The values as the farm's store has them. Each has a version.
#[derive(Default)]
pub struct Store {
    versions: [u64; KEYS],
}

impl Store {
    pub fn change(&mut self, key: usize) -> u64 {
        self.versions[key] += 1;
        self.versions[key]
    }

    pub fn version(&self, key: usize) -> u64 {
        self.versions[key]
    }
}

/// What one application holds in its memory.
#[derive(Default)]
pub struct Cache {
    entries: [Option<u64>; KEYS],
}

impl Cache {
    /// What it answers with: what it has or, for want of it, what it gets from the store.
    pub fn read(&mut self, key: usize, store: &Store) -> u64 {
        *self.entries[key].get_or_insert(store.version(key))
    }

    pub fn drop(&mut self, key: usize) {
        if let Some(entry) = self.entries.get_mut(key) {
            *entry = None;
        }
    }

    pub fn flush(&mut self) {
        self.entries = [None; KEYS];
    }

    /// Whether it would answer with a version from before this one.
    pub fn is_older(&self, key: usize, version: u64) -> bool {
        self.entries[key].is_some_and(|held| held < version)
    }
}
