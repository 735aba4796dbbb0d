//! The keys of one group, with their deadlines in order and their bytes counted.
//!
//! Ordered maps rather than hash maps: a snapshot is then the same bytes on every replica, which
//! lets them be compared, and nothing here depends on a random seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

/// What a key costs beyond its own bytes and its value's: two shared buffers and its place in the
/// map. Measured as resident memory with a million keys that came in order, the worst case for a map.
pub(super) const ENTRY_BYTES: u64 = 200;
/// What a deadline costs: its place among the deadlines, and the key shared between both maps.
/// Measured likewise.
pub(super) const DEADLINE_BYTES: u64 = 120;

/// One group's keys. Equal on every replica that has applied the same entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionState {
    keyspaces: BTreeMap<Arc<str>, Keyspace>,
    deadlines: BTreeSet<(u64, Arc<str>, Bytes)>,
    /// Of the newest entry; never goes back.
    pub(super) clock_ms: u64,
    /// The newest version that was given to a value. One count for the whole group, so that a key
    /// that was deleted and stored again never has a version that it had before.
    pub(super) last_version: u64,
    keys: u64,
    bytes: u64,
}

type Keyspace = BTreeMap<Bytes, Entry>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Bytes,
    pub(super) version: u64,
    /// Unix milliseconds in the group's time.
    pub(super) deadline_ms: Option<u64>,
}

impl Entry {
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|deadline| deadline <= now_ms)
    }
}

impl SessionState {
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys there are, those included whose deadline has passed and that no entry has
    /// deleted yet.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The memory used, as accounted: for each key its bytes, its value's, and a fixed cost.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The clock of the newest entry, in Unix milliseconds.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// The next deadline, if any key has one.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _, _)| *deadline)
    }

    pub(super) fn get(&self, keyspace: &str, key: &[u8]) -> Option<&Entry> {
        self.keyspaces.get(keyspace)?.get(key)
    }

    /// All keys in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Bytes, &Entry)> {
        self.keyspaces
            .iter()
            .flat_map(|(name, keyspace)| keyspace.iter().map(|(key, entry)| (&**name, key, entry)))
    }

    /// Stores an entry, whatever was there.
    pub(super) fn put(&mut self, keyspace: &str, key: &[u8], entry: Entry) {
        self.remove(keyspace, key);
        let name = match self.keyspaces.get_key_value(keyspace) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(keyspace),
        };
        // A copy: the key that came in is a slice of the whole log entry and would keep it alive.
        let key = Bytes::copy_from_slice(key);
        self.keys += 1;
        self.bytes += cost_bytes(&key, &entry);
        if let Some(deadline) = entry.deadline_ms {
            self.deadlines.insert((deadline, Arc::clone(&name), key.clone()));
        }
        self.keyspaces.entry(name).or_default().insert(key, entry);
    }

    pub(super) fn remove(&mut self, keyspace: &str, key: &[u8]) -> Option<Entry> {
        let keys = self.keyspaces.get_mut(keyspace)?;
        let (key, entry) = keys.remove_entry(key)?;
        if keys.is_empty() {
            self.keyspaces.remove(keyspace);
        }
        self.keys -= 1;
        self.bytes -= cost_bytes(&key, &entry);
        if let Some(deadline) = entry.deadline_ms {
            self.deadlines.remove(&(deadline, Arc::from(keyspace), key));
        }
        Some(entry)
    }

    /// Removes the key with the earliest deadline, if that has passed.
    pub(super) fn remove_first_due(&mut self, now_ms: u64) -> Option<Entry> {
        let (deadline, keyspace, key) = self.deadlines.first()?.clone();
        if deadline > now_ms {
            return None;
        }
        let removed = self.remove(&keyspace, &key);
        assert!(removed.is_some(), "every deadline belongs to a key");
        removed
    }
}

fn cost_bytes(key: &Bytes, entry: &Entry) -> u64 {
    let deadline = if entry.deadline_ms.is_some() { DEADLINE_BYTES } else { 0 };
    ENTRY_BYTES + deadline + key.len() as u64 + entry.value.len() as u64
}
