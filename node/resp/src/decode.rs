//! Requests out of bytes, without I/O and within bounds.
//!
//! A request is an array of bulk strings, or a line of words for people with telnet. The decoder holds
//! at most one request under way, of at most [`Bounds::request_bytes_max`]. One that is too large is not
//! an attack but a mistake: its bytes are skipped as they come, none is kept, and the client gets an
//! error that says so on a connection that goes on. What is no protocol at all ends the connection.

use bytes::{Buf as _, Bytes, BytesMut};
use proto::limits::VALUE_BYTES_MAX;

mod inline;

/// What a connection may send.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Arguments of one request. Redis takes a million, which nobody sends.
    pub args_max: usize,
    /// One argument; a longer one is skipped.
    pub bulk_bytes_max: usize,
    /// All arguments of one request; a larger request is skipped.
    pub request_bytes_max: usize,
    /// What is skipped rather than taken for garbage: Redis's own bound of a bulk string.
    pub skip_bytes_max: usize,
}

impl Bounds {
    /// For clients that may use the store: eight of the largest values in one MSET.
    pub const AUTHENTICATED: Self = Self {
        args_max: 65_536,
        bulk_bytes_max: VALUE_BYTES_MAX,
        request_bytes_max: 8 * VALUE_BYTES_MAX,
        skip_bytes_max: 512 << 20,
    };
    /// For strangers: Redis's own numbers. AUTH and HELLO fit.
    pub const STRANGER: Self =
        Self { args_max: 10, bulk_bytes_max: 16_384, request_bytes_max: 10 * 16_384, skip_bytes_max: 16_384 };
}

/// A line of words may be as long as in Redis.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// `*` or `$`, a number and a line end. A longer line is no number.
const HEADER_BYTES_MAX: usize = 32;

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// The command's name and its arguments; never empty.
    Request(Vec<Bytes>),
    /// A request that broke a bound and was skipped.
    TooLarge,
}

/// Why the bytes are no request. The connection can not go on: nobody knows where the next begins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("ERR Protocol error: too big inline request")]
    InlineTooLong,
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("ERR Protocol error: invalid multibulk length")]
    ArrayLength,
    #[error("ERR Protocol error: expected '$', got '{found}'")]
    NoBulk { found: char },
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    #[error("ERR Protocol error: a bulk string does not end where it said")]
    BulkEnd,
    /// A browser was talked into speaking to this port (CVE-2016-5841 and its like).
    #[error("ERR Protocol error: this is not an HTTP server")]
    Http,
}

/// Reads requests from a growing buffer.
#[derive(Debug)]
pub struct Decoder {
    bounds: Bounds,
    /// The array under way.
    array: Option<Array>,
}

#[derive(Debug)]
struct Array {
    /// Arguments that are still to come, the one under way included.
    remaining: usize,
    args: Vec<Bytes>,
    bytes: usize,
    too_large: bool,
    /// Of the argument under way, once its length is known.
    bulk: Option<Bulk>,
}

#[derive(Debug, Clone, Copy)]
enum Bulk {
    Keep {
        length: usize,
    },
    /// Bytes to throw away, the line end included.
    Skip {
        left: usize,
    },
}

