//! The log's keys, and the cutting of entries into values that sled keeps in its log.

use proto::ids::GroupId;

/// sled writes values above a quarter of a segment elsewhere, and never syncs them.
const CHUNK_BYTES: usize = 3_500;
/// An entry is at most a batch: one value of the largest size and its envelope.
const ENTRY_BYTES_MAX: usize = 8 << 20;

const VOTE: u8 = 1;
const COMMITTED: u8 = 2;
const PURGED: u8 = 3;
const ENTRY: u8 = 4;

/// Makes one group's keys.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    group: [u8; 2],
}

impl Keys {
    pub fn of(group: GroupId) -> Self {
        Self { group: group.0.to_be_bytes() }
    }

    pub fn vote(&self) -> Vec<u8> {
        self.head(VOTE)
    }

    pub fn committed(&self) -> Vec<u8> {
        self.head(COMMITTED)
    }

    pub fn purged(&self) -> Vec<u8> {
        self.head(PURGED)
    }

    /// Before the first chunk of the entry.
    pub fn entry(&self, index: u64) -> Vec<u8> {
        let mut key = self.head(ENTRY);
        key.extend_from_slice(&index.to_be_bytes());
        key
    }

    pub fn chunk(&self, index: u64, chunk: u16) -> Vec<u8> {
        let mut key = self.entry(index);
        key.extend_from_slice(&chunk.to_be_bytes());
        key
    }

    fn head(&self, kind: u8) -> Vec<u8> {
        vec![self.group[0], self.group[1], kind]
    }
}

/// The index in the key of an entry's chunk.
pub fn index_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.get(3..)?.first_chunk()?))
}

/// The values of an entry, numbered. The first carries the length of the whole.
pub fn chunks(encoded: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    let length = u32::try_from(encoded.len()).expect("a batch is bounded far below 4 GiB");
    let whole = [&length.to_be_bytes()[..], encoded].concat();
    let count = whole.len().div_ceil(CHUNK_BYTES);
    (0..count).map(move |chunk| {
        let end = whole.len().min((chunk + 1) * CHUNK_BYTES);
        let number = u16::try_from(chunk).expect("65,536 chunks are 229 MB");
        (number, whole[chunk * CHUNK_BYTES..end].to_vec())
    })
}

/// Puts chunks together again.
#[derive(Debug, Default)]
pub struct Assembly {
    bytes: Vec<u8>,
    length: usize,
    next: u16,
}

impl Assembly {
    pub fn is_unfinished(&self) -> bool {
        self.next > 0
    }

    /// The next value in key order; the entry's encoding when it was its last.
    ///
    /// # Errors
    /// When it does not fit what came before.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let number = key.last_chunk().map(|bytes| u16::from_be_bytes(*bytes)).ok_or("a key is too short")?;
        if number != self.next {
            return Err(format!("chunk {} is missing", self.next));
        }
        let body = if number == 0 {
            let (length, body) = value.split_first_chunk().ok_or("a first chunk is too short")?;
            self.length = u32::from_be_bytes(*length) as usize;
            if self.length > ENTRY_BYTES_MAX {
                return Err(format!("an entry of {} bytes", self.length));
            }
            body
        } else if value.is_empty() {
            return Err("a chunk of nothing".to_owned());
        } else {
            value
        };
        self.bytes.extend_from_slice(body);
        self.next += 1;
        if self.bytes.len() < self.length {
            return Ok(None);
        }
        if self.bytes.len() > self.length {
            return Err("an entry is longer than it says".to_owned());
        }
        self.next = 0;
        Ok(Some(std::mem::take(&mut self.bytes)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_of_any_length_is_put_together_again(length in 0usize..12_000) {
            let encoded: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let keys = Keys::of(GroupId(3));
            let mut assembly = Assembly::default();
            let mut whole = None;
            for (number, value) in chunks(&encoded) {
                prop_assert!(whole.is_none());
                prop_assert!(value.len() <= CHUNK_BYTES);
                whole = assembly.push(&keys.chunk(9, number), &value).unwrap();
            }
            prop_assert_eq!(whole, Some(encoded));
        }

        #[test]
        fn no_bytes_make_it_panic(values in proptest::collection::vec(
            (0u16..4, proptest::collection::vec(any::<u8>(), 0..20)), 0..8,
        )) {
            let keys = Keys::of(GroupId(3));
            let mut assembly = Assembly::default();
            for (number, value) in values {
                if assembly.push(&keys.chunk(1, number), &value).is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_missing_chunk_is_told() {
        let keys = Keys::of(GroupId(3));
        let parts: Vec<_> = chunks(&vec![7; 9_000]).collect();
        let mut assembly = Assembly::default();
        assert_eq!(assembly.push(&keys.chunk(1, parts[0].0), &parts[0].1), Ok(None));
        assert!(assembly.push(&keys.chunk(1, parts[2].0), &parts[2].1).is_err());
    }
}
