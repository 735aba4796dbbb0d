//! Everything that happens, in order.

use std::fmt;
use std::io::{self, Write};

/// FNV-1a, whose constants are its definition: a hash that is the same in every build for ever.
pub const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// Goes on with a hash that began with [`OFFSET_BASIS`].
pub fn hashed(hash: u64, bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Takes every line, keeps the hash of all, and writes them down where somebody wants to read them.
pub struct Trace<'a> {
    hash: u64,
    events: u64,
    out: Option<&'a mut dyn Write>,
    failed: Option<io::Error>,
}

impl<'a> Trace<'a> {
    pub fn new(out: Option<&'a mut dyn Write>) -> Self {
        Self { hash: OFFSET_BASIS, events: 0, out, failed: None }
    }

    /// Notes one event.
    pub fn note(&mut self, at_ms: u64, what: fmt::Arguments<'_>) {
        let line = format!("{at_ms} {what}\n");
        self.hash = hashed(self.hash, line.bytes());
        self.events += 1;
        if let Some(out) = &mut self.out
            && let Err(error) = out.write_all(line.as_bytes())
        {
            self.failed.get_or_insert(error);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// # Errors
    /// When a line could not be written.
    pub fn finish(self) -> io::Result<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_the_order_of_lines_make_the_hash() {
        let hash = |lines: &[(u64, &str)]| {
            let mut trace = Trace::new(None);
            for (at_ms, what) in lines {
                trace.note(*at_ms, format_args!("{what}"));
            }
            (trace.hash(), trace.events())
        };
        assert_eq!(hash(&[(1, "a"), (2, "b")]), hash(&[(1, "a"), (2, "b")]));
        assert_ne!(hash(&[(1, "a"), (2, "b")]), hash(&[(2, "b"), (1, "a")]));
        // "1 a\n" by the definition in draft-eastlake-fnv.
        let by_hand = b"1 a\n".iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(hash(&[(1, "a")]), (by_hand, 1));
    }

    #[test]
    fn what_is_wanted_is_written() {
        let mut out = Vec::new();
        let mut trace = Trace::new(Some(&mut out));
        trace.note(7, format_args!("a node starts"));
        trace.finish().unwrap();
        assert_eq!(out, b"7 a node starts\n");
    }
}