impl Decoder {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, array: None }
    }

    /// Other bounds from the next request on.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Whether the bytes so far end within a request.
    pub fn is_within(&self, buffer: &BytesMut) -> bool {
        self.array.is_some() || !buffer.is_empty()
    }

    /// The next request, when all of it is there; takes its bytes from the buffer.
    ///
    /// # Errors
    /// When the bytes are no request.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Decoded>, ProtocolError> {
        loop {
            if self.array.is_none() {
                match buffer.first() {
                    None => return Ok(None),
                    Some(b'*') => match self.begin(buffer)? {
                        None => return Ok(None),
                        Some(array) if array.remaining == 0 => continue,
                        Some(array) => self.array = Some(array),
                    },
                    Some(_) => match inline::next(buffer, INLINE_BYTES_MAX)? {
                        None => return Ok(None),
                        Some(args) if args.is_empty() => continue,
                        Some(args) => return Ok(Some(Decoded::Request(args))),
                    },
                }
            }
            return self.go_on(buffer);
        }
    }

    fn begin(&self, buffer: &mut BytesMut) -> Result<Option<Array>, ProtocolError> {
        let Some(count) = header(buffer, ProtocolError::ArrayLength)? else {
            return Ok(None);
        };
        // Redis takes a null array for an empty one, and answers neither.
        let remaining = usize::try_from(count).unwrap_or(0);
        if remaining > self.bounds.args_max {
            return Err(ProtocolError::ArrayLength);
        }
        // Grown as the arguments come: a count alone must not allocate.
        Ok(Some(Array { remaining, args: Vec::new(), bytes: 0, too_large: false, bulk: None }))
    }

    /// Reads on in the array under way.
    fn go_on(&mut self, buffer: &mut BytesMut) -> Result<Option<Decoded>, ProtocolError> {
        while let Some(array) = &mut self.array {
            let bulk = match array.bulk {
                Some(bulk) => bulk,
                None => match next_bulk(array, buffer, &self.bounds)? {
                    None => return Ok(None),
                    Some(bulk) => bulk,
                },
            };
            if !array.take(bulk, buffer)? {
                return Ok(None);
            }
            if array.remaining == 0 {
                let decoded = array.finish();
                self.array = None;
                return Ok(Some(decoded));
            }
        }
        Ok(None)
    }
}

impl Array {
    /// Takes what is there of an argument; false when more has to come.
    fn take(&mut self, bulk: Bulk, buffer: &mut BytesMut) -> Result<bool, ProtocolError> {
        match bulk {
            Bulk::Keep { length } => {
                if buffer.len() < length + 2 {
                    self.bulk = Some(bulk);
                    return Ok(false);
                }
                let bytes = buffer.split_to(length).freeze();
                if &buffer[..2] != b"\r\n" {
                    return Err(ProtocolError::BulkEnd);
                }
                buffer.advance(2);
                self.args.push(bytes);
            }
            Bulk::Skip { left } => {
                let here = left.min(buffer.len());
                buffer.advance(here);
                if here < left {
                    self.bulk = Some(Bulk::Skip { left: left - here });
                    return Ok(false);
                }
            }
        }
        self.bulk = None;
        self.remaining -= 1;
        Ok(true)
    }

    fn finish(&mut self) -> Decoded {
        if self.too_large { Decoded::TooLarge } else { Decoded::Request(std::mem::take(&mut self.args)) }
    }
}

/// Reads an argument's length and decides what becomes of it.
fn next_bulk(
    array: &mut Array,
    buffer: &mut BytesMut,
    bounds: &Bounds,
) -> Result<Option<Bulk>, ProtocolError> {
    match buffer.first() {
        None => return Ok(None),
        Some(b'$') => {}
        Some(other) => return Err(ProtocolError::NoBulk { found: char::from(*other) }),
    }
    let Some(length) = header(buffer, ProtocolError::BulkLength)? else {
        return Ok(None);
    };
    let length = usize::try_from(length).map_err(|_| ProtocolError::BulkLength)?;
    if length > bounds.bulk_bytes_max.max(bounds.skip_bytes_max) {
        return Err(ProtocolError::BulkLength);
    }
    array.bytes += length;
    if length > bounds.bulk_bytes_max || array.bytes > bounds.request_bytes_max {
        array.too_large = true;
        array.args = Vec::new();
    }
    Ok(Some(if array.too_large { Bulk::Skip { left: length + 2 } } else { Bulk::Keep { length } }))
}

/// The number after the first byte, when its line is complete.
fn header(buffer: &mut BytesMut, wrong: ProtocolError) -> Result<Option<i64>, ProtocolError> {
    let seen = &buffer[..buffer.len().min(HEADER_BYTES_MAX)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        return if seen.len() == HEADER_BYTES_MAX { Err(wrong) } else { Ok(None) };
    };
    let line = seen[1..end].strip_suffix(b"\r");
    let number = line.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let number = number.ok_or(wrong)?;
    buffer.advance(end + 1);
    Ok(Some(number))
}

#[cfg(test)]
mod tests;
