//! A group's state as bytes, and back.
//!
//! ```text
//!   "HFSS" version:u16 clock_ms:u64 last_version:u64 keys:u64
//!   then for each key, in order:
//!   keyspace: u8 length, bytes   key: u16 length, bytes   value: u32 length, bytes
//!   version:u64   deadline_ms:u64 (0: none)
//! ```
//! All numbers are little-endian. The order is strict, so that two replicas' snapshots at the same
//! entry are the same bytes and a key can not be there twice. The files around it carry the checksum;
//! this decoder trusts nothing all the same.

use bytes::Bytes;
use proto::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use super::state::Entry;
use super::{KEYSPACE_BYTES_MAX, SessionState};

const MAGIC: &[u8; 4] = b"HFSS";
const FORMAT: u16 = 1;

/// Why bytes are no snapshot of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("the bytes do not begin as a snapshot of sessions does")]
    Magic,
    #[error("the snapshot has format {found}, this version reads {FORMAT}")]
    Format { found: u16 },
    #[error("the snapshot ends in the middle of {part}")]
    Short { part: &'static str },
    #[error("the snapshot has {count} bytes after its last key")]
    Trailing { count: usize },
    #[error("the snapshot's key {index} has a {part} of {length} bytes")]
    TooLong { index: u64, part: &'static str, length: usize },
    #[error("the snapshot's key {index} is out of order or has a version or name that can not be")]
    Invalid { index: u64 },
}

impl SessionState {
    /// The state as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let size: usize = self
            .iter()
            .map(|(name, key, entry)| 1 + name.len() + 2 + key.len() + 4 + entry.value.len() + 16)
            .sum();
        let mut out = Vec::with_capacity(size + 30);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.clock_ms.to_le_bytes());
        out.extend_from_slice(&self.last_version.to_le_bytes());
        out.extend_from_slice(&self.keys().to_le_bytes());
        for (name, key, entry) in self.iter() {
            out.push(u8::try_from(name.len()).expect("checked before it was applied"));
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&u16::try_from(key.len()).expect("checked likewise").to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(&u32::try_from(entry.value.len()).expect("likewise").to_le_bytes());
            out.extend_from_slice(&entry.value);
            out.extend_from_slice(&entry.version.to_le_bytes());
            out.extend_from_slice(&entry.deadline_ms.unwrap_or(0).to_le_bytes());
        }
        out
    }

    /// The state that a snapshot holds.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut reader = Reader { rest: bytes, index: 0 };
        if reader.take(MAGIC.len(), "the header").map_err(|_| SnapshotError::Magic)? != MAGIC {
            return Err(SnapshotError::Magic);
        }
        let found = u16::from_le_bytes(reader.array("the header")?);
        if found != FORMAT {
            return Err(SnapshotError::Format { found });
        }
        let mut state = Self::new();
        state.clock_ms = reader.u64("the header")?;
        state.last_version = reader.u64("the header")?;
        let keys = reader.u64("the header")?;
        let mut before: Option<(&str, &[u8])> = None;
        for index in 0..keys {
            reader.index = index;
            let (name, key, entry) = reader.entry()?;
            let ordered = before.is_none_or(|before| before < (name, key));
            if !ordered || entry.version == 0 || entry.version > state.last_version {
                return Err(SnapshotError::Invalid { index });
            }
            state.put(name, key, entry);
            before = Some((name, key));
        }
        if reader.rest.is_empty() {
            Ok(state)
        } else {
            Err(SnapshotError::Trailing { count: reader.rest.len() })
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Of the key that is being read.
    index: u64,
}

impl<'a> Reader<'a> {
    fn entry(&mut self) -> Result<(&'a str, &'a [u8], Entry), SnapshotError> {
        let [length] = self.array("a keyspace's name")?;
        let name = self.bounded(usize::from(length), KEYSPACE_BYTES_MAX, "keyspace")?;
        let name = std::str::from_utf8(name).map_err(|_| SnapshotError::Invalid { index: self.index })?;
        let length = u16::from_le_bytes(self.array("a key")?);
        let key = self.bounded(usize::from(length), KEY_BYTES_MAX, "key")?;
        let length = u32::from_le_bytes(self.array("a value")?);
        let value = self.bounded(usize::try_from(length).unwrap_or(usize::MAX), VALUE_BYTES_MAX, "value")?;
        let version = self.u64("a version")?;
        let deadline_ms = Some(self.u64("a deadline")?).filter(|deadline| *deadline > 0);
        Ok((name, key, Entry { value: Bytes::copy_from_slice(value), version, deadline_ms }))
    }

    fn bounded(&mut self, length: usize, max: usize, part: &'static str) -> Result<&'a [u8], SnapshotError> {
        if length > max {
            return Err(SnapshotError::TooLong { index: self.index, part, length });
        }
        self.take(length, part)
    }

    fn u64(&mut self, part: &'static str) -> Result<u64, SnapshotError> {
        Ok(u64::from_le_bytes(self.array(part)?))
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], SnapshotError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(SnapshotError::Short { part })?;
        self.rest = rest;
        Ok(*head)
    }

    fn take(&mut self, length: usize, part: &'static str) -> Result<&'a [u8], SnapshotError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(SnapshotError::Short { part })?;
        self.rest = rest;
        Ok(head)
    }
}
