//! The newest entries in memory.

use std::collections::VecDeque;

use crate::types::Entry;

/// Enough for what three followers are a moment behind; with 65 groups on a node, 65 MiB at worst.
const BYTES_MAX: usize = 1 << 20;

/// A run of consecutive entries that ends with the log's last.
#[derive(Default)]
pub struct Cache {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Cache {
    pub fn push(&mut self, entry: Entry, bytes: usize) {
        if self.entries.back().is_some_and(|(last, _)| last.log_id.index + 1 != entry.log_id.index) {
            self.clear();
        }
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.bytes > BYTES_MAX && self.entries.len() > 1 {
            self.drop_oldest();
        }
    }

    /// The entries of `from..to` up to a limit of bytes but at least one, if the first is here.
    pub fn read(&self, from: u64, to: u64, limit: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.0.log_id.index;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        if skip >= self.entries.len() {
            return None;
        }
        let mut bytes = 0;
        let mut found = Vec::new();
        for (entry, size) in self.entries.iter().skip(skip) {
            if entry.log_id.index >= to || (bytes >= limit && !found.is_empty()) {
                break;
            }
            bytes += size;
            found.push(entry.clone());
        }
        Some(found)
    }

    /// Forgets the entries from `index` on.
    pub fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|(entry, _)| entry.log_id.index >= index) {
            if let Some((_, bytes)) = self.entries.pop_back() {
                self.bytes -= bytes;
            }
        }
    }

    /// Forgets the entries up to and including `index`.
    pub fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|(entry, _)| entry.log_id.index <= index) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}
