//! HTTP/1.1 without I/O: heads, framing and bodies (RFC 9112).
//!
//! Strict where leniency has let requests be smuggled: what two parsers could understand differently
//! is refused, and what is sent on is framed anew.

pub mod body;
pub mod fields;
pub mod head;
pub mod rewrite;

pub use body::{BodyDecoder, Decoded};
pub use fields::{Headers, Meaning};
pub use head::{Framing, HeadError, RequestHead, ResponseHead};

/// Bytes of a head, and so of what is buffered before one is understood.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Headers of one head.
pub const HEADERS_MAX: usize = 128;
